"""What a model is worth: scores with their intervals, sizes, MACs, latency, memory."""
