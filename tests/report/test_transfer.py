"""A transfer table as text and as a drawing."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from edgecnn.report.charts.transfer import transfer_svg
from edgecnn.report.transfer import transfer_text
from edgecnn.results.transfer import TransferAnswer, TransferInt8, TransferPair, TransferRow, TransferTable

INT8 = TransferInt8(
    scheme="tensorrt",
    simulated=True,
    top1_pct=89.0,
    top1_drop_pp=1.0,
    top1_drop_ci_pp=(-0.5, 2.5),
    agreement_pct=97.0,
)


def rows_of(model: str) -> list[TransferRow]:
    plain = TransferRow(
        name=f"{model} head",
        model=model,
        trains="head",
        stage="",
        folder=f"{model}-head",
        params=1_235_000,
        params_trained=1026,
        minutes=1.25,
        cpu_minutes=1.0,
        n=153,
        top1_n=138,
        top1_pct=90.2,
        top1_ci_pct=(84.5, 94.0),
        int8=(replace(INT8, scheme="ort-cpu", top1_drop_pp=7.7), INT8),
        images_sha256="x",
        top1_bits="",
    )
    every = replace(plain, name=f"{model} all", trains="all", params_trained=1_235_000, minutes=None)
    stage = replace(plain, name=f"{model} probe features.4", trains="probe", stage="features.4", folder="", int8=())
    return [plain, every, stage]


def table(*models: str) -> TransferTable:
    pairs = [
        TransferPair(
            first=f"{model} head",
            second=second,
            gain_pp=3.3,
            gain_ci_pp=(-1.1, 7.7),
            gained=8,
            lost=3,
            mcnemar_p=0.2,
            differs=False,
        )
        for model in models
        for second in (f"{model} all", f"{model} probe features.4")
    ]
    return TransferTable(
        data="ants-and-bees",
        recipe="r",
        classes=2,
        n_train=244,
        n=153,
        epochs=10,
        threads=1,
        rows=tuple(row for model in models for row in rows_of(model)),
        pairs=tuple(pairs),
        answers=tuple(
            TransferAnswer(model=m, name=f"{m} head", better_than=(), against=f"{m} all", lost_pp_max=7.7)
            for m in models
        ),
    )


def test_the_text_says_each_figure_and_fits() -> None:
    lines = list(transfer_text(table("squeezenet1_1")))
    assert max(map(len, lines)) <= 80
    head, every, stage = (next(x for x in lines if x.split()[:1] == [name]) for name in ("head", "all", "features.4"))
    assert head.split() == ["head", "1.03", "k", "1.2", "90.2", "[84.5,", "94.0]", "-", "+1.0", "[-0.5,", "2.5]"]
    assert every.split()[:4] == ["all", "1.24", "M", "-"]
    assert "+3.3 [-1.1, 7.7]" in every
    assert "+3.3 [-1.1, 7.7]" in stage
    text = "\n".join(lines)
    assert "all over head: +3.3 pp [-1.1, 7.7], not told apart" in text
    assert "it may lose up to 7.7 pp against all" in " ".join(text.split())


def test_a_run_that_failed_says_why_in_place_of_int8() -> None:
    found = table("squeezenet1_1", "vgg16")
    dead = [replace(row, failed="dead", int8=()) if "vgg16 all" in row.name else row for row in found.rows]
    lines = list(transfer_text(replace(found, rows=tuple(dead), answers=found.answers[:1])))
    assert [line.split()[-1] for line in lines if line.startswith("all ")] == ["2.5]", "failed", "dead"]
    assert "vgg16: no answer: every run failed" in lines
    assert "vgg16 all over vgg16 head" in " ".join(lines)
    assert max(map(len, lines)) <= 80
    assert "failed: " in transfer_svg(replace(found, rows=tuple(dead)))


def test_of_several_networks_each_run_is_called_by_both_names() -> None:
    text = " ".join("\n".join(transfer_text(table("resnet18", "vgg16"))).split())
    assert "vgg16 all over vgg16 head" in text
    assert "resnet18: resnet18 head: no run is told to be better" in text


@pytest.mark.parametrize("name", ["squeezenet1_1", "=1\x1b[31m<b>&"])
def test_the_drawing_has_a_dot_for_each_row_and_a_ring_for_each_int8(name: str) -> None:
    found = ET.fromstring(transfer_svg(table(name, "vgg16")))
    circles = [c.get("class") for c in found.iter("{http://www.w3.org/2000/svg}circle")]
    assert (circles.count("run"), circles.count("probe"), circles.count("int8")) == (4, 2, 4)
    assert "\x1b" not in transfer_svg(table(name))
