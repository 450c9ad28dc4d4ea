"""The version, apart from the Python API that stands above everything that asks for it."""

__version__ = "0.1.0"
