"""The page of a judged run: what it says, where its charts put things, and what it never shows."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shlex
import shutil
from collections import Counter
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lxml import etree
from PIL import Image

from edgecnn.artifact.run_folder import TargetRun, read_target_run
from edgecnn.artifact.sidecar import Sidecar, sha256_of
from edgecnn.artifact.write import write_artifact
from edgecnn.cli import main
from edgecnn.measure.predict import read_predictions
from edgecnn.output import inert
from edgecnn.recipe.load import load_recipe
from edgecnn.report import details as details_module
from edgecnn.report.details import RunDetails, read_details
from edgecnn.report.html_page import html_report
from edgecnn.report.page.document import document
from edgecnn.report.page.elements import element, text
from edgecnn.report.page.latency import latency_section, tradeoff_section
from edgecnn.report.page.provenance import commands
from edgecnn.report.page.verdict import UNJUDGED
from edgecnn.results.report import RunReport
from edgecnn.results.verdict import Verdict
from edgecnn.steps import gate as gate_module
from edgecnn.steps.report import report_of
from tests.fakes.judged_run import HOSTILE, make_judged_run
from tests.fakes.measurements import TENSORRT, engine, latency, measured, measurement

CLASSES = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six engines, of which three are simulated, on 240 images of classes with hostile names."""
    made = tmp_path_factory.mktemp("page")
    make_judged_run(made, networks=6, images=240, classes=CLASSES, names=HOSTILE)
    return made


@pytest.fixture(scope="module")
def run(folder: Path) -> TargetRun:
    return read_target_run(folder / "run" / "cpu")


@pytest.fixture(scope="module")
def results(run: TargetRun, folder: Path) -> RunReport:
    return report_of(run, load_recipe(str(folder / "made-up.toml")))


@pytest.fixture(scope="module")
def details(run: TargetRun) -> RunDetails:
    return read_details(run)


@pytest.fixture(scope="module")
def page(results: RunReport, details: RunDetails) -> Any:
    """The page as a tree."""
    return etree.HTML(html_report(results, details))


def words(node: Any) -> str:
    return " ".join("".join(node.itertext()).split())


def spaced(node: Any) -> str:
    """Cells and labels apart from each other."""
    return " ".join(" ".join(node.itertext()).split())


def part(page: Any, title: str) -> Any:
    """The section under a heading."""
    (found,) = [s for s in page.iter("section") if s[0].text == title]
    return found


def test_the_verdict_stands_first_and_in_words(page: Any, results: RunReport) -> None:
    first = page.find("body/main")[0]
    assert (first.tag, first.get("class")) == ("header", results.verdict.verdict)
    assert words(first).startswith(f"made-up on cpu: {results.verdict.verdict}")
    counts = Counter(check.verdict for check in results.verdict.checks)
    assert f"Checks: {counts['PASS']} passed" in words(first)
    assert f"{counts['INCONCLUSIVE']} open." in words(first)
    said = words(page.find("body/main"))
    for check in results.verdict.checks:
        assert check.evidence in said
    assert said.index("made-up on cpu") < said.index("Accuracy") < said.index("Where the numbers come from")


def test_every_name_is_shown_as_it_is_and_none_becomes_markup(page: Any) -> None:
    said = "".join(page.itertext())
    for name in HOSTILE:
        assert inert(name) in said
    assert "\u202e" not in etree.tostring(page, encoding="unicode")
    known = {"class", "title", "src", "alt", "id", "open", "lang", "name", "content", "charset", "http-equiv", "role",
             "scope", "tabindex", "aria-label", "aria-hidden", "viewbox", "preserveaspectratio", "width", "height", "x",
             "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "text-anchor", "stroke-width", "vector-effect"}  # fmt: skip
    assert {name for node in page.iter() for name in node.attrib} <= known
    assert not list(page.iter("script"))


KEPT = {"verdict", "mode", "precision_requested", "precision_obtained", "scheme", "provider", "shares_by", "task",
        "output", "inconclusive", "uri", "input", "interpolation", "serving_geometry"}  # fmt: skip


def infected(value: Any, word: str) -> Any:
    """`value` with every text in it, however deep, replaced by one that is no markup only while it is escaped."""
    if isinstance(value, str):
        return word
    if isinstance(value, (tuple, list)):
        return type(value)(infected(v, word) for v in value)
    if isinstance(value, dict):
        return {infected(k, word) if isinstance(k, str) else k: infected(v, word) for k, v in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{f.name: infected(getattr(value, f.name), word) for f in fields(value) if f.name not in KEPT}
        )
    return value


@pytest.mark.parametrize("word", ["</td></table></style><script>hacked=1</script>", '" onfocus="hacked=1', "' x='"])
def test_no_text_of_a_run_is_markup(results: RunReport, details: RunDetails, word: str) -> None:
    plain, hostile = (etree.HTML(html_report(infected(results, w), infected(details, w))) for w in ("harmless", word))
    assert [(n.tag, sorted(n.attrib)) for n in plain.iter()] == [(n.tag, sorted(n.attrib)) for n in hostile.iter()]
    assert "".join(hostile.itertext()).count(word) > 100


def test_nothing_is_fetched_and_the_policy_allows_this_style_alone(page: Any) -> None:
    assert {i.get("src").split(",")[0] for i in page.iter("img")} == {"data:image/jpeg;base64"}
    policy = page.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")[0]
    digest = base64.b64encode(hashlib.sha256(page.find("head/style").text.encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert not re.search(r"url\(|@import|https?:", page.find("head/style").text)


@pytest.mark.parametrize("hostile", [*HOSTILE, "\x00\ud800", "</style><script>", "a\u2066b"])
def test_text_becomes_markup_in_one_place(hostile: str) -> None:
    made = document(hostile, element("p", hostile, title=hostile), description=hostile)
    tree = etree.HTML(made)
    shown = "".join(etree.HTML(f"<p>{text(hostile)}</p>").itertext())
    assert (
        tree.find("body/main/p").text == tree.find("body/main/p").get("title") == tree.find("head/title").text == shown
    )
    assert made.encode()


def test_a_simulated_engine_has_no_latency(page: Any, results: RunReport) -> None:
    simulated = {m.name for m in results.measurements if m.simulated}
    timed = {m.name for m in results.measurements if not m.simulated}
    assert len(simulated) == len(timed) == 3
    assert all(m.latency for m in results.measurements), "they were timed all the same"
    for title in ("Latency", "Accuracy against latency"):
        shown = set(re.findall(r"\b(?:fp32|fp16|int8)(?:-\d+)?\b", spaced(part(page, title))))
        assert shown & simulated == set()
        assert timed <= shown
    folds = [d for d in page.iter("details") if d[0].text == "All measurements in one table"]
    rows = [[words(cell) for cell in row] for row in folds[0].iter("tr")]
    medians = {row[0]: row[rows[0].index("p50 ms")] for row in rows[1:]}
    assert {name for name, p50 in medians.items() if p50 == "-"} == simulated
    one = measurement("int8", engine=engine("fp16"), latency=latency())
    assert "Every engine is simulated" in latency_section(replace(results, measurements=(one,)))


def test_latencies_of_different_devices_are_not_in_one_chart(results: RunReport) -> None:
    gpu: dict[str, Any] = {"engine": engine("int8", **TENSORRT), "latency": latency()}
    orin = replace(results, device_key="orin", target="orin", measurements=(measured("int8", **gpu),))
    again = replace(results, recipe="again")
    found = etree.HTML(tradeoff_section([results, orin, again]))
    charts = [words(f) for f in found.iter("figure")]
    assert len(charts) == 2
    assert "orin int8" not in charts[0]
    assert "again cpu int8" in charts[0]
    assert "made-up cpu int8" in charts[0]


def test_the_confusion_matrix_counts_every_image(folder: Path, details: RunDetails, page: Any) -> None:
    saved = read_predictions(folder / "run" / "reference.npz")
    said = saved.logits.argmax(axis=1)
    int8 = next(
        f.content.accuracy
        for f in read_target_run(folder / "run" / "cpu").accuracies
        if f.path.name == "int8.accuracy.json"
    )
    assert int8.changed
    changed = {image.id: image.engine for image in int8.changed}
    counted = Counter(
        (int(label), changed.get(name, int(reference)))
        for name, label, reference in zip(saved.ids, saved.labels, said, strict=True)
    )
    confusion = next(c for c in details.confusions if c.name == "int8")
    assert dict(confusion.counts) == dict(counted)
    assert dict(confusion.reference_counts) == dict(Counter(zip(saved.labels.tolist(), said.tolist(), strict=True)))
    right = sum(n for (label, predicted), n in counted.items() if label == predicted)
    assert right == int8.top1_n
    folds = [d for d in part(page, "Classes").iter("details") if words(d[0]).startswith("int8:")]
    matrix = folds[0].xpath(".//table[@class='matrix']")[0]
    cells = [[cell.text or "" for cell in row.iter("td")] for row in matrix.iter("tr")][1:]
    drawn = {(r, c): int(n) for r, row in enumerate(cells) for c, n in enumerate(row) if n and int(n)}
    assert drawn == dict(counted)


def test_many_classes_are_told_by_their_largest_changes(details: RunDetails, results: RunReport) -> None:
    counts = {(k, k): 10 for k in range(50)}
    one = replace(
        details.confusions[0], counts={**counts, (3, 4): 7, (5, 6): 2}, reference_counts={**counts, (5, 6): 2}
    )
    names = [f"n{k}" for k in range(50)]
    tree = etree.HTML(html_report(results, replace(details, confusions=[one], names=names)))
    rows = [[words(c) for c in r.iter("td")] for r in part(tree, "Classes").iter("tr")]
    assert ["n3", "n4", "7", "+7"] in rows
    assert rows.index(["n3", "n4", "7", "+7"]) < rows.index(["n5", "n6", "2", "+0"])


def test_changed_images_are_shown_small_with_what_was_said_of_them(
    page: Any, run: TargetRun, details: RunDetails
) -> None:
    figures = list(part(page, "Images that changed").iter("figure"))
    changed = {image.id: image for f in run.accuracies for image in f.content.accuracy.changed}
    assert details.changed == len(changed) == len(figures)
    for figure, picture in zip(figures, details.pictures, strict=True):
        image, said = changed[picture.id], words(figure)
        assert f"label: {text_of(details.names[image.label])}" in said
        assert f"reference: {text_of(details.names[image.reference])}" in said
        for index, engines in picture.predictions.items():
            assert f"{', '.join(engines)}: {text_of(details.names[index])}" in said
        with Image.open(io.BytesIO(base64.b64decode(picture.uri.split(",")[1]))) as shown:
            assert shown.size == (96, 72)
            assert not shown.info.keys() & {"exif", "comment", "icc_profile"}


def text_of(name: str) -> str:
    return " ".join(inert(name).split())


def test_so_many_images_are_shown_those_first_that_most_engines_lost(
    run: TargetRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(details_module, "PICTURES", 3)
    found = read_details(run)
    lost = Counter(i.id for f in run.accuracies for i in f.content.accuracy.changed if i.reference == i.label)
    assert len(found.pictures) == 3 < found.changed
    assert [lost[p.id] for p in found.pictures] == sorted(lost.values(), reverse=True)[:3]


def test_another_picture_under_the_same_name_is_not_shown(run: TargetRun, folder: Path, details: RunDetails) -> None:
    first, *_ = details.pictures
    path = folder / "pictures" / first.id
    before = path.read_bytes()
    path.unlink()  # which others are links to
    Image.new("RGB", (320, 240), "red").save(path)
    found = read_details(run)
    path.write_bytes(before)
    assert {p.id for p in found.pictures if not p.uri} == {first.id}
    assert found.unseen == "1 of them are not here, or are other images by now: they are not shown."


def test_what_is_not_here_any_more_is_left_out_and_named(run: TargetRun, folder: Path, results: RunReport) -> None:
    pictures, reference = folder / "pictures", folder / "run" / "reference.npz"
    pictures.rename(folder / "elsewhere")
    reference.rename(folder / "elsewhere.npz")
    try:
        found = read_details(run)
    finally:
        (folder / "elsewhere").rename(pictures)
        (folder / "elsewhere.npz").rename(reference)
    assert not found.confusions
    assert not any(p.uri for p in found.pictures)
    tree = etree.HTML(html_report(results, found))
    assert "no confusion matrix" in words(part(tree, "Where the numbers come from"))
    assert "The images are not shown: " in words(part(tree, "Images that changed"))


def test_layers_are_told_where_they_were_explained(page: Any, run: TargetRun, folder: Path) -> None:
    said = spaced(part(page, "Layers that lost it"))
    assert said.index("/layer0/conv 60.00 %") < said.index("/layer1/conv 37.50 %") < said.index("all weights 11.00 %")
    bare = [replace(f, provenance=replace(f.provenance, facts={}) if f.provenance else None) for f in run.accuracies]
    plain = replace(run, accuracies=tuple(bare))
    assert read_details(plain).noise == {}
    graph = folder / "run" / "explained.onnx"
    facts = {
        "layer_noise": [{"tensor": "t", "nodes": [], "logit_noise_pct": 3.0}, "damaged"],
        "weights_logit_noise_pct": 4.0,
    }
    write_artifact(graph, lambda path: path.write_bytes(b""), Sidecar(kind="graph", scheme="tensorrt", facts=facts))
    found = read_details(plain).noise
    graph.unlink()
    assert {name: noise.shares for name, noise in found.items()} == {"int8-1": [("all weights", 4.0), ("t", 3.0)]}
    assert found["int8-1"].source == "explained.onnx"


def test_without_its_files_a_report_is_a_page_all_the_same(results: RunReport) -> None:
    tree = etree.HTML(html_report(results))
    assert "edgecnn run made-up" in words(tree)
    assert not list(tree.iter("img"))
    empty = etree.HTML(html_report(replace(results, measurements=(), verdict=Verdict(()), artifacts=())))
    assert UNJUDGED in words(empty)
    assert [words(d[0]) for d in empty.iter("details")] == ["What the words mean"], "nothing is folded that is empty"


def test_few_queries_have_a_range_and_no_distribution(results: RunReport) -> None:
    few = latency("few", latency_ms_min=0.9, latency_ms_max=1.3, n_queries=12, warnings=("drift: much",))
    tree = etree.HTML(html_report(replace(results, measurements=(measured("few", latency=few),))))
    (figure,) = part(tree, "Latency").iter("figure")
    assert words(figure.find("figcaption")) == (
        "few: 12 queries of 1, single-shot, 0.9 to 1.3 ms; the distribution was not kept"
    )
    assert not list(figure.iter("svg"))
    assert [words(item) for item in figure.iter("li")] == ["drift: much"]


def test_measured_latencies_are_counted_in_bins(results: RunReport) -> None:
    for m in results.measurements:
        assert m.latency is not None
        edges, counts = m.latency.latency_ms_bins, m.latency.latency_ms_bin_n
        assert len(edges) == len(counts) + 1
        assert edges[0] == m.latency.latency_ms_min
        assert 0.85 * m.latency.n_queries <= sum(counts) <= m.latency.n_queries
        assert np.allclose(np.diff(edges), edges[1] - edges[0])


def test_a_file_that_several_results_name_is_hashed_once(run: TargetRun, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = list[Path]()
    monkeypatch.setattr(gate_module, "sha256_of", lambda path: (hashed.append(path), sha256_of(path))[1])
    gate_module.require_current(run)
    assert sum(path.name == "reference.npz" for path in hashed) == 1
    assert len(hashed) == 1 + len(run.accuracies)


@pytest.mark.parametrize("ms", [0.0, -1.0, 1e308, 5e-324])
def test_a_latency_that_no_clock_tells_does_not_break_the_page(results: RunReport, ms: float) -> None:
    odd = latency("odd", latency_ms_p50=ms, latency_ms_bins=(ms, ms), latency_ms_bin_n=(0,))
    rows = (*results.measurements, measured("odd", latency=odd, top1_n=10**6, top1_drop_ci_pp=(-1e308, 1e308)))
    page = etree.HTML(html_report(replace(results, measurements=rows)))
    assert f"{ms:.4g}" in words(part(page, "Latency"))
    assert "odd" not in spaced(part(page, "Accuracy against latency"))


def test_the_commands_on_the_page_are_those_of_the_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "own"))
    run = read_target_run(own / "run" / "cpu")
    results, details = report_of(run, load_recipe(str(own / "made-up.toml"))), read_details(run)
    anew, judge, write = (shlex.split(line) for line in commands(results, details))
    assert anew[:2] == ["edgecnn", "run"]
    assert load_recipe(anew[2]).name == "made-up"
    monkeypatch.chdir(tmp_path)
    assert main(judge[1:]) == results.verdict.exit_code
    assert main(write[1:]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert main([*write[1:3], "--format", "html", "-o", "page"]) == 0
    assert (tmp_path / "page").read_text(encoding="utf-8") == page
    assert re.sub(r"judged [^<]*", "", page) == re.sub(r"judged [^<]*", "", html_report(results, details))
