"""The processor: its name and the cores that this process may use."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from edgecnn.results.device import Device

VNNI_X86 = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})
DOT_PRODUCT_ARM = frozenset({"asimddp", "i8mm"})


def cpu_name() -> str:
    """The processor's model name as Linux tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.machine()


def cpu_device(threads: int | None = None) -> Device:
    """This processor with so many threads (None: all cores of the process), as it stands in a sidecar."""
    return Device(cpu=cpu_name(), threads=threads or available_cores())


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def int8_guard(cpuinfo: str | None = None, machine: str = "") -> str | None:
    """What this CPU's instructions do to INT8 figures of ONNX Runtime, or None when they are sound.

    `cpuinfo` is the text of /proc/cpuinfo (read here when None), `machine` as `platform.machine()`. Without VNNI,
    x86 multiplies uint8 by int8 with saturating 16-bit sums (ONNX Runtime, "Quantize ONNX models").
    """
    machine = (machine or platform.machine()).lower()
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "which INT8 instructions this CPU has could not be read: its INT8 accuracy may be several points low"
    words = {
        word
        for line in cpuinfo.splitlines()
        if line.partition(":")[0].strip().lower() in ("flags", "features")
        for word in line.partition(":")[2].split()
    }
    if machine in ("x86_64", "amd64", "i686", "i386"):
        if words & VNNI_X86:
            return None
        return (
            "this CPU has no VNNI instructions: ONNX Runtime's INT8 sums saturate here, and INT8 accuracy reads "
            "several points lower than on a CPU with them or on the target"
        )
    if machine in ("aarch64", "arm64"):
        if words & DOT_PRODUCT_ARM:
            return None
        return "this CPU has no INT8 dot-product instructions: INT8 is right but not fast here"
    return f"INT8 on {machine} is not known to this project: compare its accuracy with another CPU's"
