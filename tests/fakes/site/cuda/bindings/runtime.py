"""Stands where NVIDIA's bindings would."""

import sys

from tests.fakes.on_disk import cuda_runtime

sys.modules[__name__] = cuda_runtime()
