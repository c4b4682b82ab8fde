"""Write exports of trained models: INT8, StableHLO, ONNX and safetensors, each with a report."""
