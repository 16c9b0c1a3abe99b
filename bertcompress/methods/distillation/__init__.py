"""Methods that train a smaller model on a larger one's answers."""
