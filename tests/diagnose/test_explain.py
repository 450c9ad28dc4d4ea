"""Why an engine lost: stages, classes and layers counted from results, and remedies whose commands exist."""

from __future__ import annotations

import functools
import re
import shlex
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import typer

from edgecnn.artifact.run_folder import ResultFile, TargetRun
from edgecnn.artifact.sidecar import Sidecar, read_sidecar
from edgecnn.artifact.write import write_artifact, write_json_artifact
from edgecnn.cli.app import application
from edgecnn.diagnose.explain import explain
from edgecnn.diagnose.losses import class_drops, image_changes, stage_losses
from edgecnn.diagnose.remedies import MARGINAL, REMEDIES
from edgecnn.errors import ArtifactError, MeasurementError
from edgecnn.measure.classification import measure_accuracy
from edgecnn.measure.predict import Predictions
from edgecnn.output import width_of
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.schema import DataSettings, QuantizeSettings, Recipe, TrainSettings
from edgecnn.records import to_plain
from edgecnn.report.explanation_page import explanation_page
from edgecnn.results.accuracy import Accuracy, AccuracyFile
from edgecnn.results.crash import Crash, CrashFile
from edgecnn.results.report import Measurement
from edgecnn.results.sensitivity import NodeSensitivity, QuantizedPart, Sensitivity
from edgecnn.results.serving import ServingLoss
from edgecnn.results.verdict import Check, Outcome, Verdict
from edgecnn.statistics import drop_interval, drop_intervals
from tests.fakes.measurements import TENSORRT, accuracy, engine, measurement

N = 1000
RECIPE = Recipe(path=Path("r.toml"), data=DataSettings(source="digits"))
RERUN = ("runs/r",)


def row(name: str, precision: str, lost: int, scheme: str = "", **more: Any) -> Measurement:
    """An engine on a CPU that has lost the last `lost` images."""
    known = engine(precision, scheme=scheme, **more.pop("engine", {}))
    return measurement(name, engine=known, accuracy=accuracy(N, lost, 0, name=name), **more)


def check(name: str, verdict: Outcome = "FAIL", tolerance: str = "top1_drop_pp_max", **more: Any) -> Check:
    return Check(name, tolerance, 6.0, (4.7, 7.6), 1.0, verdict, "drop 6.00 pp", **more)


ON_CPU = (row("fp32", "fp32", 0), row("fp16", "fp16", 20), row("int8-tensorrt", "int8", 60, "tensorrt"))


def run_of(folder: Path, *rows: Measurement, parents: tuple[str, ...] = ()) -> TargetRun:
    files = [
        ResultFile(
            folder / f"{m.name}.accuracy.json",
            AccuracyFile(accuracy=m.accuracy, engine=m.engine),
            Sidecar(kind="accuracy", parents=dict.fromkeys(parents, "")),
        )
        for m in rows
        if m.accuracy
    ]
    crashes = [
        ResultFile(folder / "x", CrashFile(name=m.name, engine=m.engine, crash=m.crash), None) for m in rows if m.crash
    ]
    return TargetRun(folder, tuple(files), None, tuple(crashes))


def graph(path: Path, **facts: Any) -> Path:
    write_artifact(path, lambda p: p.write_bytes(b""), Sidecar(kind="graph", **facts))
    return path


def test_a_stage_is_what_two_predictions_lose_image_by_image() -> None:
    """Against a count over the predictions themselves, in which each engine loses and gains at random."""
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 7, 500)
    said = {"reference": np.where(rng.random(500) < 0.8, labels, rng.integers(0, 7, 500)).clip(0)}
    for name, before in (("fp32", "reference"), ("fp16", "fp32"), ("int8-tensorrt", "fp16")):
        said[name] = np.where(rng.random(500) < 0.9, said[before], rng.integers(0, 7, 500))
    made = {
        name: Predictions(tuple(map(str, range(500))), labels, np.eye(7, dtype=np.float32)[p], "p", "d")
        for name, p in said.items()
    }
    rows = [replace(r, accuracy=measure_accuracy(r.name, made[r.name], made["reference"])) for r in ON_CPU]
    losses, missing = stage_losses(rows[2], {"cpu": rows}, RECIPE)
    assert [(s.stage, s.before, s.after) for s in losses] == [
        ("export", "reference", "fp32"),
        ("fp16", "fp32", "fp16"),
        ("int8", "fp16", "int8-tensorrt"),
    ]
    assert missing == ()
    known = labels >= 0
    for stage in losses:
        first, second = said[stage.before], said[stage.after]
        lost = int(((first == labels) & (second != labels) & known).sum())
        gained = int(((first != labels) & (second == labels) & known).sum())
        assert (stage.lost, stage.gained, stage.n) == (lost, gained, int(known.sum()))
        assert stage.changed == int((first != second).sum())
        assert stage.drop_ci_pp == tuple(100 * end for end in drop_interval(lost, gained, int(known.sum())))
    whole = rows[2].accuracy
    assert whole is not None
    assert sum(s.drop_pp or 0 for s in losses) == pytest.approx(whole.top1_drop_pp)
    unlabeled = [replace(r, accuracy=replace(r.accuracy, n_labelled=0, changed=())) for r in rows if r.accuracy]
    assert {s.drop_pp for s in stage_losses(unlabeled[2], {"cpu": unlabeled}, RECIPE)[0]} == {None}


def test_the_stage_that_lost_it_can_be_told_from_none(tmp_path: Path) -> None:
    found = explain([(run_of(tmp_path / "cpu", *ON_CPU), Verdict((check("int8-tensorrt"),)))], RECIPE, RERUN)
    assert (found.name, found.verdict, found.lost_by) == ("int8-tensorrt", "FAIL", "int8")
    assert [(s.stage, s.lost, s.told) for s in found.stages] == [
        ("export", 0, False),
        ("fp16", 20, True),
        ("int8", 40, True),
    ]
    little = row("int8-tensorrt", "int8", 23, "tensorrt")
    found = explain(
        [(run_of(tmp_path / "cpu", *ON_CPU[:2], little), Verdict((check("int8-tensorrt"),)))], RECIPE, RERUN
    )
    assert (found.stages[-1].lost, found.stages[-1].told, found.lost_by) == (3, False, "fp16")


def test_what_the_engine_lost_stands_behind_its_graph_on_a_cpu(tmp_path: Path) -> None:
    own = row("int8", "int8", 90, "tensorrt", engine=TENSORRT)
    verdict = Verdict((check("int8"),))
    targets = [(run_of(tmp_path / "cpu", *ON_CPU), Verdict(())), (run_of(tmp_path / "gpu", own), verdict)]
    found = explain(targets, RECIPE, RERUN)
    assert [(s.stage, s.before, s.after, s.lost) for s in found.stages][2:] == [
        ("int8", "cpu fp16", "cpu int8-tensorrt", 40),
        ("engine", "cpu int8-tensorrt", "gpu int8", 30),
    ]
    alone = explain(targets[1:], RECIPE, RERUN)
    assert [(s.stage, s.lost) for s in alone.stages] == [("int8", 90)]
    assert "fp32: not measured in this run" in alone.not_compared
    assert "its graph was not run on a CPU" in alone.not_compared[-1]
    other = replace(own, accuracy=replace(accuracy(N, 90, 0), images_sha256="other"))
    told = explain([targets[0], (run_of(tmp_path / "gpu", other), verdict)], RECIPE, RERUN)
    assert told.not_compared == ("cpu int8-tensorrt -> gpu int8: other images of d",)
    assert "engine" not in {s.stage for s in told.stages}


def test_the_serving_geometry_is_a_stage(tmp_path: Path) -> None:
    found = explain([(run_of(tmp_path / "cpu", served()), Verdict((check("fp32"),)))], RECIPE, RERUN)
    assert (found.lost_by, found.stages[-1].lost, found.stages[-1].after) == ("serving", 50, "fp32, letterbox")
    assert found.stages[-1].changed == 70


def served() -> Measurement:
    loss = ServingLoss(
        serving_geometry="letterbox",
        serving_n=N,
        serving_n_labelled=N,
        serving_top1_pct=85.0,
        serving_drop_pp=5.0,
        serving_drop_ci_pp=(3.8, 6.5),
        serving_lost=50,
        serving_gained=0,
        serving_agreement_pct=93.0,
    )
    return measurement("fp32", engine=engine("fp32"), accuracy=accuracy(N, 0, 0, name="fp32", serving=loss))


def test_intervals_of_classes_hold_together() -> None:
    """Each is Bonferroni's, and of 20 classes without a loss one in twenty families at most is wrong."""
    found = accuracy(N, 60, 5)
    classes_n, rows = class_drops(found)
    assert classes_n == 10
    z = NormalDist().inv_cdf(1 - 0.05 / 20)
    for drop in rows:
        assert drop.drop_ci_pp == tuple(100 * e for e in drop_interval(drop.lost, drop.gained, drop.n, z))
        assert drop.drop_ci_pp[0] < 100 * drop_interval(drop.lost, drop.gained, drop.n)[0]
    assert sum(r.lost for r in rows), sum(r.gained for r in rows) == (60, 5)
    rng = np.random.default_rng(1)
    changed = rng.binomial(200, 0.08, (600, 20))
    lost = rng.binomial(changed, 0.5)
    shares = [
        float(((low > 0) | (high < 0)).any(axis=1).mean())
        for level in (1.959963984540054, NormalDist().inv_cdf(1 - 0.05 / 40))
        for low, high in [drop_intervals(lost, changed - lost, 200, level)]
    ]
    assert shares[0] > 0.4
    assert shares[1] < 0.07


def test_images_are_named_by_their_classes() -> None:
    rows = image_changes(accuracy(N, 3, 2))
    assert [r.change for r in rows] == ["lost"] * 3 + ["gained"] * 2
    assert (rows[0].label_name, rows[0].reference, rows[0].engine) == ("7", "7", "9")


def noisy(folder: Path, **more: Any) -> None:
    """A run's float graph, and one that `quantize --explain` made of it."""
    graph(folder / "model.fp32.onnx")
    shares = [("a", ["/one", "/two"], 50.0), ("b", ['/x "y"'], 20.0), ("c", ["/c"], 5.0), ("d", ["/d"], 1.0)]
    known = {
        "scheme": "tensorrt",
        "parents": {"model.fp32.onnx": read_sidecar(folder / "model.fp32.onnx").sha256},
        "fields": {"quantize.method": "auto", "quantize.around": "fp16"},
        "facts": {
            "layer_noise": [{"tensor": t, "nodes": n, "logit_noise_pct": p} for t, n, p in shares],
            "weights_logit_noise_pct": 24.0,
        },
        **more,
    }
    graph(folder / "layers.onnx", **known)


def test_layers_come_from_a_graph_that_was_explained(tmp_path: Path) -> None:
    judged = [(run_of(tmp_path / "cpu", *ON_CPU), Verdict((check("int8-tensorrt"),)))]
    noisy(tmp_path)
    found = explain(judged, RECIPE, RERUN)
    assert (found.layers_from, found.layers[0].nodes, found.weights_logit_noise_pct) == (
        "layers.onnx",
        ("/one", "/two"),
        24,
    )
    step = next(s for s in found.next_steps if s.remedy == "keep-layers-out")
    assert step.expected_gain_pp == pytest.approx(4.0 * 0.75)
    assert step.command[-1] == 'quantize.exclude=["/one", "/two", "/x \\"y\\"", "/c"]'
    for other in (
        {"scheme": "ort-cpu"},
        {"parents": {"model.fp32.onnx": "of before"}},
        {"fields": {"quantize.method": "mse", "quantize.around": "fp16"}},
    ):
        noisy(tmp_path, **other)
        assert explain(judged, RECIPE, RERUN).layers == ()
    noisy(tmp_path, facts={"layer_noise": [{"tensor": 1}]})
    with pytest.raises(ArtifactError, match="layers.onnx.json: its layer_noise is damaged"):
        explain(judged, RECIPE, RERUN)


def test_layers_come_from_what_sensitivity_measured(tmp_path: Path) -> None:
    """Of the run's own float graph and of all its nodes; the weights of a node and what it reads together."""
    judged = [(run_of(tmp_path / "cpu", *ON_CPU), Verdict((check("int8-tensorrt"),)))]
    noisy(tmp_path)
    sha256 = read_sidecar(tmp_path / "model.fp32.onnx").sha256
    file = tmp_path / "model.sensitivity.json"

    def write(**more: Any) -> None:
        named: list[tuple[str, QuantizedPart, float]] = [
            ("/c", "weights", 10.0),
            ("/one", "activation", 60.0),
            ("/c", "activation", 30.0),
        ]
        rows = tuple(
            NodeSensitivity(
                node=node, part=part, operator="Conv", layer="", cost_rank=1, gain_rank=1, noise_pct=share,
                alone_sqnr_db=1.0, alone_kl_nats=0.0, alone_agreement_pct=1.0, gain_db=1.0, without_sqnr_db=1.0,
                without_kl_nats=0.0, without_agreement_pct=1.0,
            )
            for node, part, share in named
        )  # fmt: skip
        whole = {"graph": "g", "graph_sha256": sha256, "data": "d", "n": 32, "scheme": "tensorrt",
                 "method": "mse", "nodes": (), "sqnr_db": 1.0, "kl_nats": 0.0, "agreement_pct": 1.0,
                 "predicted_sqnr_db": 1.0}  # fmt: skip
        content = to_plain(Sensitivity(rows=rows, **{**whole, **more}))
        write_json_artifact(file, content, Sidecar(kind="sensitivity"))

    write()
    found = explain(judged, RECIPE, RERUN)
    assert (found.layers_from, found.weights_logit_noise_pct) == ("model.sensitivity.json", None)
    assert [(row.nodes, row.logit_noise_pct) for row in found.layers] == [(("/one",), 60.0), (("/c",), 40.0)]
    step = next(s for s in found.next_steps if s.remedy == "keep-layers-out")
    assert step.command[-1] == 'quantize.exclude=["/one", "/c"]'
    for other in ({"graph_sha256": "of before"}, {"nodes": ("/c",)}):
        write(**other)
        assert explain(judged, RECIPE, RERUN).layers_from == "layers.onnx"
    file.write_text('{"rows": 1}')
    with pytest.raises(ArtifactError, match=r"model.sensitivity.json: damaged.*"):
        explain(judged, RECIPE, RERUN)


def test_layers_are_measured_by_sensitivity_where_there_are_ranges(tmp_path: Path) -> None:
    steps = [step for found in evidences(tmp_path) for step in found.next_steps if step.remedy == "measure-layers"]
    assert {step.command[1] for step in steps} == {"sensitivity", "quantize"}  # the latter with a node kept out already


def test_the_engine_that_fares_worst_is_explained(tmp_path: Path) -> None:
    run = run_of(tmp_path / "cpu", *ON_CPU)
    verdict = Verdict((check("fp16"), check("int8-tensorrt", "INCONCLUSIVE")))
    assert explain([(run, verdict)], RECIPE, RERUN).name == "fp16"
    assert explain([(run, Verdict(()))], RECIPE, RERUN).name == "int8-tensorrt"
    assert explain([(run, verdict)], RECIPE, RERUN, "fp32").verdict == "INCONCLUSIVE"
    with pytest.raises(MeasurementError, match=r"no engine 'int9'.*fp16, fp32, int8-tensorrt"):
        explain([(run, verdict)], RECIPE, RERUN, "int9")
    both = [(run, verdict), (run_of(tmp_path / "b", row("fp16", "fp16", 1, engine={"target": "b"})), verdict)]
    with pytest.raises(MeasurementError, match="several targets"):
        explain(both, RECIPE, RERUN, "fp16")


HOSTILE = 'a b\'c "d"; $(x)'


def evidences(folder: Path) -> list[Any]:
    """Explanations by which every remedy applies at least once; the folder has a name that a shell would tear."""
    folder = folder / HOSTILE
    graph(folder / "model.fp32.onnx")
    graph(folder / "model.int8-tensorrt.onnx")
    graph(folder / "cpu" / "e.onnx")
    (folder / "cpu" / "e.onnx.json").write_text(
        (folder / "cpu" / "e.onnx.json").read_text().replace('"graph"', '"engine"')
    )
    write_artifact(folder / "reference.npz", lambda p: p.write_bytes(b""), Sidecar(kind="predictions"))
    (folder / "model.calib.json").write_text("{}")
    rerun, parents = (str(folder),), ("e.onnx", "../reference.npz")
    int8 = "int8-tensorrt"

    def one(*rows: Measurement, checks: Any, recipe: Recipe = RECIPE) -> Any:
        return explain([(run_of(folder / "cpu", *rows, parents=parents), Verdict(checks))], recipe, rerun)

    failed = (check(int8), check(int8, tolerance="latency_ratio_max"), check(int8, "INCONCLUSIVE", images_needed=9))
    mse = replace(RECIPE, quantize=QuantizeSettings(method="mse", exclude=("/k e y",), global_pool="int8"))
    found = [
        one(*ON_CPU, checks=failed),
        one(*ON_CPU, checks=failed, recipe=mse),
        one(served(), checks=(check("fp32"),)),
    ]
    noisy(folder)
    found.append(one(*ON_CPU, checks=failed))
    trained = replace(RECIPE, train=TrainSettings(epochs=5))
    found.append(one(*ON_CPU[:1], checks=(check("fp32", tolerance="top1_pct_min"),), recipe=trained))
    crash = Crash(crash_step="validate", crash_ended="SIGSEGV")
    crashed = measurement("int8", engine=engine("int8", scheme="tensorrt", **TENSORRT), crash=crash)
    found.append(one(crashed, checks=(check("int8", tolerance="runs"),)))
    own = row("int8", "int8", 90, "tensorrt", engine=TENSORRT, size_mb=1.0)
    on_both = [(run_of(folder / "cpu", *ON_CPU), Verdict(())), (run_of(folder / "gpu", own), Verdict((check("int8"),)))]
    return [*found, explain(on_both, RECIPE, rerun)]


@functools.cache
def command_line() -> Any:
    return typer.main.get_command(application())


def parsed(command: tuple[str, ...]) -> dict[str, Any]:
    """What the command line makes of a command that a shell took apart; raises what it says to a wrong one."""
    _, name, *arguments = shlex.split(shlex.join(command))
    context = command_line().commands[name].make_context(name, arguments)
    found: dict[str, Any] = context.params
    return found


def test_every_remedy_is_a_command_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "r.toml").write_text('[model]\nname = "lenet5"\n[data]\nsource = "digits"\n[train]\nepochs = 1\n')
    seen: set[str] = set()
    for found in evidences(tmp_path):
        gains = [s.expected_gain_pp or 0.0 for s in found.next_steps if not s.gives_up]
        assert gains == sorted(gains, reverse=True)
        for step in found.next_steps:
            seen.add(step.remedy)
            arguments = parsed(step.command)
            if settings := arguments.get("set_"):
                load_recipe("r", settings)
            for key in ("graph", "engine", "reference", "ranges", "recipe"):
                if value := arguments.get(key):
                    assert Path(value).exists(), (step.command, key)
            copied = shlex.split(
                re.sub(r" \\\n", "\n", page_of(replace(found, next_steps=(step,)))).partition(":\n")[0]
            )
            assert copied == list(step.command)
    assert seen == {remedy.__name__.replace("_", "-") for remedy in REMEDIES}
    with pytest.raises(Exception, match="such option"):
        parsed(("edgecnn", "run", "r", "--no-such-option"))


def page_of(found: Any) -> str:
    """The command on a page with one step, and no more."""
    lines = explanation_page(found).splitlines()
    start = next(
        k for k, line in enumerate(lines) if line.lstrip().startswith("edgecnn ") and line.startswith("      ")
    )
    return "\n".join(lines[start:])


def test_marginal_layers_are_the_rules_of_exclude() -> None:
    pytest.importorskip("onnx")
    from edgecnn.graph.qdq.exclude import RULES

    assert set(MARGINAL) == set(RULES)


def test_one_page_of_80_columns_whatever_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {k: f"{k}\x1b[2J\n‮{'漢' * 60}" for k in range(10)}

    def renamed(m: Measurement) -> Measurement:
        found: Accuracy | None = m.accuracy
        assert found is not None
        shares = tuple(replace(s, label_name=names[s.label]) for s in found.class_top1)
        changed = tuple(replace(c, id=f"folder/{'x' * 200}\r{c.id}") for c in found.changed)
        return replace(m, accuracy=replace(found, class_top1=shares, changed=changed, findings=("f" * 500,) * 9))

    noisy(tmp_path)
    checks = tuple(replace(check("int8-tensorrt"), evidence=f"{'long ' * 90}\n{k}") for k in range(9))
    run = run_of(tmp_path / "cpu", *map(renamed, ON_CPU))
    found = explain([(run, Verdict(checks))], replace(RECIPE, path=Path("r" * 30 + ".toml")), RERUN)
    page = explanation_page(found)
    lines = page.splitlines()
    assert len(lines) <= 66, len(lines)
    assert [line for line in lines if width_of(line) > 80] == []
    assert all(c == "\n" or c.isprintable() for c in page)
    for said in (
        "Which stage lost it: INT8",
        "(Holm)",
        "(Bonferroni)",
        "Which layers",
        "and 6 more checks",
        "What to try next",
    ):
        assert said in page
