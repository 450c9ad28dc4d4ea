"""For C++: a program that decodes, preprocesses and runs a plan, with CMake, and the script that builds the plan."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from edgecnn.bundle.served import GRAPH, README, Served, build_script, copy_graph, readme, typed_options, write_text
from edgecnn.bundle.trtexec import BUILD, SINCE_TYPED, STRONGLY_TYPED
from edgecnn.contract import OUTPUT, PROBABILITIES
from edgecnn.errors import RecipeError

SOURCES = ("classifier.hpp", "main.cpp", "CMakeLists.txt")
SETTINGS = "settings.hpp"
SUPPORTS = {"bilinear": 1, "bicubic": 2, "lanczos": 3}


def write_for_cpp(served: Served, folder: Path) -> None:
    """Fill `folder`; raises `RecipeError` for a graph or a preprocessing that the program does not have."""
    if served.version < SINCE_TYPED:
        raise RecipeError(f"--tensorrt {served.tensorrt}: the program is for TensorRT 10 and later", "name one")
    settings = settings_text(served)
    copy_graph(served.graph, folder / GRAPH)
    write_text(folder / BUILD, build_script(served, typed_options(served), STRONGLY_TYPED), program=True)
    write_text(folder / SETTINGS, settings)
    for name in SOURCES:
        write_text(folder / name, resources.files(__name__).joinpath(name).read_text(encoding="utf-8"))
    about = [
        f"./{BUILD}                                          # on the device: model.plan",
        "cmake -B made && cmake --build made                 # needs libjpeg, CUDA, TensorRT",
        "made/classify model.plan IMAGE.jpg ...",
        "made/classify --dump-input OUT.bin IMAGE.jpg        # what the plan is given",
        "-DWITH_TENSORRT=OFF builds a program for the last line alone.",
    ]
    write_text(folder / README, readme(served, about))


def settings_text(served: Served) -> str:
    """The header with what differs from one classifier to another."""
    preprocessing, contract = served.preprocessing, served.contract
    refused = ""
    if contract.output == "top-k":
        refused = "gives top-k, and the program reads a value for each class"
    elif served.classes < 2:
        refused = "has one output, and the program takes the greatest of several"
    elif preprocessing.channels == 4:
        refused = "takes 4 channels, and the program makes 1 or 3"
    elif preprocessing.interpolation not in SUPPORTS:
        refused = f"is fed by {preprocessing.interpolation}, and the program resizes by {', '.join(SUPPORTS)}"
    elif preprocessing.exif_orientation:
        refused = "takes pictures turned upright, and the program reads them as they are stored"
    if refused:
        raise RecipeError(f"{served.graph}: {refused}", "serve it by Triton: --for triton")
    height, width = preprocessing.size
    numbers = {
        "channels": preprocessing.channels, "height": height, "width": width, "resize": preprocessing.resize,
        "support": SUPPORTS[preprocessing.interpolation], "classes": served.classes,
    }  # fmt: skip
    switches = {
        "squash": preprocessing.squash,
        "bgr": preprocessing.bgr,
        "normalised": contract.input == "normalised",
        "uint8_nhwc": contract.input == "uint8-nhwc",
    }
    lines = ["#pragma once", "", "namespace settings {"]
    lines += [f"constexpr int {name} = {value};" for name, value in numbers.items()]
    lines += [f"constexpr bool {name} = {str(value).lower()};" for name, value in switches.items()]
    lines += [f"constexpr float {key}[] = {_floats(getattr(preprocessing, key))};" for key in ("mean", "std")]
    output = OUTPUT if contract.output == "logits" else PROBABILITIES
    labels = ", ".join(_literal(label) for label in served.labels)
    lines += [f"constexpr const char *output = {_literal(output)};", f"constexpr const char *labels[] = {{{labels}}};"]
    return "\n".join([*lines, "}  // namespace settings", ""])


def _floats(values: tuple[float, ...]) -> str:
    return "{" + ", ".join(f"{float(value)!r}f" for value in values) + "}"


def _literal(text: str) -> str:
    """A string literal of C++: UTF-8 bytes, those beyond ASCII and what could begin a trigraph in octal."""
    plain = {*range(32, 127)} - {ord(c) for c in '"\\?'}
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in text.encode()) + '"'
