"""Methods by which several layers use one set of weights."""
