"""For Triton Inference Server: a model repository, and the script that builds its plan inside the server's container.

Settings are those of `model_config.proto` (triton-inference-server/common), written as protobuf's text format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from edgecnn.bundle.served import (
    GRAPH,
    LABELS,
    README,
    Served,
    build_script,
    copy_graph,
    readme,
    typed_options,
    write_text,
)
from edgecnn.bundle.trtexec import BUILD, STRONGLY_TYPED
from edgecnn.contract import INPUT, OUTPUT, PROBABILITIES, TOP_CLASSES, TOP_K, TOP_PROBABILITIES
from edgecnn.errors import RecipeError

# Containers by the TensorRT that they carry, the newest of each. Unverified: no image was pulled. The script that runs
# inside asks trtexec for its version, and refuses where this table is wrong.
CONTAINERS: dict[tuple[int, ...], str] = {
    (10, 3): "24.08", (10, 4): "24.09", (10, 5): "24.10", (10, 6): "24.11", (10, 7): "24.12", (10, 8): "25.02",
    (10, 9): "25.04", (10, 10): "25.05", (10, 11): "25.06", (10, 13): "25.10",
}  # fmt: skip
IMAGE = "nvcr.io/nvidia/tritonserver"
REPOSITORY, CONFIG = "repository", "config.pbtxt"
_FLOAT, _UINT8, _INT32 = "TYPE_FP32", "TYPE_UINT8", "TYPE_INT32"


def write_for_triton(served: Served, folder: Path) -> None:
    """Fill `folder`; raises `RecipeError` for a TensorRT that no known container carries, for a name that is no
    model's, and for batches that the server cannot keep to."""
    release = CONTAINERS.get(served.version[:2])
    if release is None:
        known = ", ".join(f"{major}.{minor}" for major, minor in CONTAINERS)
        raise RecipeError(
            f"--tensorrt {served.tensorrt}: no container of Triton is known to carry it; known are {known}",
            "name one of them: the plan is built and run inside the container",
        )
    name, sizes = served.recipe.name, served.recipe.batch
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise RecipeError(f"{name}: no name of a model of Triton", "name the recipe with letters, digits, _, - and .")
    if sizes.min != 1:
        raise RecipeError(
            f"batch.min = {sizes.min}: Triton also sends single images, which the plan would refuse", "set it to 1"
        )
    board = "-igpu" if served.on_jetson and served.version < (10, 13) else ""
    image = f"{IMAGE}:{release}-py3{board}"
    copy_graph(served.graph, folder / GRAPH)
    plan, inside = f"{REPOSITORY}/{name}/1/model.plan", f"the container {image}"
    script = build_script(served, typed_options(served), STRONGLY_TYPED, plan=plan, inside=inside)
    write_text(folder / BUILD, script, program=True)
    write_text(folder / REPOSITORY / name / CONFIG, config_text(served))
    if _has_labels(served):
        write_text(folder / REPOSITORY / name / LABELS, "".join(f"{label}\n" for label in served.labels))
    run = f'docker run --rm --gpus all -v "$PWD":/bundle {image}'
    about = [
        f"{run} /bundle/{BUILD}",
        f"{run.replace('--rm', '--rm --net host')} tritonserver --model-repository=/bundle/{REPOSITORY}",
        "",
        "The image was not pulled when this was written. On a Jetson it is --runtime nvidia in place of --gpus all.",
    ]
    write_text(folder / README, readme(served, about))


def config_text(served: Served) -> str:
    """The settings of the model, for every batch size of the recipe: requests are joined up to the largest, by
    preference to those that the plan is fastest at."""
    sizes, takes_type = served.recipe.batch, _UINT8 if served.contract.input == "uint8-nhwc" else _FLOAT
    dims = _list(served.image_shape)
    lines = [
        f"name: {_text(served.recipe.name)}",
        'platform: "tensorrt_plan"',
        f"max_batch_size: {sizes.max}",
        f"input [ {{ name: {_text(INPUT)} data_type: {takes_type} dims: {dims} }} ]",
        f"output [ {', '.join(_outputs(served))} ]",
    ]
    profiles = [str(k) for k in range(len(sizes.all_profiles))]
    chosen = f" profile: {_list(map(_text, profiles))}" if len(profiles) > 1 else ""
    lines.append(f"instance_group [ {{ count: 1 kind: KIND_GPU{chosen} }} ]")
    if sizes.max > 1:
        fast = sorted({opt for _, opt, _ in sizes.all_profiles if opt > 1})
        preferred = f" preferred_batch_size: {_list(fast)} " if fast else ""
        lines.append(f"dynamic_batching {{{preferred}}}")
    for n in sorted({1, sizes.opt, sizes.max}):
        tensor = f"data_type: {takes_type} dims: {dims} zero_data: true"
        inputs = f"inputs {{ key: {_text(INPUT)} value {{ {tensor} }} }}"
        lines.append(f"model_warmup {{ name: {_text(f'batch {n}')} batch_size: {n} {inputs} }}")
    return "\n".join(lines) + "\n"


def _outputs(served: Served) -> list[str]:
    classes, labels = served.classes, f" label_filename: {_text(LABELS)}" if _has_labels(served) else ""
    if served.contract.output == "top-k":
        k = min(TOP_K, classes)
        both = ((TOP_PROBABILITIES, _FLOAT), (TOP_CLASSES, _INT32))
        return [f"{{ name: {_text(name)} data_type: {kind} dims: [ {k} ] }}" for name, kind in both]
    name = PROBABILITIES if served.contract.output == "probabilities" else OUTPUT
    return [f"{{ name: {_text(name)} data_type: {_FLOAT} dims: [ {classes} ]{labels} }}"]


def _has_labels(served: Served) -> bool:
    """Whether each output is one class, which a name stands for."""
    return served.contract.output != "top-k" and served.classes > 1


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=True)


def _list(values: Iterable[object]) -> str:
    return f"[ {', '.join(map(str, values))} ]"
