"""What several machines come to together: exit code, table, the best by each tolerance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgecnn.bundle.manifest import Bundle, BundledFile
from edgecnn.bundle.tar import write_tar
from edgecnn.output import WIDTH, width_of
from edgecnn.pipeline.on_hosts import OnHosts, _pieces
from edgecnn.report.devices import best_by_tolerance, devices_lines
from edgecnn.results.device import Device
from edgecnn.results.host import HostRun
from edgecnn.results.report import RunReport
from edgecnn.results.verdict import Check, Verdict

DROP, P99, AGREEMENT = "top1_drop_pp_max", "latency_ms_p99_max", "agreement_pct_min"


def check(name: str, tolerance: str, value: float, limit: float, verdict: Any = "PASS") -> Check:
    return Check(name, tolerance, value, None, limit, verdict, "as measured")


def host(name: str, *checks: Check) -> HostRun:
    report = RunReport(
        recipe="r", title="", target="agx-orin", device=Device(gpu_name="Orin"), device_key="k", reference=None,
        measurements=(), verdict=Verdict(checks), artifacts=(), notes=(),
    )  # fmt: skip
    return HostRun(name, f"on/{name}", (report,))


PASSED, FAILED = host("a", check("int8", DROP, 0.4, 1)), host("b", check("int8", DROP, 2, 1, "FAIL"))
OPEN, LOST = host("c", check("int8", DROP, 1, 1, "INCONCLUSIVE")), HostRun("d", not_judged="d: the connection was lost")

BUILT = HostRun("e", "on/e")  # as far as --until said


@pytest.mark.parametrize(
    ("hosts", "code"),
    [
        ([PASSED], 0),
        ([BUILT], 0),
        ([BUILT, LOST], 3),
        ([PASSED, LOST], 3),
        ([PASSED, OPEN], 3),
        ([PASSED, FAILED], 1),
        ([FAILED, LOST], 1),
        ([LOST], 2),
        ([LOST, LOST], 2),
    ],
)
def test_exit_codes(hosts: list[HostRun], code: int) -> None:
    assert OnHosts(Path("runs/r"), 0, tuple(hosts)).exit_code == code


def test_the_best_by_a_tolerance_passes_it_with_the_most_room() -> None:
    a = host("a", check("fp16", DROP, -0.1, 1), check("int8", DROP, 0.4, 1), check("int8", P99, 2.0, 5))
    b = host("b", check("int8", DROP, 0.1, 1), check("int8", P99, 1.0, 5), check("int8", AGREEMENT, 99.5, 97))
    c = host("c", check("int8", P99, 0.1, 5, "FAIL"), check("int8", AGREEMENT, 99.9, 97, "INCONCLUSIVE"))
    found = {best.tolerance: (best.host, best.name, best.value) for best in best_by_tolerance([a, b, c, LOST])}
    assert found == {DROP: ("a", "fp16", -0.1), P99: ("b", "int8", 1.0), AGREEMENT: ("b", "int8", 99.5)}
    assert best_by_tolerance([c, LOST]) == ()


def test_the_table_fits_and_names_who_was_not_judged() -> None:
    lines = devices_lines([PASSED, FAILED, LOST])
    assert max(map(width_of, lines)) <= WIDTH
    assert "not judged: d: the connection was lost" in lines
    assert f"{DROP}  a     agx-orin  int8         0.4" in lines
    assert [line for line in lines if line.startswith("b agx-orin: ") and "Orin" in line]
    assert devices_lines([LOST]) == ["not judged: d: the connection was lost"]


def test_a_bundle_is_sent_as_its_files(tmp_path: Path) -> None:
    """Put together again, the pieces are the archive, and large files are pieces of their own."""
    contents = {"model.onnx": b"m" * 5000, "small.json": b"{}", "images.npz": b"i" * 3000}
    files = tuple(BundledFile(name, len(data), f"sha of {name}") for name, data in contents.items())
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    opened = {name: (len(data), lambda name=name: (tmp_path / name).open("rb")) for name, data in contents.items()}
    write_tar(tmp_path / "b.tar", b'{"manifest": 1}', opened)  # type: ignore[arg-type]
    pieces = _pieces(tmp_path / "b.tar", Bundle("r", "cpu", "packed", "", "digits", files))
    whole = (tmp_path / "b.tar").read_bytes()
    assert b"".join(p.content if p.path is None else whole[p.offset : p.offset + p.size] for p in pieces) == whole
    assert [(p.sha256, p.size) for p in pieces if p.path] == [("sha of model.onnx", 5000), ("sha of images.npz", 3000)]
