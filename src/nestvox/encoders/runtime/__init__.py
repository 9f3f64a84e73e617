"""The same networks arranged for inference: folded, fused, or as graphs for ONNX Runtime."""
