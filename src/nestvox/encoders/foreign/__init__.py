"""Networks of other toolkits: ONNX files, functions, and their Python packages."""
