"""For trtexec on a DLA core: what its TensorRT takes, with every layer that the DLA refuses left to the GPU.

10.3 to 10.7 take the float32 graph, FP16 and INT8 as options and a calibration cache; 11.4.1 the typed graph. Written
by NVIDIA's documentation and never run on a device.
"""

from __future__ import annotations

from pathlib import Path

from edgecnn.artifact.calibration_cache import calibration_cache_text
from edgecnn.artifact.dla_log import GRAPH_LINE, PRECISION_LINE
from edgecnn.artifact.sidecar import file_sha256, sha256_of
from edgecnn.bundle.served import (
    CACHE,
    GRAPH,
    README,
    Served,
    build_script,
    copy_graph,
    readme,
    version_number,
    write_text,
)
from edgecnn.errors import DeviceError, RecipeError
from edgecnn.targets import FIRST_TYPED_DLA, dla_mismatch, targets

BUILD_DLA, LOG = "build-dla.sh", "build.log"
NEVER_RUN = "Nobody has run this on a DLA yet: measure its accuracy and latency before you use it."
COUNT = """dla=$(grep -c '\\[DlaLayer\\]' @LOG@ || true)
gpu=$(grep -c '\\[GpuLayer\\]' @LOG@ || true)
echo "$dla parts on the DLA, $gpu layers left to the GPU:"
sed -n 's/.*\\[GpuLayer\\] /    /p' @LOG@
[ "$dla" -gt 0 ] || say "no layer runs on the DLA: this would be a plan for the GPU" "@LOG@ says why of each"
[ "$(sha256sum @GRAPH@ | cut -d " " -f 1)" = @FILE@ ] || say "@GRAPH@ is not what the bundle had" "copy it again"
echo "@PRECISION_LINE@@PRECISION@" >>@LOG@
echo "@GRAPH_LINE@@SHA256@" >>@LOG@
"""


def write_for_dla(served: Served, core: int, folder: Path) -> None:
    """Fill `folder`; raises `DeviceError` where none of the recipe's targets has that core under this TensorRT,
    `RecipeError` for float32, which no DLA computes."""
    known = [targets()[name] for name in served.recipe.targets]
    reasons = [dla_mismatch(target, served.tensorrt, core) for target in known]
    if all(reasons):
        raise DeviceError("; ".join(dict.fromkeys(map(str, reasons))), "leave --dla out: the plan is then the GPU's")
    if served.precision == "fp32":
        raise RecipeError("--dla with --precision fp32: a DLA computes FP16 and INT8", "name one of them")
    typed = served.version >= FIRST_TYPED_DLA
    about = [f"./{BUILD_DLA} builds for DLA core {core}; {LOG} says which layers it leaves to the GPU.", NEVER_RUN]
    about.append(f"The gate counts them: copy {LOG} to runs/NAME/TARGET/{served.precision}.dla.log.")
    graph = served.graph if typed else served.fp32
    copy_graph(graph, folder / GRAPH)
    options = [] if typed else ["--fp16"]
    if served.precision == "int8" and not typed:
        lacking = _write_cache(served, folder)
        options = ["--int8", "--fp16", f"--calib={CACHE}"]
        about += [f"without a scale, and so in FP16: {', '.join(lacking)}"] if lacking else []
    size, image = served.recipe.batch.opt, "x".join(map(str, served.image_shape))
    shapes = [f"--{kind}Shapes=input:{size}x{image}" for kind in ("min", "opt", "max")]
    script = build_script(
        served,
        [*options, f"--useDLACore={core}", "--allowGPUFallback"],
        f"for DLA core {core}",
        plan=f"model.dla{core}.plan",
        exact=served.precision == "int8" and not typed,
        shapes=shapes,
        log=LOG,
        then=_count(served, graph),
    )
    write_text(folder / BUILD_DLA, script, program=True)
    write_text(folder / README, readme(served, [*about, f"The DLA takes one size: batches of {size}."]))


def _count(served: Served, graph: Path) -> str:
    """What the script prints of the report, and adds to it: of which graph, in which precision."""
    words = {
        "LOG": LOG,
        "GRAPH": GRAPH,
        "FILE": file_sha256(graph),
        "PRECISION_LINE": PRECISION_LINE,
        "PRECISION": served.precision,
        "GRAPH_LINE": GRAPH_LINE,
        "SHA256": sha256_of(graph),
    }
    text = COUNT
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text


def _write_cache(served: Served, folder: Path) -> list[str]:
    """The calibration cache, and the tensors that have no scale in it."""
    from edgecnn.graph.calibration.file import implicit_scales, read_ranges
    from edgecnn.graph.dla import dla_scales
    from edgecnn.graph.load import load_graph

    method = served.recipe.quantize.method
    ranges = read_ranges(served.ranges, sha256_of(served.fp32))
    scales = implicit_scales(ranges, "mse" if method == "auto" else method)
    wanted, lacking = dla_scales(load_graph(served.fp32), scales)
    write_text(folder / CACHE, calibration_cache_text(version_number(served.version), wanted))
    return lacking
