"""One ONNX file of a model: export, edits of its graph, integers."""
