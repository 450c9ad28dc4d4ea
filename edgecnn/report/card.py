"""A model card in Hugging Face's form: YAML metadata (base model, quantized relation, metrics), then Markdown.

https://huggingface.co/docs/hub/model-cards, and the `model-index` of papers-with-code that the Hub reads.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from edgecnn.output import inert
from edgecnn.recipe.load import list_recipes
from edgecnn.recipe.schema import Recipe
from edgecnn.report.markdown import markdown_table
from edgecnn.report.tables import Table, check_table, conditions
from edgecnn.results.accuracy import Accuracy, Interval
from edgecnn.results.report import Measurement, RunReport
from edgecnn.zoo import Weights, find_model

Yaml: TypeAlias = "str | int | float | Sequence[Yaml] | Mapping[str, Yaml]"


def model_card(results: RunReport, recipe: Recipe) -> str:
    """The card of one judged target; simulated engines have no place in its table of latencies."""
    metadata = "\n".join(_yaml(_metadata(results, recipe)))
    parts = [
        "# Model card",
        markdown_table(Table(("what", ""), tuple(_facts(results, recipe)))),
        "## Accuracy",
        "On the same images as the reference, which is the network in FP32; intervals are two-sided, 95 %.",
        markdown_table(_accuracies(results)),
    ]
    timed = markdown_table(_latencies(results))
    parts += ["## Devices", timed] if timed else ["## Devices", "No latency was measured on the target."]
    if checks := markdown_table(check_table(results)):
        parts += ["## Tolerances", checks]
    if lines := conditions(results):
        parts += ["## Conditions", markdown_table(Table(("what belongs to the numbers",), tuple((s,) for s in lines)))]
    return f"---\n{metadata}\n---\n\n" + "\n\n".join(parts) + "\n"


def _metadata(results: RunReport, recipe: Recipe) -> dict[str, Yaml]:
    quantized = [m.engine.precision_requested for m in results.measurements if m.engine.precision_requested != "fp32"]
    weights = _published(recipe)
    found: dict[str, Yaml] = {"license": weights.license.lower()} if weights else {}
    found |= {
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": ["onnx", *dict.fromkeys(quantized)],
    }
    if base := base_model(recipe):
        found |= {"base_model": base, **({"base_model_relation": "quantized"} if quantized else {})}
    found["metrics"] = ["accuracy"]
    if rows := [row for m in results.measurements if m.accuracy for row in _result(m, m.accuracy)]:
        found["model-index"] = [{"name": results.recipe, "results": rows}]
    return found


def base_model(recipe: Recipe) -> str:
    """What the graphs were made of: a network of the zoo or of timm, or the file of an own one."""
    model = recipe.model
    if model.timm:
        return f"timm/{model.timm}"
    return model.name or Path(str(model.python or model.onnx or "").partition(":")[0]).name


def _published(recipe: Recipe) -> Weights | None:
    return find_model(recipe.model.name).weights if recipe.model.name and recipe.model.weights == "default" else None


def _result(m: Measurement, accuracy: Accuracy) -> Iterator[dict[str, Yaml]]:
    n = accuracy.n
    metrics = [
        *_metric("accuracy", f"top-1 %, {m.name}", accuracy.top1_pct, accuracy.top1_ci_pct, accuracy.n_labelled),
        *_metric("accuracy", f"top-5 %, {m.name}", accuracy.top5_pct, None, accuracy.n_labelled),
        *_metric(
            "top1_drop_pp",
            f"top-1 drop from FP32, percentage points, {m.name}",
            accuracy.top1_drop_pp,
            accuracy.top1_drop_ci_pp,
            accuracy.n_labelled,
        ),
        *_metric("agreement", f"agreement with FP32 %, {m.name}", accuracy.agreement_pct, accuracy.agreement_ci_pct, n),
    ]
    yield {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {"type": accuracy.data, "name": accuracy.data, "split": "test"},
        "metrics": metrics,
    }


def _metric(kind: str, name: str, value: float | None, interval: Interval | None, n: int) -> Iterator[dict[str, Yaml]]:
    if value is None:
        return
    args: dict[str, Yaml] = {"n": n}
    if interval is not None:
        args |= {"confidence_pct": 95, "low": round(interval[0], 4), "high": round(interval[1], 4)}
    yield {"type": kind, "name": name, "value": round(value, 4), "args": args}


def _facts(results: RunReport, recipe: Recipe) -> Iterator[tuple[str, str]]:
    weights = _published(recipe)
    yield "recipe", f"{results.recipe}: {results.title}" if results.title else results.recipe
    yield "base model", base_model(recipe) or "-"
    yield "weights", weights.url if weights else str(recipe.model.weights)
    yield "target", results.target
    yield "device", str(results.device) if results.device else "-"
    yield "verdict", results.verdict.verdict
    yield "made again by", f"edgecnn run {shlex.quote(_named(recipe))}"


def _named(recipe: Recipe) -> str:
    """A recipe as `edgecnn run` finds it: by its name where it is one of the listed, else by its file."""
    return recipe.name if recipe.name in list_recipes() else recipe.path.name


def _accuracies(results: RunReport) -> Table:
    rows = [
        (
            m.name,
            m.engine.precision_obtained or m.engine.precision_requested,
            f"{m.accuracy.data}, n = {m.accuracy.n}",
            _interval(m.accuracy.top1_pct, m.accuracy.top1_ci_pct),
            _number(m.accuracy.top5_pct),
            _interval(m.accuracy.top1_drop_pp, m.accuracy.top1_drop_ci_pp),
            _interval(m.accuracy.agreement_pct, m.accuracy.agreement_ci_pct),
            "simulated" if m.simulated else "",
        )
        for m in results.measurements
        if m.accuracy
    ]
    heads = ("engine", "precision", "images", "top-1 %", "top-5 %", "top-1 drop pp", "agreement %", "")
    return Table(heads, tuple(rows))


def _latencies(results: RunReport) -> Table:
    rows = [
        (
            str(results.device) or results.target,
            m.name,
            m.engine.precision_obtained or m.engine.precision_requested,
            f"{m.own_latency.batch}, {m.own_latency.mode}",
            *(_number(m.figure(key)) for key in ("latency_ms_p50", "latency_ms_p99", "throughput_images_per_s")),
            *(_number(m.figure(key)) for key in ("device_memory_mb", "size_mb")),
        )
        for m in results.measurements
        if m.own_latency
    ]
    heads = (
        "device", "engine", "precision", "batch, mode", "p50 ms", "p99 ms", "images/s", "device memory MB", "size MB",
    )  # fmt: skip
    return Table(heads, tuple(rows))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _interval(value: float | None, interval: Interval | None) -> str:
    if value is None or interval is None:
        return _number(value)
    return f"{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def _yaml(content: Mapping[str, Yaml], indent: str = "") -> Iterator[str]:
    """A mapping as YAML; text is quoted, so that no name is taken for something else, with what cannot be printed as
    its escape."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _yaml(value, f"{indent}  ")
        elif isinstance(value, str) or not isinstance(value, Sequence):
            yield f"{indent}{key}: {_scalar(value)}"
        else:
            yield f"{indent}{key}:"
            for one in value:
                if isinstance(one, Mapping):
                    first, *rest = _yaml(one, f"{indent}  ")
                    yield f"{indent}- {first.lstrip()}"
                    yield from rest
                else:
                    yield f"{indent}- {_scalar(one)}"


def _scalar(value: Yaml) -> str:
    return json.dumps(inert(value), ensure_ascii=False) if isinstance(value, str) else json.dumps(value)
