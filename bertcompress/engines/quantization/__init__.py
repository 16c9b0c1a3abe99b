"""What quantisers are built from: rounding, curvature, sensitivity, the accuracy gate."""
