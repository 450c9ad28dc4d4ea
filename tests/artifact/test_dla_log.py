"""trtexec's report of where the layers of a DLA build run.

Recorded: the two lists of layers, in NVIDIA-AI-IOT/jetson_dla_tutorial, README.md (Jetson AGX Orin, TensorRT 8.4: the
network `model_gn`), and as a user of the same tutorial got them for `model_bn` on 31 August 2023. The first and the
last line are trtexec's own (TensorRT, samples/common/logger.h), the versions in them made up. No log of TensorRT 10
with a DLA was to be had.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecnn.artifact.dla_log import LARGEST_BYTES, read_dla_log
from edgecnn.errors import ArtifactError

COMMAND = "/usr/src/tensorrt/bin/trtexec --onnx=model.onnx --int8 --fp16 --useDLACore=1 --allowGPUFallback"
BEGIN = f"&&&& RUNNING TensorRT.trtexec [TensorRT v100300] [b26] # {COMMAND}\n"
END = f"&&&& PASSED TensorRT.trtexec [TensorRT v100300] [b26] # {COMMAND}\n"
ADDED = f"edgecnn: precision int8\nedgecnn: graph {'ab' * 32}\n"
GROUP_NORM = """[03/31/2022-14:34:54] [I] [TRT] ---------- Layers Running on DLA ----------
[03/31/2022-14:34:54] [I] [TRT] [DlaLayer] {ForeignNode[Conv_0]}
[03/31/2022-14:34:54] [I] [TRT] [DlaLayer] {ForeignNode[Relu_10...Conv_11]}
[03/31/2022-14:34:54] [I] [TRT] [DlaLayer] {ForeignNode[Relu_43]}
[03/31/2022-14:34:54] [I] [TRT] ---------- Layers Running on GPU ----------
[03/31/2022-14:34:54] [I] [TRT] [GpuLayer] SHUFFLE: Reshape_2 + (Unnamed Layer* 7) [Shuffle]
[03/31/2022-14:34:54] [I] [TRT] [GpuLayer] PLUGIN_V2: InstanceNormalization_5
[03/31/2022-14:34:54] [I] [TRT] [GpuLayer] SCALE: 71 + (Unnamed Layer* 16) [Shuffle] + Mul_8
"""
BATCH_NORM = """[08/31/2023-07:07:49] [I] [TRT] ---------- Layers Running on DLA ----------
[08/31/2023-07:07:49] [I] [TRT] [DlaLayer] {ForeignNode[/cnn/cnn.0/Conv.../cnn/cnn.11/Relu]}
[08/31/2023-07:07:49] [I] [TRT] [DlaLayer] {ForeignNode[/linear/Gemm]}
[08/31/2023-07:07:49] [I] [TRT] ---------- Layers Running on GPU ----------
[08/31/2023-07:07:49] [I] [TRT] [GpuLayer] POOLING: /pool/GlobalAveragePool
[08/31/2023-07:07:49] [I] [TRT] [GpuLayer] SHUFFLE: reshape_after_/linear/Gemm
"""
WHOLE = BEGIN + BATCH_NORM + END + ADDED


def test_layers_are_counted_and_named(tmp_path: Path) -> None:
    log = tmp_path / "int8.dla.log"
    log.write_text(WHOLE)
    found = read_dla_log(log)
    assert (found.dla_core, found.dla_tensorrt, found.dla_precision) == (1, "100300", "int8")
    assert (found.dla_graph_sha256, found.dla_parts) == ("ab" * 32, 2)
    assert found.dla_gpu_layers == ("POOLING: /pool/GlobalAveragePool", "SHUFFLE: reshape_after_/linear/Gemm")
    log.write_text(BEGIN + GROUP_NORM + GROUP_NORM + "[I] [TRT] [MemUsageChange] Init\n" + END + ADDED)
    again = read_dla_log(log)
    assert (again.dla_parts, len(again.dla_gpu_layers)) == (3, 3)
    assert again.dla_gpu_layers[1] == "PLUGIN_V2: InstanceNormalization_5"
    log.write_text(BEGIN + BATCH_NORM[: BATCH_NORM.index("[08/31/2023-07:07:49] [I] [TRT] [GpuLayer]")] + END + ADDED)
    assert read_dla_log(log).dla_gpu_layers == ()
    log.write_text(WHOLE.replace("POOLING: /pool/GlobalAveragePool", ""))
    assert read_dla_log(log).dla_gpu_layers == ("(without a name)", "SHUFFLE: reshape_after_/linear/Gemm")


CUT = BATCH_NORM[: BATCH_NORM.index("[08/31/2023-07:07:49] [I] [TRT] ---------- Layers Running on GPU")]
REFUSED = {
    "no trtexec": (BATCH_NORM + END + ADDED, "no log of trtexec"),
    "failed": (BEGIN + BATCH_NORM + END.replace("PASSED", "FAILED") + ADDED, "did not pass"),
    "cut off": (BEGIN + BATCH_NORM, "did not pass"),
    "for the GPU": (WHOLE.replace("--useDLACore=1 ", ""), "without --useDLACore"),
    "for no core": (WHOLE.replace("--useDLACore=1", "--useDLACore=-1"), "without --useDLACore"),
    "no report": (BEGIN + END + ADDED, "does not report there which layers"),
    "half a report": (BEGIN + CUT + END + ADDED, "does not report there which layers"),
    "half a second report": (BEGIN + BATCH_NORM + CUT + END + ADDED, "2 reports of where the layers run"),
    "two reports": (BEGIN + BATCH_NORM + GROUP_NORM + END + ADDED, "2 reports of where the layers run, which differ"),
    "of which graph": (BEGIN + BATCH_NORM + END, "does not say once 'precision'"),
    "two builds": (WHOLE + BEGIN + END.replace("PASSED", "FAILED"), "2 builds by trtexec"),
    "two graphs": (WHOLE + f"edgecnn: graph {'cd' * 32}\n", "does not say once 'graph'"),
    "float32": (WHOLE.replace("precision int8", "precision fp32"), "does not say once 'precision'"),
    "binary": ("\0\udcff\x1b[2J" * 9, "no log of trtexec"),
    "empty": ("", "no log of trtexec"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_says_nothing_of_an_engine_is_refused(tmp_path: Path, case: str) -> None:
    text, said = REFUSED[case]
    (tmp_path / "x.dla.log").write_text(text, errors="surrogateescape")
    with pytest.raises(ArtifactError, match=said):
        read_dla_log(tmp_path / "x.dla.log")


def test_a_line_without_end_takes_no_more_than_its_length(tmp_path: Path) -> None:
    log = tmp_path / "int8.dla.log"
    log.write_text(BEGIN + BATCH_NORM + "[TRT]" * 200_000 + "\n" + END + ADDED)
    assert len(read_dla_log(log).dla_gpu_layers) == 2


def test_what_is_no_plain_file_or_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.dla.log").mkdir()
    with (tmp_path / "large.dla.log").open("wb") as large:
        large.truncate(LARGEST_BYTES + 1)
    for name in ("folder", "large", "none"):
        with pytest.raises(ArtifactError, match=f"{name}.dla.log: cannot be read"):
            read_dla_log(tmp_path / f"{name}.dla.log")
