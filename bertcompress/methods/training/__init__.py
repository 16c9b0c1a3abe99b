"""Methods that train a model as it is."""
