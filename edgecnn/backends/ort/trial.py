"""Whether a provider works here: one node, run by it."""

from __future__ import annotations

import numpy as np

from edgecnn.backends._onnxruntime import load_onnxruntime, onnxruntime_errors, open_session
from edgecnn.backends.ort.opening import open_gpu_session
from edgecnn.backends.ort.provider import CPU, Provider
from edgecnn.errors import DeviceError

# y = Relu(x), four float32 numbers; opset 17
ONE_NODE = (
    b'\x08\x08:3\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x04'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x04B\x04\n\x00\x10\x11"
)


def run_one_node(provider: Provider) -> None:
    """Run one node by a provider; raises the errors of opening a session on it, `DeviceError` for a wrong result."""
    load_onnxruntime()
    numbers = np.array([-1, 0, 1, 2], np.float32)
    if provider is CPU:
        with onnxruntime_errors("one node", "failed", "install ONNX Runtime again"):
            (found,) = open_session(ONE_NODE).run(None, {"x": numbers})
    else:
        from edgecnn.backends._cuda import load_cuda
        from edgecnn.backends.ort.opening import load_provider

        load_provider(provider)
        cuda = load_cuda()
        stream = cuda.create_stream()
        try:
            session = open_gpu_session(provider, ONE_NODE, cuda.handle(stream), cuda.properties(), {}, exact=False)
            with onnxruntime_errors("one node", "failed", "`edgecnn doctor` shows what is here", DeviceError):
                (found,) = session.run(None, {"x": numbers})
            del session
        finally:
            cuda.destroy_stream(stream)
    if not np.array_equal(found, np.maximum(numbers, 0)):
        raise DeviceError(f"one node: {provider.name} computes Relu wrongly", "its kernels are not of this GPU")
