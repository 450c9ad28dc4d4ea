"""Everything that needs PyTorch: the models, their training, their export."""
