"""Methods that make matrices and tables thinner or shorter, and leave the layers as they are."""
