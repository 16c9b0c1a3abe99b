"""Methods that store and compute in fewer bits."""
