"""What CUDA graphs and channels-last convolutions would give ONNX Runtime's CUDA provider; needs a GPU.

    python -m benchmarks.ort_cuda_options X.fp16.onnx ... [--batch 1 8]

Median compute time by CUDA's events, after 30 runs, of a bound input and output; TF32 is off, and Q/DQ pairs stay as
they are. SQNR is of the logits against the same graph as edgecnn runs it on the CPU. Gaussian images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.backends import open_engine
from edgecnn.backends._cuda import load_cuda
from edgecnn.backends.ort.opening import load_provider, native_stderr
from edgecnn.backends.ort.provider import CUDA

WAYS: Mapping[str, Mapping[str, str]] = {
    "as it is": {},
    "channels last": {"prefer_nhwc": "1"},
    "CUDA graph": {"enable_cuda_graph": "1"},
    "both": {"prefer_nhwc": "1", "enable_cuda_graph": "1"},
    "both, bias fused": {"prefer_nhwc": "1", "enable_cuda_graph": "1", "fuse_conv_bias": "1"},
}
WARM_UP, SECONDS = 30, 0.4


def main() -> None:
    """Print one row per graph and batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", type=Path, nargs="+")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    runtime = load_provider(CUDA)
    print(f"| graph | batch | {' | '.join(f'{way}, ms' for way in WAYS)} | least SQNR, dB |")
    print(f"|---|--:|{'--:|' * len(WAYS)}--:|")
    for path in options.graphs:
        for batch in options.batch:
            with open_engine(path) as session:
                images = np.random.default_rng(0).standard_normal((batch, *session.input.shape[1:]), np.float32)
                exact = session.run(images)
            with native_stderr():  # cuDNN logs the plans that it tries in vain
                found = [_measured(runtime, path, way, images, exact.shape) for way in WAYS.values()]
            cells = [f"{ms:.3f}" for ms, _ in found]
            least = min(_sqnr_db(exact, logits) for _, logits in found)
            print(f"| {path.stem} | {batch} | {' | '.join(cells)} | {least:.1f} |", flush=True)


def _measured(
    runtime: Any, path: Path, way: Mapping[str, str], images: np.ndarray, shape: tuple[int, ...]
) -> tuple[float, np.ndarray]:
    """Median milliseconds, and the logits."""
    cuda = load_cuda()
    stream, start, end = cuda.create_stream(), cuda.create_event(), cuda.create_event()
    options = runtime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    provider = {"device_id": "0", "use_tf32": "0", "user_compute_stream": str(cuda.handle(stream)), **way}
    session = runtime.InferenceSession(str(path), options, providers=[(CUDA.name, provider)], enable_fallback=0)
    logits = runtime.OrtValue.ortvalue_from_shape_and_type(list(shape), np.float32, "cuda", 0)
    binding = session.io_binding()
    binding.bind_ortvalue_input(session.get_inputs()[0].name, runtime.OrtValue.ortvalue_from_numpy(images, "cuda", 0))
    binding.bind_ortvalue_output(session.get_outputs()[0].name, logits)
    for _ in range(WARM_UP):
        session.run_with_iobinding(binding)
    asynchronous = runtime.RunOptions()
    asynchronous.add_run_config_entry("disable_synchronize_execution_providers", "1")
    milliseconds, until = [], time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        cuda.record(start, stream)
        session.run_with_iobinding(binding, asynchronous)
        cuda.record(end, stream)
        cuda.synchronize_stream(stream)
        milliseconds.append(cuda.elapsed_ms(start, end))
    return float(np.median(milliseconds)), logits.numpy()


def _sqnr_db(exact: np.ndarray, found: np.ndarray) -> float:
    return 10 * float(np.log10((exact**2).sum() / ((found - exact) ** 2).sum()))


if __name__ == "__main__":
    main()
