"""For DeepStream: the settings of its nvinfer plugin for a classifier, and the script that builds the plan it loads.

nvinfer makes y = net-scale-factor * (x - offsets) of pixels 0 to 255, with one factor for all channels, and compares
each value of the output with `classifier-threshold`, strictly (its default parser of classifiers).
"""

from __future__ import annotations

from pathlib import Path

from edgecnn.bundle.served import (
    GRAPH,
    LABELS,
    PLAN,
    README,
    Served,
    build_script,
    copy_graph,
    readme,
    typed_options,
    write_text,
)
from edgecnn.bundle.trtexec import BUILD, SINCE_TYPED, STRONGLY_TYPED
from edgecnn.contract import INPUT, PROBABILITIES
from edgecnn.errors import RecipeError

CONFIG = "nvinfer.txt"
GEOMETRIES = {"nvinfer-squash": (0, 0), "letterbox": (1, 1)}  # maintain-aspect-ratio, symmetric-padding
NETWORK_MODES = {"fp32": 0, "int8": 1, "fp16": 2}
_RGB, _BGR, _GRAY = 0, 1, 2


def write_for_deepstream(served: Served, folder: Path) -> None:
    """Fill `folder`; raises `RecipeError` for a graph that takes or gives something else than nvinfer does, for a
    geometry that it does not have, and for classes that it cannot name or decide."""
    if served.version < SINCE_TYPED:
        raise RecipeError(
            f"--tensorrt {served.tensorrt}: plans for DeepStream are of TensorRT 10 and later", "name one"
        )
    config = config_text(served)
    copy_graph(served.graph, folder / GRAPH)
    write_text(folder / BUILD, build_script(served, typed_options(served), STRONGLY_TYPED), program=True)
    write_text(folder / CONFIG, config)
    write_text(folder / LABELS, ";".join(served.labels) + "\n")
    about = [
        f"./{BUILD} builds {PLAN} on the device; then, in this folder:",
        f"nvinfer config-file-path={CONFIG}",
        "",
        f"nvinfer loads {PLAN} and builds none itself: its own build would place precisions anew.",
        f"Pictures are scaled as {served.recipe.input.geometry}: what that costs is the report's serving geometry.",
    ]
    write_text(folder / README, readme(served, about))


def config_text(served: Served) -> str:
    """The plugin's settings. The graph takes pixels as they are, with mean and deviation folded into it before it was
    calibrated: the factor is 1 and the offsets are 0, exactly."""
    _require_contract(served)
    keep, center = GEOMETRIES[_geometry_of(served)]
    preprocessing = served.preprocessing
    channels, height, width = preprocessing.input_shape
    if channels == 4:
        raise RecipeError(f"{served.graph}: takes 4 channels; nvinfer gives 3, or 1", "serve it otherwise")
    if separated := next((name for name in served.labels if ";" in name), None):
        raise RecipeError(
            f"{served.graph}: the class name {separated[:80]!r} has a semicolon, which separates names for nvinfer",
            "export it again with --labels",
        )
    settings = {
        "gpu-id": 0,
        "gie-unique-id": 1,
        "process-mode": 1,
        "network-type": 1,
        "network-mode": NETWORK_MODES[served.precision],
        "model-engine-file": PLAN,
        "labelfile-path": LABELS,
        "batch-size": served.recipe.batch.max,
        "infer-dims": f"{channels};{height};{width}",
        "model-color-format": _GRAY if channels == 1 else _BGR if preprocessing.bgr else _RGB,
        "net-scale-factor": 1,
        "offsets": ";".join(["0"] * channels),
        "maintain-aspect-ratio": keep,
        "symmetric-padding": center,
        "scaling-filter": 1,
        "output-blob-names": PROBABILITIES,
        "classifier-threshold": 0,
    }
    lines = [f"{key}={value}" for key, value in settings.items()]
    return "\n".join(["[property]", *lines, ""])


def _require_contract(served: Served) -> None:
    contract, recipe = served.contract, served.recipe
    if (contract.input, contract.output) != ("raw-nchw", "probabilities"):
        raise RecipeError(
            f"{served.graph}: takes {contract.input} and gives {contract.output}; nvinfer gives pixels with one factor "
            f"for all channels as {INPUT}, and compares {PROBABILITIES} with its threshold",
            f"edgecnn run {recipe.path} --set export.input=raw-nchw --set export.output=probabilities; "
            "alone: edgecnn export NETWORK --input raw-nchw --output probabilities",
        )
    if served.classes < 2:
        raise RecipeError(f"{served.graph}: one output; nvinfer takes it for one class, always", "train it with two")
    if recipe.decision.threshold is not None or recipe.decision.reject:
        raise RecipeError(
            f"{recipe.path}: [decision] has thresholds; nvinfer takes the most probable class", "leave [decision] out"
        )


def _geometry_of(served: Served) -> str:
    geometry = served.recipe.input.geometry
    if geometry not in GEOMETRIES:
        raise RecipeError(
            f"{served.recipe.path}: input.geometry = {geometry or ''!r}; nvinfer scales the whole picture: "
            f"{' or '.join(GEOMETRIES)}",
            f"measure what that costs: edgecnn run {served.recipe.path} --set input.geometry=nvinfer-squash",
        )
    return geometry
