"""Bytes to a device and back."""

from __future__ import annotations

from typing import Any

import numpy as np


def round_trip(cuda: Any) -> tuple[np.ndarray, float]:
    """Bytes to the device and back into other pinned memory, timed."""
    n = 1 << 16
    stream, start, end = cuda.create_stream(), cuda.create_event(), cuda.create_event()
    device = cuda.malloc(n)
    (there, source), (back, target) = cuda.malloc_pinned(n), cuda.malloc_pinned(n)
    source[:] = np.arange(n, dtype=np.uint64).astype(np.uint8)
    target[:] = 0
    cuda.record(start, stream)
    cuda.to_device(device, source, n, stream)
    cuda.to_host(target, device, n, stream)
    cuda.record(end, stream)
    cuda.synchronize_stream(stream)
    result, ms = target.copy(), cuda.elapsed_ms(start, end)
    cuda.free_pinned(there)
    cuda.free_pinned(back)
    cuda.free(device)
    for event in (start, end):
        cuda.destroy_event(event)
    cuda.destroy_stream(stream)
    return result, ms
