"""edgecnn: classic CNN classifiers from PyTorch to verified FP16/INT8 engines."""

__version__ = "0.1.0"
