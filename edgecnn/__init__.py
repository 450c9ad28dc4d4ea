"""edgecnn: classic CNN classifiers from PyTorch to verified FP16/INT8 engines.

    import edgecnn as ec
    engine = ec.build(ec.quantize("m.fp32.onnx", precision="int8", ranges="m.calib.json"), target="cpu")
    ec.validate(engine, "m.reference.npz", data="imgs/val")

Each name is the function of a step, which the command line calls as well; nothing is imported before it is used. A
mistake raises an `EdgecnnError` with a hint.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgecnn.version import __version__ as __version__

if TYPE_CHECKING:
    from edgecnn.errors import (
        ArtifactError,
        BackendError,
        CrashError,
        DataError,
        DeviceError,
        EdgecnnError,
        GraphError,
        MeasurementError,
        MissingPackageError,
        ModelError,
        RecipeError,
        RefusedError,
        RemoteError,
        TrainingError,
        WriteError,
    )
    from edgecnn.inspection.drift import drift
    from edgecnn.inspection.monitor_line import monitor_line
    from edgecnn.inspection.neighbours import neighbours
    from edgecnn.inspection.same import same
    from edgecnn.pipeline.judge import judge
    from edgecnn.pipeline.run import run
    from edgecnn.pipeline.transfer_table import transfer_table
    from edgecnn.recipe.load import load_recipe
    from edgecnn.recipe.schema import BatchSettings, Recipe
    from edgecnn.report.write import write_report
    from edgecnn.results.accuracy import Accuracy
    from edgecnn.results.drift import Drift
    from edgecnn.results.latency import Latency, LatencyFile
    from edgecnn.results.neighbours import Neighbours
    from edgecnn.results.report import Measurement, RunReport
    from edgecnn.results.transfer import TransferTable
    from edgecnn.results.verdict import Check, Verdict
    from edgecnn.results.verification import SamePair, Verification
    from edgecnn.steps.bench import bench
    from edgecnn.steps.build import build
    from edgecnn.steps.calibrate import calibrate
    from edgecnn.steps.ensemble import export_ensemble
    from edgecnn.steps.export import export
    from edgecnn.steps.features import features
    from edgecnn.steps.import_ import import_onnx
    from edgecnn.steps.import_ranges import import_ranges
    from edgecnn.steps.qat import train_quantized
    from edgecnn.steps.quantize import Quantized, quantize
    from edgecnn.steps.reference import reference
    from edgecnn.steps.sensitivity import sensitivity
    from edgecnn.steps.train import train
    from edgecnn.steps.validate import validate
    from edgecnn.steps.verification import validate_verification
    from edgecnn.tuning.search import search

__all__ = [  # in the order of the flow: what does, what it gives, what it raises
    "Accuracy",
    "ArtifactError",
    "BackendError",
    "BatchSettings",
    "Check",
    "CrashError",
    "DataError",
    "DeviceError",
    "Drift",
    "EdgecnnError",
    "GraphError",
    "Latency",
    "LatencyFile",
    "Measurement",
    "MeasurementError",
    "MissingPackageError",
    "ModelError",
    "Neighbours",
    "Quantized",
    "Recipe",
    "RecipeError",
    "RefusedError",
    "RemoteError",
    "RunReport",
    "SamePair",
    "TrainingError",
    "TransferTable",
    "Verdict",
    "Verification",
    "WriteError",
    "bench",
    "build",
    "calibrate",
    "drift",
    "export",
    "export_ensemble",
    "features",
    "import_onnx",
    "import_ranges",
    "judge",
    "load_recipe",
    "monitor_line",
    "neighbours",
    "quantize",
    "reference",
    "run",
    "same",
    "search",
    "sensitivity",
    "train",
    "train_quantized",
    "transfer_table",
    "validate",
    "validate_verification",
    "write_report",
]

_MODULES = {
    "pipeline.run": ("run",),
    "pipeline.judge": ("judge",),
    "pipeline.transfer_table": ("transfer_table",),
    "steps.train": ("train",),
    "steps.qat": ("train_quantized",),
    "steps.export": ("export",),
    "steps.ensemble": ("export_ensemble",),
    "steps.import_": ("import_onnx",),
    "steps.calibrate": ("calibrate",),
    "steps.import_ranges": ("import_ranges",),
    "steps.quantize": ("quantize", "Quantized"),
    "steps.sensitivity": ("sensitivity",),
    "tuning.search": ("search",),
    "steps.reference": ("reference",),
    "steps.build": ("build",),
    "steps.validate": ("validate",),
    "steps.verification": ("validate_verification",),
    "steps.bench": ("bench",),
    "report.write": ("write_report", "RunReport"),  # with what shows one in a notebook
    "recipe.load": ("load_recipe",),
    "recipe.schema": ("Recipe", "BatchSettings"),
    "inspection.drift": ("drift",),
    "inspection.monitor_line": ("monitor_line",),
    "steps.features": ("features",),
    "inspection.neighbours": ("neighbours",),
    "inspection.same": ("same",),
    "results.accuracy": ("Accuracy",),
    "results.drift": ("Drift",),
    "results.latency": ("Latency", "LatencyFile"),
    "results.neighbours": ("Neighbours",),
    "results.report": ("Measurement",),
    "results.transfer": ("TransferTable",),
    "results.verdict": ("Check", "Verdict"),
    "results.verification": ("SamePair", "Verification"),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, once (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'edgecnn' has no attribute {name!r}")
    module = next((where for where, names in _MODULES.items() if name in names), "errors")
    globals()[name] = value = getattr(importlib.import_module(f"edgecnn.{module}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
