"""Methods that leave weights at exactly zero, and the shape as it is."""
