"""What pruning methods are built from: masks, importance, least squares, a budget."""
