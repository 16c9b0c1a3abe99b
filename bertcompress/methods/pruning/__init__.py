"""Methods that remove parts of the architecture."""
