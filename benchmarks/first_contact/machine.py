"""Questions of the machine: its GPU, clocks, and which TensorRT is here."""

from __future__ import annotations

import subprocess

from benchmarks.first_contact.answer import Answer, Work
from edgecnn.errors import EdgecnnError


def machine(work: Work, answer: Answer) -> None:
    """Nothing of NVIDIA's is loaded."""
    import platform

    from edgecnn.artifact.sidecar import tool_versions
    from edgecnn.inspection.machine import PACKAGES
    from edgecnn.machine.cpu import available_cores, cpu_name
    from edgecnn.machine.gpu import driver_description, driver_version
    from edgecnn.machine.jetson import board_name
    from edgecnn.machine.power import power_mode
    from tests.fakes.device_flow import find_trtexec

    answer.put("system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}")
    answer.put("cpu", f"{cpu_name()}, {available_cores()} cores")
    answer.put("driver", {"version": driver_version(), "in_words": driver_description()})
    answer.put("board", {"name": board_name(), "power_mode": power_mode()})
    answer.put("packages", tool_versions(*PACKAGES))
    answer.put("trtexec", find_trtexec() is not None)


def gpu(work: Work, answer: Answer) -> str | None:
    """Through the seam that runs engines."""
    from edgecnn.backends._cuda import load_cuda

    answer.put("now", "cuda")
    try:
        cuda = load_cuda()
    except EdgecnnError as exc:
        return exc.reason
    found = cuda.properties()
    answer.put("properties", {k: v for k, v in vars(found).items() if k != "pci_bus_id"})
    answer.put("by", f"{cuda.name} {cuda.note}".strip())
    answer.ask("free_and_total_bytes", cuda.memory_info)
    query = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,persistence_mode,mig.mode.current"
    answer.ask("nvidia_smi", _said_by, "nvidia-smi", f"--query-gpu={query}", "--format=csv")
    return None


def kernel(work: Work, answer: Answer) -> None:
    """The one that `edgecnn doctor` launches."""
    from edgecnn.backends._cuda import load_cuda
    from edgecnn.backends._kernel import launch_one_kernel

    def ran() -> bool:
        launch_one_kernel(load_cuda())
        return True

    answer.ask("ran", ran)


def clocks(work: Work, answer: Answer) -> None:
    """NVML's answers for a card, the files of a Jetson, and what `bench --strict` would refuse."""
    from edgecnn.backends._cuda import load_cuda
    from edgecnn.machine.clocks import find_obstacles, read_clocks
    from edgecnn.machine.gpu import open_nvml
    from edgecnn.records import to_plain

    nvml = open_nvml(load_cuda().properties().pci_bus_id)
    answer.put("nvml", nvml is not None)
    now = answer.ask("readings", lambda: [to_plain(read_clocks(nvml=nvml)) for _ in range(3)])
    if now:
        answer.ask("obstacles", lambda: find_obstacles(read_clocks(nvml=nvml)))


def cuda_graphs(work: Work, answer: Answer) -> str | None:
    """Two copies as one graph, replayed; and whether a stream is usable after a capture that fails."""
    from edgecnn.backends._cuda import load_cuda
    from edgecnn.backends.trt.graph import recorded_graph

    cuda = load_cuda()
    if not cuda.captures:
        return f"{cuda.name} cannot record them"
    n, stream = 4096, cuda.create_stream()
    device = cuda.malloc(n)
    (_, source), (_, target) = cuda.malloc_pinned(n), cuda.malloc_pinned(n)

    def copies() -> bool:
        cuda.to_device(device, source, n, stream)
        cuda.to_host(target, device, n, stream)
        return True

    def replayed() -> bool:
        graph, why = recorded_graph(cuda, stream, copies)
        if graph is None:
            raise EdgecnnError(f"not recorded: {why}", "the words are CUDA's")
        for value in (1, 2, 3):
            source[:] = value
            cuda.launch_graph(graph, stream)
            cuda.synchronize_stream(stream)
            if set(target) != {value}:
                raise EdgecnnError(f"a replay copied {set(target)}, not {value}", "report it")
        cuda.destroy_graph(graph)
        return True

    answer.ask("replayed", replayed)
    answer.ask("failed_capture", lambda: recorded_graph(cuda, stream, lambda: False)[1])
    answer.ask("replayed_after_it", replayed)
    return None


def tensorrt(work: Work, answer: Answer) -> str | None:
    """The enterprise one: its version, and the library with its builder's kernels for this GPU."""
    from edgecnn.backends import load_backend
    from edgecnn.backends._cuda import load_cuda
    from edgecnn.backends.trt.library import builder_resource

    try:
        answer.put("version", load_backend("trt").tools()["tensorrt"])
    except EdgecnnError as exc:
        return exc.reason
    answer.ask("builder_resource", builder_resource, load_cuda().properties().compute_capability)
    answer.ask("why_not", load_backend("trt").why_not)
    return None


def tensorrt_rtx(work: Work, answer: Answer) -> str | None:
    """Its version, and whether its plans run here."""
    from edgecnn.backends import load_backend

    try:
        answer.put("version", load_backend("trt-rtx").tools()["tensorrt_rtx"])
    except EdgecnnError as exc:
        return exc.reason
    answer.ask("why_not", load_backend("trt-rtx").why_not)
    return None


def _said_by(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        return f"{command[0]} is not here"
    return (done.stdout + done.stderr).strip()
