"""What low-rank methods are built from: calibration, singular values, gated factors."""
