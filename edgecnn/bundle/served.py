"""What a bundle for a server or a program is made of: one graph of a run, with what it takes and gives."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgecnn.artifact.external import external_files
from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.temporary import disk_errors, temporary_folder
from edgecnn.contract import ServingContract
from edgecnn.data.preprocess import Preprocessing, preprocessing_from_json
from edgecnn.errors import ArtifactError, WriteError
from edgecnn.recipe.schema import Precision, Recipe
from edgecnn.recipe.variants import route_words
from edgecnn.targets import targets, version_tuple

GRAPH, FLOAT_GRAPH, PLAN, CACHE, LABELS = "model.onnx", "model.fp32.onnx", "model.plan", "model.cache", "labels.txt"
README = "README.txt"


@dataclass(frozen=True)
class Served:
    """The graph of a `precision`, the float32 graph `fp32` of the same run and its calibration `ranges`, for `tensorrt`
    ("10.3", "8.6.2"), and for a core of its `dla`."""

    recipe: Recipe
    precision: Precision
    graph: Path
    sidecar: Sidecar
    fp32: Path
    ranges: Path
    tensorrt: str
    dla: int | None = None

    @property
    def version(self) -> tuple[int, ...]:
        """(10, 3) of "10.3"."""
        return version_tuple(self.tensorrt)

    @property
    def contract(self) -> ServingContract:
        """What it takes and gives."""
        return self.sidecar.contract

    @property
    def classes(self) -> int:
        """How many outputs the network has; raises `ArtifactError` where its sidecar does not say it."""
        found = self.sidecar.facts.get("classes")
        if not isinstance(found, int):
            raise ArtifactError(f"{self.graph}: its sidecar names no number of classes", "make the graph again")
        return found

    @property
    def preprocessing(self) -> Preprocessing:
        """How a picture becomes what it takes; raises `ArtifactError` where its sidecar does not say it."""
        if self.sidecar.preprocessing is None:
            raise ArtifactError(f"{self.graph}: its sidecar names no preprocessing", "make it again with --preprocess")
        return preprocessing_from_json(self.sidecar.preprocessing)

    @property
    def on_jetson(self) -> bool:
        """Whether every target of the recipe shares its memory with the processor, as Jetsons do."""
        known = targets()
        return all(known[name].unified_memory for name in self.recipe.targets)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of one image as the graph takes it: [C, H, W], or [H, W, C] of uint8-nhwc."""
        channels, height, width = self.preprocessing.input_shape
        return (height, width, channels) if self.contract.input == "uint8-nhwc" else (channels, height, width)

    @property
    def labels(self) -> list[str]:
        """A name for each class, its number where it has none; raises `ArtifactError` for one of several lines."""
        found = self.sidecar.labels or [str(k) for k in range(max(2, self.classes))]
        if broken := next((name for name in found if len(name.splitlines()) != 1 or name != name.strip()), None):
            raise ArtifactError(
                f"{self.graph}: the class name {broken[:80]!r} is not one line of text", "export it again with --labels"
            )
        return found


@contextlib.contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `output` when the block ends, and goes where it fails. Raises `WriteError` for an
    `output` that holds anything."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise WriteError(f"{output}: is not a folder", "name another folder with -o")
    if output.is_dir() and any(output.iterdir()):
        raise WriteError(f"{output}: is not empty", "name another folder with -o, or remove it")
    with temporary_folder(output) as temporary:
        made = temporary / "bundle"
        made.mkdir()
        yield made
        with disk_errors(output):
            made.replace(output)


def write_text(path: Path, text: str, *, program: bool = False) -> None:
    """A text file of a bundle; one that is a `program` can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755 if program else 0o644)


def copy_graph(graph: Path, to: Path) -> None:
    """Copy a graph with the files of its weights, which keep the places that the graph names; raises `ArtifactError`
    where one would lie over another file."""
    shutil.copyfile(graph, to)
    for location, file in external_files(graph).items():
        place = to.parent / location
        if place.exists():
            raise ArtifactError(f"{graph}: its weights lie in {location!r}, a name of the bundle", "rename that file")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


def readme(served: Served, lines: list[str]) -> str:
    """README.txt: what the graph takes and gives, and how the folder is used."""
    sizes = served.recipe.batch
    shape = ", ".join(map(str, served.image_shape))
    return "\n".join(
        [
            f"{served.recipe.name}, {served.precision}, for TensorRT {served.tensorrt}",
            "",
            f"takes  input [N, {shape}], {served.contract.input}, N from {sizes.min} to {sizes.max}",
            f"gives  {served.contract.output} of {served.classes} classes",
            f"made from the image as {served.preprocessing.to_json()}",
            "",
            *lines,
            "",
        ]
    )


def typed_options(served: Served) -> list[str]:
    """Of a strongly typed build, TensorRT 11 knows no other; and the recipe's build route."""
    route = route_words(served.recipe, served.precision)
    return [*(["--stronglyTyped"] if served.version < (11,) else []), *([f"--setBuildRoute={route}"] if route else [])]


def shape_options(served: Served) -> list[str]:
    """trtexec's options for the batch sizes of the recipe: one optimization profile, or several with their numbers."""
    image = "x".join(map(str, served.image_shape))
    options = []
    profiles = served.recipe.batch.all_profiles
    for number, sizes in enumerate(profiles):
        options += [f"--profile={number}"] if len(profiles) > 1 else []
        options += [f"--{kind}Shapes=input:{n}x{image}" for kind, n in zip(("min", "opt", "max"), sizes, strict=True)]
    return options


_SCRIPT = """#!/bin/sh
# Builds @PLAN@ of @GRAPH@ with TensorRT @TENSORRT@, @HOW@. Run it on the device@WHERE@.
set -eu
cd "$(dirname "$0")"
plan=@PLAN@
say() { echo "error: $1" >&2; echo "hint: $2" >&2; exit 2; }
trtexec=$(command -v trtexec || echo /usr/src/tensorrt/bin/trtexec)
[ -x "$trtexec" ] || say "no trtexec in PATH nor in /usr/src/tensorrt/bin" "install TensorRT's samples, or extend PATH"
found=$("$trtexec" --help 2>&1 | sed -n 's/.*\\[TensorRT v\\([0-9]*\\)\\].*/\\1/p' | head -n 1)
case "$found" in
    @PATTERN@) ;;
    *) say "$trtexec is of TensorRT ${found:-unknown}, this is for @TENSORRT@ (@PATTERN@)" "@AGAIN@" ;;
esac
@CHECK@mkdir -p "$(dirname "$plan")"
"$trtexec" --onnx=@GRAPH@ --saveEngine="$plan.part" @OPTIONS@@LOG@
@CHECK_MADE@@THEN@mv "$plan.part" "$plan"
echo "$plan: built by TensorRT $found"
"""

_HEADER = """header() { od -An -j24 -N2 -tu1 "$1" | sed 's/^ *//; s/  */./'; }
if [ -e "$plan" ] && [ "$(header "$plan")" != @SHORT@ ]; then
    say "$plan was built by TensorRT $(header "$plan"), this is for @SHORT@" "remove it: a plan runs where it was built"
fi
"""
_HEADER_MADE = (
    '[ "$(header "$plan.part")" = @SHORT@ ] || '
    'say "trtexec made a plan of TensorRT $(header "$plan.part")" "remove $plan.part"\n'
)


def version_number(version: tuple[int, ...]) -> int:
    """100300 of (10, 3), 8602 of (8, 6, 2): how TensorRT prints its version, and names it in a calibration cache."""
    major, minor, patch = (*version, 0, 0)[:3]
    return major * 10_000 + minor * 100 + patch if major >= 10 else major * 1000 + minor * 100 + patch


def build_script(
    served: Served, options: list[str], how: str, *, graph: str = GRAPH, plan: str = PLAN, exact: bool = False,
    inside: str = "", shapes: list[str] | None = None, log: str = "", then: str = "",
) -> str:  # fmt: skip
    """The text of a shell script that builds `plan` of `graph` by trtexec with these `options`, and refuses another
    TensorRT: another major or minor version, or with `exact` another patch too; and a plan that another one built.

    `shapes` are other options than those for the recipe's batch sizes; what trtexec prints goes to the file `log`, and
    `then` is run before the plan is taken."""
    number = str(version_number(served.version if exact else served.version[:2]))
    short = ".".join(map(str, served.version[:2]))
    skip = "--buildOnly" if served.version < (8, 6) else "--skipInference"
    words = {
        "CHECK_MADE": _HEADER_MADE if served.version >= (10,) else "",
        "CHECK": _HEADER if served.version >= (10,) else "",
        "SHORT": short,
        "PATTERN": number if exact else f"{number[:-2]}[0-9][0-9]",
        "TENSORRT": served.tensorrt if exact else short,
        "AGAIN": "make the bundle again: edgecnn bundle RUN --tensorrt VERSION",
        "OPTIONS": shlex.join([*(shape_options(served) if shapes is None else shapes), *options, skip]),
        "LOG": f' >{log} 2>&1 || say "trtexec failed" "its last lines: $(tail -n 3 {log})"' if log else "",
        "THEN": then,
        "WHERE": f", inside {inside}" if inside else "",
        "HOW": how,
        "GRAPH": graph,
        "PLAN": plan,
    }
    return _filled(_SCRIPT, words)


def _filled(text: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text
