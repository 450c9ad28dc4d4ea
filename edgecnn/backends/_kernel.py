"""One real kernel: a driver that answers, and a GPU that is listed, may still run nothing."""

from __future__ import annotations

from edgecnn.backends._cuda import Cuda
from edgecnn.errors import DeviceError

NAME, ANSWER = "answer", 42
# PTX is compiled by the driver for the GPU that is there, Turing and later
SOURCE = f"""
.version 6.3
.target sm_75
.address_size 64
.visible .entry {NAME}(.param .u64 place)
{{
    .reg .u32 %r<2>;
    .reg .u64 %rd<3>;
    ld.param.u64 %rd1, [place];
    cvta.to.global.u64 %rd2, %rd1;
    mov.u32 %r1, {ANSWER};
    st.global.u32 [%rd2], %r1;
    ret;
}}
"""


def launch_one_kernel(cuda: Cuda) -> None:
    """Run a kernel that writes a number, and read that; raises `DeviceError` where it does not run or writes
    another."""
    stream, device = cuda.create_stream(), cuda.malloc(4)
    host, view = cuda.malloc_pinned(4)
    try:
        view[:] = 0
        cuda.to_device(device, view, 4, stream)
        cuda.launch(SOURCE.encode(), NAME, device, stream)
        cuda.to_host(view, device, 4, stream)
        cuda.synchronize_stream(stream)
        found = int.from_bytes(view.tobytes(), "little")
    finally:
        cuda.free_pinned(host)
        cuda.free(device)
        cuda.destroy_stream(stream)
    if found != ANSWER:
        raise DeviceError(
            f"the GPU did not run a kernel: it was to write {ANSWER}, and {found} was read",
            "look at dmesg and nvidia-smi: driver and GPU do not work together",
        )
