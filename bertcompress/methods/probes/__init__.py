"""Methods that measure and leave the model as it is."""
