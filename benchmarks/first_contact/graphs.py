"""The graphs that everything is asked of."""

from __future__ import annotations

from pathlib import Path

from benchmarks.first_contact.answer import PRECISIONS, Answer, Work


def make_graphs(network: str, folder: Path) -> None:
    """FP32, FP16 and INT8 graphs of a network with seeded weights, and its ranges from noise."""
    from tests.fakes.device_flow import graphs_of

    folder.mkdir(parents=True, exist_ok=True)
    graphs_of(network, folder, images=16)


def _graphs(network: str, work: Work, answer: Answer) -> str | None:
    wanted = [work.graph(network, p) for p in PRECISIONS] + [work.graphs / f"{network}.calib.json"]
    if missing := [path.name for path in wanted if not path.exists()]:
        if work.graphs.parent != work.folder:
            return f"{', '.join(missing)}: not in the folder of --graphs, which --make-graphs fills on a host"
        if lacking := [p for p in ("torch", "onnx", "onnxruntime") if _is_absent(p)]:
            return (
                f"graphs are made with {', '.join(lacking)}, not installed here; make them on a host with "
                "--make-graphs FOLDER, and give --graphs FOLDER"
            )
        answer.put("now", network)
        make_graphs(network, work.graphs)
    answer.put("graphs", {path.name: path.stat().st_size for path in wanted})
    return None


def small_graphs(work: Work, answer: Answer) -> str | None:
    """Of the small network."""
    return _graphs(work.small, work, answer)


def large_graphs(work: Work, answer: Answer) -> str | None:
    """Of the large network."""
    return _graphs(work.large, work, answer)


def _is_absent(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is None
