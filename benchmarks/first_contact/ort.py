"""Questions of ONNX Runtime's providers for GPUs."""

from __future__ import annotations

from benchmarks.first_contact.answer import LARGEST, PRECISIONS, Answer, Work
from benchmarks.first_contact.engines import benched, built, cosine


def _provider(name: str, work: Work, answer: Answer) -> str | None:
    """Each precision by a provider: nodes on the CPU, latency by events on our stream against the host's clock."""
    from edgecnn.backends import load_backend

    answer.put("now", "why_not")
    if why := load_backend(f"ort-{name}").why_not():
        return why
    for precision in PRECISIONS:
        graph, engine = work.graph(work.small, precision), work.engine(f"{precision}.{name}.onnx")
        if not answer.ask(precision, built, graph, engine, provider=name):
            continue
        rows = answer.ask(f"{precision}_bench", benched, engine, work.seconds, batches=(1, LARGEST))
        ratio = [r["latency_ms_p50"] * r["throughput_images_per_s"] / r["batch"] / 1000 for r in rows or ()]
        answer.put(f"{precision}_events_over_host", ratio)
        answer.ask(f"{precision}_cosine", cosine, graph, engine)
    return None


def ort_cuda(work: Work, answer: Answer) -> str | None:
    """CUDA."""
    return _provider("cuda", work, answer)


def ort_tensorrt(work: Work, answer: Answer) -> str | None:
    """TensorRT."""
    return _provider("tensorrt", work, answer)


def ort_rtx(work: Work, answer: Answer) -> str | None:
    """The plugin of TensorRT-RTX."""
    return _provider("rtx", work, answer)
