"""What several methods are built from, each piece usable alone."""
