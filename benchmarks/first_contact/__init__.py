"""Every open question of docs/tensorrt.md, asked of a machine with an NVIDIA GPU."""
