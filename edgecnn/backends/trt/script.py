"""The program that goes with a failing graph: NVIDIA's Python package alone, asked as `check` asks it."""

from __future__ import annotations

from edgecnn.backends.trt.flavor import Flavor

COMMANDS = {"trt": "trtexec --onnx=graph.onnx --stronglyTyped", "trt-rtx": "tensorrt_rtx --onnx=graph.onnx"}

SCRIPT = '''"""Parse and build graph.onnx with PRODUCT; the exit code is 1 where that fails, as it does for us.

    pip install PACKAGE
    python reproduce.py

The same by NVIDIA's own program: COMMAND
"""

import pathlib
import sys

import MODULE as trt

logger = trt.Logger(trt.Logger.WARNING)
print("PRODUCT", trt.__version__, "Python", sys.version.split()[0])
builder = trt.Builder(logger)
typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
network = builder.create_network(0 if typed is None else 1 << int(typed))
parser = trt.OnnxParser(network, logger)
if not parser.parse_from_file(str(pathlib.Path(__file__).with_name("graph.onnx"))):
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        print(error.code(), error.node_operator(), error.node_name(), error.desc())
    sys.exit("the parser refuses it")
config = builder.create_builder_config()
profile = builder.create_optimization_profile()
for index in range(network.num_inputs):
    tensor = network.get_input(index)
    shape = tuple(1 if size < 0 else size for size in tensor.shape)
    profile.set_shape(tensor.name, shape, shape, shape)
config.add_optimization_profile(profile)
if builder.build_serialized_network(network, config) is None:
    sys.exit("the builder fails")
print("a plan was built: it does not fail here")
'''


def reproducing_script(flavor: Flavor) -> str:
    """The text of `reproduce.py`, which reads graph.onnx beside it."""
    words = {
        "PRODUCT": flavor.product,
        "PACKAGE": flavor.packages[0],
        "COMMAND": COMMANDS[flavor.backend],
        "MODULE": flavor.module,
    }
    text = SCRIPT
    for word, value in words.items():
        text = text.replace(word, value)
    return text
