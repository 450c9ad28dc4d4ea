"""Stands where NVIDIA's bindings would."""

import sys

from tests.fakes.on_disk import cuda_driver

sys.modules[__name__] = cuda_driver()
