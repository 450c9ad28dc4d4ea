"""Post-training quantization: candidates, equalization, reconstruction, rounding."""
