"""The complexity plot: top-1 against multiply-adds or memory, the parameters as discs, as in Canziani, Culurciello and
Paszke, "An analysis of deep neural network models for practical applications", 2017; layers against the year of the
paper; for runs top-1 against measured latency."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from edgecnn.artifact.run_folder import read_report
from edgecnn.artifact.sidecar import Sidecar, read_sidecar, sidecar_path
from edgecnn.artifact.write import write_bytes
from edgecnn.errors import MeasurementError
from edgecnn.report.charts.discs import Disc, Panel, count_text, disc_plot
from edgecnn.results.report import RunReport
from edgecnn.zoo import ModelCard, find_model

Against: TypeAlias = Literal["macs", "memory", "year"]

IMAGENET_CLASSES = 1000
ERAS = {  # colours from dark to light with the year of the paper
    "until 2013": "#3b1f6b",
    "2014": "#3f4a9e",
    "2015": "#2f78a8",
    "2016": "#1f9e89",
    "2017": "#6cb944",
    "2018 on": "#e0a800",
}
BANDS = {  # colours from dark to light with the top-1
    "below 65 %": "#3b1f6b",
    "65 to 70 %": "#3f4a9e",
    "70 to 75 %": "#2f78a8",
    "75 to 80 %": "#1f9e89",
    "from 80 %": "#e0a800",
}
PRECISIONS = {"fp32": "#5b6770", "fp16": "#d98200", "int8": "#1f8a3b"}
OTHERS = ("#2f78a8", "#a83f8e", "#8a5a00", "#3b1f6b")  # colours of other names of precisions, in turn


def write_zoo_plot(path: Path, cards: Iterable[ModelCard], against: Against = "macs") -> list[str]:
    """Draw the networks with a published ImageNet top-1; returns the names of the others. What they are drawn `against`
    is their multiply-adds, the memory that they need, or (the layers, not the top-1) the year of their paper.

    Raises `MeasurementError` where none is left, or for another suffix than .svg.
    """
    drawn, left_out = [], []
    for card in cards:
        if card.classes == IMAGENET_CLASSES and card.top1_pct is not None:
            drawn.append(card)
        else:
            left_out.append(card.name)
    panel = depth_panel if against == "year" else memory_panel if against == "memory" else zoo_panel
    _write(path, [panel(drawn)] if drawn else [], "no network of these has a published ImageNet top-1")
    return left_out


def zoo_panel(cards: Sequence[ModelCard]) -> Panel:
    """Published top-1 against multiply-adds."""
    discs = [
        _disc(card, card.macs, card.top1_pct or 0.0, _era(card.year), f"{count_text(card.macs)} multiply-adds")
        for card in cards
    ]
    return Panel(
        title="Accuracy against complexity",
        notes=(
            "top-1 as published with the weights, or in the paper where nobody publishes any; multiply-adds of one "
            "image at the network's own resolution",
        ),
        x_axis="multiply-adds per image",
        y_axis="ImageNet top-1, %",
        discs=tuple(discs),
        groups=_used(ERAS, discs),
        x_tick=count_text,
        quoted="from the paper",
    )


def memory_panel(cards: Sequence[ModelCard]) -> Panel:
    """Published top-1 against the memory that one image needs."""
    discs = [
        _disc(card, memory_mib(card), card.top1_pct or 0.0, _era(card.year), f"{memory_mib(card):.1f} MiB")
        for card in cards
    ]
    return Panel(
        title="Accuracy against memory",
        notes=(
            "top-1 as published with the weights, or in the paper where nobody publishes any; parameters and the "
            "activations that are alive at the worst moment, of one image at the network's own resolution, in float32",
        ),
        x_axis="parameters and peak activations, MiB",
        y_axis="ImageNet top-1, %",
        discs=tuple(discs),
        groups=_used(ERAS, discs),
        x_tick="{:g}".format,
        quoted="from the paper",
    )


def depth_panel(cards: Sequence[ModelCard]) -> Panel:
    """Weight layers against the year of the paper, the top-1 as colours."""
    discs = [
        _disc(card, card.year, card.weight_layers, _band(card.top1_pct or 0.0), f"{card.weight_layers} weight layers")
        for card in cards
    ]
    return Panel(
        title="Layers against the year of the paper",
        notes=(
            "convolutions and fully connected layers on the longest way from the image to the logits, those of gates "
            "(squeeze and excitation) among them; top-1 as published",
        ),
        x_axis="year",
        y_axis="weight layers",
        discs=tuple(discs),
        groups=_used(BANDS, discs),
        x_tick="{:.0f}".format,
        quoted="from the paper",
        x_log=False,
        y_log=True,
    )


def memory_mib(card: ModelCard) -> float:
    """Parameters and the largest activations that are alive at once, in float32."""
    return (4 * card.params + card.peak_activation_bytes) / 2**20


def _disc(card: ModelCard, x: float, y: float, group: str, said: str) -> Disc:
    return Disc(
        label=card.name,
        x=x,
        y=y,
        params=card.params,
        group=group,
        tip=f"{card.name}: {card.top1_pct} % top-1, {said}, {count_text(card.params)} parameters, {card.year}"
        + (f" ({card.notes})" if card.notes else ""),
        quoted=card.weights is None,
    )


def _used(colours: dict[str, str], discs: Sequence[Disc]) -> dict[str, str]:
    groups = {d.group for d in discs}
    return {name: colour for name, colour in colours.items() if name in groups}


def write_run_plot(path: Path, folders: Iterable[Path]) -> None:
    """Draw what runs measured, one panel for each device; raises `MeasurementError` where that cannot be compared."""
    reports = [_read(report) for folder in folders for report in _reports(folder)]
    _write(path, run_panels(reports), "no report of these runs holds both a top-1 and a latency")


def run_panels(reports: Sequence[tuple[RunReport, Sidecar]]) -> list[Panel]:
    """Measured top-1 against measured median latency; a line joins the precisions of one run.

    Raises `MeasurementError` when the reports are of different test images, or the latencies of one device of different
    modes: they cannot share an axis.
    """
    sources = {_field(report, made, "data.source") for report, made in reports}
    if len(sources) > 1:
        raise MeasurementError(
            f"the runs were measured on different data: {', '.join(sorted(sources))}",
            "give the runs of one data set at a time",
        )
    modes: dict[str, set[str]] = {}
    by_device: dict[str, list[Disc]] = {}
    notes: dict[str, dict[str, None]] = {}
    for report, made in reports:
        by_device.setdefault(report.device_key, []).extend(_run_discs(report, made))
        notes.setdefault(report.device_key, {}).update(dict.fromkeys(report.notes))
        modes.setdefault(report.device_key, set()).update(
            m.own_latency.mode for m in report.measurements if m.own_latency
        )
    for device, found in modes.items():
        if len(found) > 1:
            raise MeasurementError(
                f"the latencies of {device} were measured in different modes: {', '.join(sorted(found))}",
                "run the older ones again, or give those of one mode at a time",
            )
    return [
        Panel(
            title=f"Accuracy against latency: {device}",
            notes=(
                f"top-1 on {', '.join(sources)}; median latency of one query, with transfers where there are any; "
                "a dashed line joins the precisions of one network",
                *notes[device],
            ),
            x_axis="latency, ms (median)",
            y_axis="top-1, %",
            discs=tuple(discs),
            groups=_precision_colours({d.group for d in discs}),
            x_tick="{:g}".format,
        )
        for device, discs in by_device.items()
        if discs
    ]


def _run_discs(report: RunReport, made: Sidecar) -> list[Disc]:
    name = _field(report, made, "model.name")
    params = find_model(name).params if name else made.facts.get("params")
    if params is None:
        raise MeasurementError(
            f"{report.recipe}: how many parameters its network has is not known", "keep model.fp32.onnx in its run"
        )
    return [
        Disc(
            label=f"{report.recipe} {m.name}",
            x=m.own_latency.latency_ms_p50,
            y=m.accuracy.top1_pct,
            params=params,
            group=m.name,
            tip=f"{report.recipe}, {m.name}: {m.accuracy.top1_pct:.2f} % top-1 of {m.accuracy.n} images, "
            f"{m.own_latency.latency_ms_p50:.3f} ms at batch {m.own_latency.batch}, {m.own_latency.mode}",
            joined=report.recipe,
        )
        for m in report.measurements
        if m.accuracy is not None and m.accuracy.top1_pct is not None and m.own_latency is not None
    ]


def _read(path: Path) -> tuple[RunReport, Sidecar]:
    """A report; that of a network which is not of the zoo with the parameters that its graph counts."""
    report, made = read_report(path)
    graph = path.parent.parent / "model.fp32.onnx"
    if not made.fields.get("model.name") and sidecar_path(graph).exists():
        made = dataclasses.replace(made, facts={"params": read_sidecar(graph).facts["params"]})
    return report, made


def _reports(folder: Path) -> list[Path]:
    """The report of a target folder, or those of all target folders of a run."""
    found = [p for p in (folder / "report.json", *sorted(folder.glob("*/report.json"))) if p.is_file()]
    if not found:
        raise MeasurementError(f"{folder}: no report.json in it", "name the folder of a finished `edgecnn run`")
    return found


def _field(report: RunReport, made: Sidecar, key: str) -> str:
    if key not in made.fields:
        raise MeasurementError(f"a report of {report.recipe} does not say its {key}", "run it again")
    return str(made.fields[key])


def _write(path: Path, panels: list[Panel], nothing: str) -> None:
    if path.suffix != ".svg":
        raise MeasurementError(f"{path}: plots are SVG", "give the file the suffix .svg")
    if not panels:
        raise MeasurementError(nothing, "choose others")
    write_bytes(path, disc_plot(panels).encode())


def _era(year: int) -> str:
    if year <= 2013:
        return "until 2013"
    return "2018 on" if year >= 2018 else str(year)


def _band(top1_pct: float) -> str:
    return list(BANDS)[min(max(int(top1_pct // 5) - 12, 0), len(BANDS) - 1)]


def _precision_colours(names: set[str]) -> dict[str, str]:
    others = sorted(names - PRECISIONS.keys())
    spare = {name: OTHERS[k % len(OTHERS)] for k, name in enumerate(others)}
    return {name: colour for name, colour in {**PRECISIONS, **spare}.items() if name in names}
