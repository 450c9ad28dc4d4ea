"""Quantization-aware training: an INT8 graph as a network that learns, and the same graph with what it learned."""
