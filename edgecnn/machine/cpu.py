"""The processor: what it is, its clock, its instructions, and the cores that this process may use."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path, PurePosixPath

from edgecnn.machine._files import ROOT, number_of, text_of
from edgecnn.results.device import Device

VNNI_X86 = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}  # by the names of other systems
DOT_PRODUCT_ARM = frozenset({"asimddp", "i8mm"})


def cpu_name(root: Path = ROOT) -> str:
    """The processor's model name as Linux tells it, else its architecture."""
    lines = text_of(root / "proc/cpuinfo").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.machine()


def system_name() -> str:
    """Operating system and architecture, for which native code is ("Linux x86_64", "Linux aarch64")."""
    architecture = platform.machine().lower()
    return f"{platform.system()} {ARCHITECTURES.get(architecture, architecture)}"


def cpu_id(root: Path = ROOT) -> str:
    """Family, model and stepping of the first processor ("6-85-7"), on Arm its implementer, part and revision; "" where
    Linux does not tell them all. Virtual machines give many processors one name."""
    first = text_of(root / "proc/cpuinfo").split("\n\n")[0].lower()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    for keys in (("cpu family", "model", "stepping"), ("cpu implementer", "cpu part", "cpu revision")):
        if all(facts.get(key) for key in keys):
            return "-".join(facts[key] for key in keys)
    return ""


def cpu_device(threads: int | None = None) -> Device:
    """This processor with so many threads (None: all cores of the process), as it stands in a sidecar."""
    return Device(cpu=cpu_name(), cpu_id=cpu_id(), threads=threads or available_cores())


def cpu_mhz(root: Path = ROOT) -> float | None:
    """The clock, the mean over the cores: by cpufreq, or by /proc/cpuinfo where that is hidden, as in most virtual
    machines."""
    cores = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    values = [v / 1000 for p in cores if (v := number_of(p)) is not None]
    if not values:
        values = [float(v) for v in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", text_of(root / "proc/cpuinfo"), re.M)]
    return round(sum(values) / len(values), 1) if values else None


def cpu_governor(root: Path = ROOT) -> str:
    """What sets the clock of the first core ("schedutil", "performance"), or ""."""
    return text_of(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def cpu_clock_locked(root: Path = ROOT) -> bool | None:
    """Whether the lowest allowed clock of every core is its highest; None where cpufreq is hidden."""
    folders = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    bounds = [(number_of(f / "scaling_min_freq"), number_of(f / "scaling_max_freq")) for f in folders]
    known = [pair for pair in bounds if None not in pair]
    return all(low == high for low, high in known) if known else None


def available_cores(root: Path = ROOT) -> int:
    """Cores that this process may use: those of its affinity, at most the whole ones of its quota; at least one."""
    cores, quota = len(os.sched_getaffinity(0)), cpu_quota(root)
    return cores if quota is None else max(1, min(cores, int(quota)))


def cpu_quota(root: Path = ROOT) -> float | None:
    """How many cores' time the control groups of this process allow it (version 2: cpu.max; 1: cpu.cfs_quota_us), or
    None.

    Each group from its own up to that which is mounted can limit it. In a container its own may be mounted as the root
    while /proc tells its path on the host.
    """
    found = []
    for line in text_of(root / "proc/self/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = PurePosixPath(path.lstrip("/")) if ".." not in path else PurePosixPath()
        for mount in ("cpu", controllers) if controllers else ("", "unified"):
            found += [_quota_of(root / "sys/fs/cgroup" / mount / part) for part in (group, *group.parents)]
    return min((quota for quota in found if quota is not None), default=None)


def _quota_of(group: Path) -> float | None:
    quota, _, period = text_of(group / "cpu.max").partition(" ")
    if not quota:
        quota, period = (text_of(group / f"cpu.cfs_{what}_us") for what in ("quota", "period"))
    known = quota.isdecimal() and period.isdecimal() and int(period) > 0  # "max", or -1: none
    return int(quota) / int(period) if known else None


def int8_guard(cpuinfo: str | None = None, machine: str = "") -> str | None:
    """What this CPU's instructions do to INT8 figures of ONNX Runtime, or None when they are sound.

    `cpuinfo` is the text of /proc/cpuinfo (read here when None), `machine` as `platform.machine()`. Without VNNI,
    x86 multiplies uint8 by int8 with saturating 16-bit sums (ONNX Runtime, "Quantize ONNX models"), which our sessions
    avoid (`session.x64quantprecision`) but for a graph with a QGemm of its own.
    """
    machine = (machine or platform.machine()).lower()
    if cpuinfo is None:
        cpuinfo = text_of(ROOT / "proc/cpuinfo")
        if not cpuinfo:
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
            "this CPU has no VNNI instructions: ONNX Runtime's INT8 takes kernels here that do not saturate, and its "
            "latency reads higher than on a CPU with them"
        )
    if machine in ("aarch64", "arm64"):
        if words & DOT_PRODUCT_ARM:
            return None
        return "this CPU has no INT8 dot-product instructions: INT8 is right but not fast here"
    return f"INT8 on {machine} is not known to this project: compare its accuracy with another CPU's"
