"""Trained models in other forms: INT8, StableHLO, ONNX, safetensors; each with a report and a model card."""
