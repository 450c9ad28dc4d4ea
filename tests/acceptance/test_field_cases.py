"""What users of this field report of their files: read as meant, or refused with a way out that works when followed."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.acceptance.channel_pictures import (
    PREPROCESSING,
    RED,
    SIDE,
    Result,
    class_model,
    import_model,
    level,
    save_color,
    sidecar,
    write_json,
)

if TYPE_CHECKING:
    import onnxruntime

pytestmark = pytest.mark.torch

Command = Callable[..., Result]
CLASSES = ("ash", "birch", "cedar", "elm")


@pytest.fixture
def preprocess(tmp_path: Path) -> Path:
    return write_json(tmp_path / "pre.json", PREPROCESSING)


# --- external data -------------------------------------------------------------------------------------------------


def put_external(folder: Path, location: str = "weights.bin") -> Path:
    """The graph of four classes with its weights in a file beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "red.onnx"
    onnx.save(class_model(4, RED), str(path), save_as_external_data=True, location=location, size_threshold=0)
    return path


def test_a_model_hub_of_symbolic_links_names_the_copy_that_works(
    edgecnn: Command, tmp_path: Path, preprocess: Path
) -> None:
    blobs = put_external(tmp_path / "blobs").parent
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for name in ("red.onnx", "weights.bin"):
        (snapshot / name).symlink_to(blobs / name)
    result = edgecnn("import", snapshot / "red.onnx", "--preprocess", preprocess, "-o", tmp_path / "x.onnx")
    result.refused("weights.bin", "symbolic link", "cp -L")
    line = result.err.split("hint: ")[1].split(", and give")[0].partition(", ")[2].replace("FOLDER", "copied")
    assert {word for word in shlex.split(line) if word[0].isalpha()} == {"mkdir", "cp", "copied"}
    subprocess.run(line, shell=True, check=True, cwd=tmp_path)
    copied = tmp_path / "copied" / "red.onnx"
    assert edgecnn("import", copied, "--preprocess", preprocess, "-o", tmp_path / "x.onnx").code == 0


def test_external_data_cut_short_is_named_with_its_sizes(edgecnn: Command, tmp_path: Path, preprocess: Path) -> None:
    path = put_external(tmp_path / "cut")
    data = path.with_name("weights.bin")
    data.write_bytes(data.read_bytes()[:40])
    result = edgecnn("import", path, "--preprocess", preprocess, "-o", tmp_path / "x.onnx")
    result.refused("weights.bin", "truncated: 40 bytes", "download")


@pytest.mark.parametrize("location", ["../weights.bin", "/weights.bin"])
def test_external_data_outside_of_the_folder_is_refused(
    edgecnn: Command, tmp_path: Path, preprocess: Path, location: str
) -> None:
    path = put_external(tmp_path / "inner")
    (tmp_path / "weights.bin").write_bytes(path.with_name("weights.bin").read_bytes())
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        next(e for e in tensor.external_data if e.key == "location").value = location
    path.write_bytes(model.SerializeToString())
    result = edgecnn("import", path, "--preprocess", preprocess, "-o", tmp_path / "x.onnx")
    result.refused(location, "outside", "weights inside")


# --- the ends of graphs --------------------------------------------------------------------------------------------

LOGITS = ("logits", TensorProto.FLOAT, ["batch", 4])


def put_end(path: Path, nodes: Sequence[onnx.NodeProto], outputs: Sequence[tuple[str, int, Any]], gain: float) -> Path:
    """The graph of four classes with `nodes` behind its logits."""
    model = class_model(4, RED, gain=gain)
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array([2], np.int64), "two"))
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(*output) for output in outputs)
    onnx.save(model, str(path))
    return path


def decides(path: Path) -> list[int]:
    """What an imported graph says of each level of red; its output has to be called logits."""
    images = np.zeros((4, 3, SIDE, SIDE), np.float32)
    images[:, RED] = np.array([level(k, 4) for k in range(4)]).reshape(4, 1, 1) / 255
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    classes: list[int] = session.run(["logits"], {"input": images})[0].argmax(1).tolist()
    return classes


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    made: onnx.NodeProto = helper.make_node(kind, inputs.split(), outputs.split(), None, **attributes)
    return made


PROBABILITIES = ("prob", TensorProto.FLOAT, ["batch", 4])


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("gain", [40.0, 1e5])
def test_a_softmax_is_taken_off_also_where_it_saturates(
    edgecnn: Command, tmp_path: Path, preprocess: Path, kind: str, gain: float
) -> None:
    nodes = [node(kind, "logits", "q", axis=-1), node("Identity", "q", "prob")]
    source = put_end(tmp_path / "s.onnx", nodes, [PROBABILITIES], gain)
    result = edgecnn("import", source, "--preprocess", preprocess, "-o", tmp_path / "x.onnx")
    assert result.code == 0, result.said
    assert f"the {kind} at the end" in result.said
    assert decides(tmp_path / "x.onnx") == [0, 1, 2, 3]


ENDS = {
    "two heads": ([node("Mul", "logits logits", "aux")], [("aux", *LOGITS[1:]), LOGITS]),
    "features": ([], [("f", TensorProto.FLOAT, ["batch", 3]), LOGITS]),
    "decision": ([node("ArgMax", "logits", "k", axis=1)], [("k", TensorProto.INT64, ["batch", 1])]),
    "both": ([node("ArgMax", "logits", "k", axis=1)], [("k", TensorProto.INT64, ["batch", 1]), LOGITS]),
    "best two": (
        [node("TopK", "logits two", "v i", axis=1)],
        [("v", TensorProto.FLOAT, ["batch", 2]), ("i", TensorProto.INT64, ["batch", 2])],
    ),
    "loss": (
        [node("Softmax", "logits", "q", axis=1), node("Log", "q", "l"), node("Neg", "l", "prob")],
        [PROBABILITIES],
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_an_end_that_is_no_score_names_the_tensor_that_is(
    edgecnn: Command, tmp_path: Path, preprocess: Path, end: str
) -> None:
    source = put_end(tmp_path / "s.onnx", *ENDS[end], gain=40.0)
    arguments = ["import", source, "--preprocess", preprocess, "-o", tmp_path / "x.onnx"]
    result = edgecnn(*arguments)
    result.refused("--output-name")
    name = "logits" if end in ("two heads", "features", "both") else result.err.split("--output-name ")[1].split()[0]
    result = edgecnn(*arguments, "--output-name", name)
    assert result.code == 0, result.said
    assert decides(tmp_path / "x.onnx") == [0, 1, 2, 3]
    assert len(onnx.load(tmp_path / "x.onnx").graph.node) == len(class_model(4, RED).graph.node)


def test_a_softmax_over_another_axis_is_refused(edgecnn: Command, tmp_path: Path, preprocess: Path) -> None:
    source = put_end(tmp_path / "s.onnx", [node("Softmax", "logits", "prob", axis=0)], [PROBABILITIES], 40.0)
    edgecnn("import", source, "--preprocess", preprocess, "-o", tmp_path / "x.onnx").refused("classes")


def test_a_name_of_no_tensor_is_refused(edgecnn: Command, tmp_path: Path, preprocess: Path) -> None:
    source = put_end(tmp_path / "s.onnx", [], [LOGITS], 40.0)
    edgecnn("import", source, "--preprocess", preprocess, "--output-name", "logit").refused("'logit'", "did you mean")


def test_an_input_that_nothing_reads_is_dropped_and_said(edgecnn: Command, tmp_path: Path, preprocess: Path) -> None:
    source = put_end(tmp_path / "s.onnx", [], [LOGITS], 40.0)
    model = onnx.load(source)
    model.graph.input.insert(0, helper.make_tensor_value_info("target", TensorProto.INT64, ["batch"]))
    onnx.save(model, str(source))
    result = edgecnn("import", source, "--preprocess", preprocess, "-o", tmp_path / "x.onnx")
    assert result.code == 0, result.said
    assert "'target'" in result.said
    assert decides(tmp_path / "x.onnx") == [0, 1, 2, 3]


# --- pictures as they lie on disks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "heading", "comma"), [("val.txt", "", " "), ("val.csv", "ImageId,Class\r\n", ",")])
def test_a_list_of_pictures_names_the_line_that_sorts_them(
    edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path, name: str, heading: str, comma: str
) -> None:
    graph = import_model(capfd, class_model(4, RED), tmp_path / "g" / "red.onnx", CLASSES)
    rows = heading
    for k in (2, 0, 3, 1, 2):
        picture = save_color(tmp_path / "flat" / f"{len(rows)}.png", (level(k, 4), 9, 9))
        rows += f"{picture.name}{comma}{CLASSES[k]}\n"
    (tmp_path / name).write_text(rows, newline="")
    result = edgecnn("reference", graph, "--data", tmp_path / name, "-o", tmp_path / "r.npz")
    result.refused(str(tmp_path / name), "class folders")
    line = result.err.split("counts from: ")[1].strip().replace("PICTURES", "flat")
    subprocess.run(["bash", "-c", line], check=True, cwd=tmp_path)
    result = edgecnn("reference", graph, "--data", tmp_path / "sorted", "-o", tmp_path / "r.npz")
    assert result.code == 0, result.said
    found = np.load(tmp_path / "r.npz")
    assert sorted(found["labels"].tolist()) == [0, 1, 2, 2, 3]
    assert found["labels"].tolist() == found["logits"].argmax(1).tolist()


def test_an_archive_without_input_says_what_it_holds(
    edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    graph = import_model(capfd, class_model(4, RED), tmp_path / "g" / "red.onnx", CLASSES)
    images = np.random.default_rng(0).random((4, 3, SIDE, SIDE), np.float32)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(4))
    result = edgecnn("calibrate", graph, "--data", tmp_path / "a.npz", "-o", tmp_path / "c.json")
    result.refused("'images', 'labels'", "input=IMAGES")
    np.savez(tmp_path / "a.npz", input=images, label=np.arange(4))
    assert edgecnn("calibrate", graph, "--data", tmp_path / "a.npz", "-o", tmp_path / "c.calib.json").code == 0


def test_a_batch_frozen_at_four_is_measured_in_fours(
    edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = class_model(4, RED)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    model.graph.node[-1].output[0] = "scores"
    model.graph.node.append(node("Add", "scores rows", "logits"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((4, 4), np.float32), "rows"))
    graph = import_model(capfd, model, tmp_path / "g" / "four.onnx", CLASSES)
    assert onnx.load(graph).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    for k in range(10):
        save_color(tmp_path / "data" / CLASSES[k % 4] / f"{k}.png", (level(k % 4, 4), 9, 9))
    result = edgecnn("reference", graph, "--data", tmp_path / "data", "-o", tmp_path / "r.npz")
    assert result.code == 0, result.said
    found = np.load(tmp_path / "r.npz")
    assert len(found["ids"]) == 10
    assert found["labels"].tolist() == found["logits"].argmax(1).tolist()
    for more in ([], ["--batch", 3], ["--batch", 8]):
        out = tmp_path / "a.json"
        result = edgecnn(
            "validate", graph, "--reference", tmp_path / "r.npz", "--data", tmp_path / "data", *more, "-o", out
        )
        assert result.code == 0, result.said
        assert json.loads(out.read_text())["top1_pct"] == 100


def test_nodes_that_share_a_name_get_names_of_their_own(edgecnn: Command, tmp_path: Path, preprocess: Path) -> None:
    model = class_model(4, RED)
    for made in model.graph.node:
        made.name = "layer"
    onnx.save(model, str(tmp_path / "s.onnx"))
    result = edgecnn("import", tmp_path / "s.onnx", "--preprocess", preprocess, "-o", tmp_path / "x.onnx")
    assert result.code == 0, result.said
    assert len({made.name for made in onnx.load(tmp_path / "x.onnx").graph.node}) == len(model.graph.node)
    assert decides(tmp_path / "x.onnx") == [0, 1, 2, 3]


def put_pooled_squeeze(path: Path, squeezes: Sequence[onnx.NodeProto], arrays: dict[str, np.ndarray]) -> Path:
    """The graph of four classes with a convolution, and `squeezes` from p [batch, 3, 1, 1] to f [batch, 3]."""
    model = class_model(4, RED)
    pool, _, head = model.graph.node
    pool.input[0] = "c"
    nodes = [node("Conv", "input eye", "c", kernel_shape=[1, 1]), pool, *squeezes, head]
    kept = [onnx.NodeProto.FromString(made.SerializeToString()) for made in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    arrays = {"eye": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), **arrays}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in arrays.items())
    onnx.save(model, str(path))
    return path


def branch(name: str, *made: onnx.NodeProto) -> onnx.GraphProto:
    output = helper.make_tensor_value_info(made[-1].output[0], TensorProto.FLOAT, None)
    return helper.make_graph(list(made), name, [], [output])


def squeezed(how: str) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    if how == "without axes":
        return [node("Squeeze", "p", "f")], {}
    arrays = {"three": np.array([3], np.int64), "one": np.array([1], np.int64), "last": np.array([2, 3], np.int64)}
    ways = {
        "then_branch": branch("then", node("Squeeze", "p last", "t")),
        "else_branch": branch("else", node("Identity", "p", "e")),
    }
    condition = [node("Shape", "p", "s"), node("Gather", "s three", "width"), node("Equal", "width one", "same")]
    return [*condition, node("If", "same", "f", **ways)], arrays


@pytest.mark.parametrize("how", ["without axes", "in a branch"])
def test_a_squeeze_that_shapes_settle_is_carried_into_every_precision(
    edgecnn: Command, tmp_path: Path, preprocess: Path, how: str
) -> None:
    source = put_pooled_squeeze(tmp_path / "s.onnx", *squeezed(how))
    graph = tmp_path / "x.onnx"
    result = edgecnn("import", source, "--preprocess", preprocess, "-o", graph)
    assert result.code == 0, result.said
    kinds = [made.op_type for made in onnx.load(graph).graph.node]
    assert kinds == ["Conv", "GlobalAveragePool", "Squeeze", "Gemm"]
    assert decides(graph) == [0, 1, 2, 3]
    images = np.linspace(0, 1, 6, dtype=np.float32).reshape(6, 1, 1, 1) * np.ones((1, 3, SIDE, SIDE), np.float32)
    np.savez(tmp_path / "a.npz", input=images)
    int8 = ("--precision", "int8", "--method", "minmax", "--data", tmp_path / "a.npz", "--images", 6)
    for k, kind in enumerate((("--precision", "fp16"), int8, (*int8, "--scheme", "ort-cpu"))):
        made = tmp_path / f"q{k}.onnx"
        result = edgecnn("quantize", graph, *kind, "-o", made)
        assert result.code == 0, result.said
        assert decides(made) == [0, 1, 2, 3]


def test_reference_says_how_many_pictures_could_not_be_read(
    edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    graph = import_model(capfd, class_model(4, RED), tmp_path / "g" / "red.onnx", CLASSES)
    for k, name in enumerate(CLASSES):
        save_color(tmp_path / "data" / name / "0.png", (level(k, 4), 9, 9))
    for name in ("cut.png", "empty.png"):
        (tmp_path / "data" / "birch" / name).write_bytes(b"")
    result = edgecnn("reference", graph, "--data", tmp_path / "data", "-o", tmp_path / "r.npz")
    assert result.code == 0, result.said
    assert "2 unreadable images left out, the first is birch/cut.png" in result.said


@pytest.mark.parametrize("rows", ["index,name|{k},{name}", "Class;ID|{name};{k}", "label_id,label_name|{k},{name}"])
def test_labels_of_a_table_are_read_below_its_heading(
    edgecnn: Command, tmp_path: Path, preprocess: Path, rows: str
) -> None:
    source = put_end(tmp_path / "s.onnx", [], [LOGITS], 40.0)
    heading, row = rows.split("|")
    table = [row.format(k=k, name=name) for k, name in enumerate(CLASSES)]
    (tmp_path / "labels.csv").write_text("\n".join([heading, *table]) + "\n")
    labels = tmp_path / "labels.csv"
    result = edgecnn("import", source, "--preprocess", preprocess, "--labels", labels, "-o", tmp_path / "x.onnx")
    assert result.code == 0, result.said
    assert tuple(sidecar(tmp_path / "x.onnx")["labels"]) == CLASSES
