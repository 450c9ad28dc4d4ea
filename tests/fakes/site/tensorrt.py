"""Stands where TensorRT would."""

import sys

from tests.fakes.on_disk import tensorrt

sys.modules[__name__] = tensorrt()
