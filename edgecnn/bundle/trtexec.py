"""For trtexec: graphs, a calibration cache where TensorRT has implicit INT8, and a script that builds the plan."""

from __future__ import annotations

from pathlib import Path

from edgecnn.bundle.dla import write_for_dla
from edgecnn.bundle.served import (
    CACHE,
    FLOAT_GRAPH,
    GRAPH,
    PLAN,
    README,
    Served,
    build_script,
    copy_graph,
    readme,
    typed_options,
    version_number,
    write_text,
)
from edgecnn.errors import RecipeError

OLDEST, SINCE_TYPED = (8, 5), (10,)
BUILD, BUILD_IMPLICIT, IMPLICIT_PLAN = "build.sh", "build-implicit.sh", "model.implicit.plan"
STRONGLY_TYPED = "strongly typed: the precision is the graph's"


def write_for_trtexec(served: Served, folder: Path) -> None:
    """Fill `folder`; raises `RecipeError` for a TensorRT that is not known, or whose patch version the calibration
    cache needs."""
    if served.version < OLDEST or (9,) <= served.version < SINCE_TYPED:
        raise RecipeError(f"--tensorrt {served.tensorrt}: scripts are for TensorRT 8.5, 8.6 and from 10 on", "name one")
    if served.dla is not None:
        write_for_dla(served, served.dla, folder)
        return
    about = [f"./{BUILD} builds {PLAN}; another TensorRT is refused."]
    if served.version >= SINCE_TYPED:
        copy_graph(served.graph, folder / GRAPH)
        script = build_script(served, typed_options(served), STRONGLY_TYPED)
        write_text(folder / BUILD, script, program=True)
        if served.precision == "int8" and served.version < (11,):
            copy_graph(served.fp32, folder / FLOAT_GRAPH)
            write_text(folder / BUILD_IMPLICIT, _implicit(served, folder, FLOAT_GRAPH, IMPLICIT_PLAN), program=True)
            about.append(f"./{BUILD_IMPLICIT} builds {IMPLICIT_PLAN}: TensorRT places INT8 by itself, by {CACHE}.")
        write_text(folder / README, readme(served, about))
        return
    _write_at_old_opset(served, folder / GRAPH)
    write_text(folder / README, readme(served, about))
    if served.precision == "int8":
        script = _implicit(served, folder, GRAPH, PLAN)
    else:
        script = build_script(served, ["--fp16"] if served.precision == "fp16" else [], "which chooses the precision")
    write_text(folder / BUILD, script, program=True)


def _implicit(served: Served, folder: Path, graph: str, plan: str) -> str:
    """The script of a build in which TensorRT places INT8 by itself, with its calibration cache."""
    from edgecnn.artifact.sidecar import sha256_of
    from edgecnn.graph.calibration.file import read_ranges, write_tensorrt_cache

    if len(served.version) < 3 and served.version < SINCE_TYPED:
        raise RecipeError(
            f"--tensorrt {served.tensorrt}: a calibration cache is of one patch version",
            "name it, as 8.5.2 (JetPack 5.1) or 8.6.2 (JetPack 6.0): `dpkg -l tensorrt` on the device",
        )
    method = served.recipe.quantize.method
    ranges = read_ranges(served.ranges, sha256_of(served.fp32))
    write_tensorrt_cache(ranges, folder / CACHE, version_number(served.version), "mse" if method == "auto" else method)
    how = "which places INT8 by itself"
    options = ["--int8", "--fp16", f"--calib={CACHE}"]
    return build_script(served, options, how, graph=graph, plan=plan, exact=True)


def _write_at_old_opset(served: Served, path: Path) -> None:
    import onnx

    from edgecnn.graph.load import load_graph
    from edgecnn.graph.opset import lower_opset

    onnx.save(lower_opset(load_graph(served.fp32), str(served.fp32)), str(path))
