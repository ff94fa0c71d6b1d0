"""Networks from tables, ONNX files and PyTorch modules."""
