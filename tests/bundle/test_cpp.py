"""The C++ program, compiled here: what it would give the plan is what the network was proven with."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.bundle.cpp import settings_text, write_for_cpp
from edgecnn.bundle.served import Served
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.errors import RecipeError
from edgecnn.recipe.schema import Recipe
from tests.fakes.tiny import tiny_graph

if TYPE_CHECKING:
    import onnxruntime

pytestmark = pytest.mark.torch

STUBS = Path(__file__).parent / "stubs"
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "channels": 3}
FIRST = {"resize": 10, "crop": 8, **IMAGENET}
needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") and Path("/usr/include/jpeglib.h").exists()), reason="no g++, or no header of libjpeg"
)


def served(graph: Path, preprocessing: dict[str, Any], takes: str = "normalised", **facts: Any) -> Served:
    known = {"classes": 5, "serving_input": takes, "serving_output": "logits", **facts}
    names = ["a", 'qu"ot\\e', "ß ?", "d", "e"]
    sidecar = Sidecar(kind="graph", preprocessing=preprocessing, labels=names, facts=known)
    return Served(Recipe(path=Path("net.toml")), "fp32", graph, sidecar, graph, graph, "10.3")


def program(folder: Path, preprocessing: dict[str, Any], takes: str) -> Path:
    graph = folder / "tiny.onnx"
    graph.write_bytes(tiny_graph("fp32").SerializeToString())
    made = folder / "made"
    made.mkdir()
    write_for_cpp(served(graph, preprocessing, takes), made)
    line = ["g++", "-std=c++17", "-O1", "-Wall", "-Werror", "-o", "classify", "main.cpp", "-ljpeg"]
    subprocess.run(line, cwd=made, check=True)
    return made / "classify"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of FIRST, compiled once."""
    return program(tmp_path_factory.mktemp("first"), FIRST, "normalised")


def pictures(folder: Path) -> list[Path]:
    """Photographs of several shapes, in color and gray, one smaller than the crop, as JPEG and netpbm."""
    rng, made = np.random.default_rng(0), []
    for k, (width, height, mode) in enumerate([(57, 43, "RGB"), (31, 90, "RGB"), (40, 64, "L"), (5, 6, "RGB")]):
        shape = (7, 9, 3) if mode == "RGB" else (7, 9)
        image = Image.fromarray(rng.integers(0, 256, shape, np.uint8)).resize((width, height))
        made += [folder / f"{k}.jpg", folder / f"{k}.{'ppm' if mode == 'RGB' else 'pgm'}"]
        image.save(made[-2], quality=92)
        image.save(made[-1])
    return made


def require_same_input(classify: Path, folder: Path, preprocessing: dict[str, Any], takes: Any) -> None:
    """What the program dumps of each picture is what it is fed here, bit for bit, and so are the logits."""
    ours, dump, seen = preprocessing_from_json(preprocessing), folder / "dump.bin", 0
    for path in pictures(folder):
        with Image.open(path) as image:
            wanted = ours.tensor(image, takes)
        subprocess.run([str(classify), "--dump-input", str(dump), str(path)], check=True)
        found = np.frombuffer(dump.read_bytes(), wanted.dtype).reshape(wanted.shape)
        np.testing.assert_array_equal(found, wanted, err_msg=path.name)
        seen += 1
        if takes == "normalised":
            session = onnxruntime.InferenceSession(tiny_graph("fp32").SerializeToString())
            logits = [session.run(None, {"input": batch[None]})[0] for batch in (found, wanted)]
            assert logits[0].tolist() == logits[1].tolist()
    assert seen == 8


@needs_compiler
def test_the_dumped_input_gives_our_predictions(first: Path, tmp_path: Path) -> None:
    require_same_input(first, tmp_path, FIRST, "normalised")


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    ("preprocessing", "takes"),
    [
        ({"resize": 8, "crop": 8, **IMAGENET, "interpolation": "bicubic", "squash": True, "bgr": True}, "uint8-nhwc"),
        (
            {"resize": 33, "crop": [12, 30], "mean": [0.5], "std": [0.5], "channels": 1, "interpolation": "lanczos"},
            "raw-nchw",
        ),
    ],
)
def test_other_preprocessing_gives_our_input_too(tmp_path: Path, preprocessing: dict[str, Any], takes: str) -> None:
    require_same_input(program(tmp_path, preprocessing, takes), tmp_path, preprocessing, takes)


@needs_compiler
def test_what_is_no_whole_picture_ends_with_one_line(first: Path, tmp_path: Path) -> None:
    whole = pictures(tmp_path)[0].read_bytes()
    hostile = {
        "cut.jpg": whole[:-300], "text.jpg": b"no picture", "empty.jpg": b"", "cut.ppm": b"P6 60 60 255\n123",
        "huge.ppm": b"P6 99999999999 9 255\n", "p.ppm": b"P6", "none.ppm": b"P6 0 0 255\n",
    }  # fmt: skip
    for name, content in hostile.items():
        (tmp_path / name).write_bytes(content)
        line = [str(first), "--dump-input", str(tmp_path / "out.bin"), str(tmp_path / name)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == 2, name
        assert done.stderr.startswith(f"error: {tmp_path / name}: ")
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "out.bin").exists()


@needs_compiler
def test_with_tensorrt_it_compiles_against_the_names_of_its_headers(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(tiny_graph("fp32").SerializeToString())
    (tmp_path / "made").mkdir()
    write_for_cpp(served(tmp_path / "model.onnx", {"resize": 10, "crop": 8, **IMAGENET}), tmp_path / "made")
    line = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-DWITH_TENSORRT", f"-I{STUBS}"]
    subprocess.run([*line, "main.cpp"], cwd=tmp_path / "made", check=True)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cmake"), reason="no cmake")
@needs_compiler
def test_cmake_builds_the_program(tmp_path: Path) -> None:
    program(tmp_path, {"resize": 10, "crop": 8, **IMAGENET}, "normalised")
    for line in (["cmake", "-B", "b", "-DWITH_TENSORRT=OFF"], ["cmake", "--build", "b"]):
        subprocess.run(line, cwd=tmp_path / "made", check=True, capture_output=True)
    assert (tmp_path / "made" / "b" / "classify").exists()


@pytest.mark.parametrize(
    ("change", "facts", "said"),
    [
        ({"interpolation": "nearest"}, {}, "is fed by nearest"),
        ({"exif_orientation": True}, {}, "turned upright"),
        ({}, {"serving_output": "top-k"}, "gives top-k"),
        ({}, {"classes": 1}, "has one output"),
    ],
)
def test_what_the_program_does_not_do_is_refused(change: dict[str, Any], facts: dict[str, Any], said: str) -> None:
    preprocessing = {"resize": 10, "crop": 8, **IMAGENET, **change}
    with pytest.raises(RecipeError, match=said):
        settings_text(served(Path("x.onnx"), preprocessing, **facts))
