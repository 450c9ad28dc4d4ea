"""The text of TensorRT's calibration caches: read as it is written, and refused with the line that is wrong."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from edgecnn.artifact.calibration_cache import calibration_cache_text, read_calibration_cache, require_tensors
from edgecnn.errors import ArtifactError


def test_what_is_written_comes_back_to_the_bit(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "X.cache"
    scales = {f"t{k}:0": float(np.float32(s)) for k, s in enumerate(np.exp(rng.normal(-4, 3, 300)))}
    path.write_text(calibration_cache_text(100300, scales))
    read = read_calibration_cache(path)
    assert (read.tensorrt, read.algorithm, read.scales) == (100300, "EntropyCalibration2", scales)
    assert path.read_text().splitlines()[1].startswith("t0:0: ")


def test_caches_of_old_are_read(tmp_path: Path) -> None:
    """Windows line ends, colons in names, no leading zeros, a tensor that was always zero, other calibrators."""
    path = tmp_path / "CalibrationTable"
    path.write_bytes(
        b"TRT-7103-MinMaxCalibration\r\ninput_1:0: 3c010204\r\n(Unnamed Layer* 0) [Constant]_output: 0\r\n\r\n"
    )
    read = read_calibration_cache(path)
    assert read.scales == {"input_1:0": np.float32(1 / 127), "(Unnamed Layer* 0) [Constant]_output": 0.0}
    assert (read.tensorrt, read.algorithm) == (7103, "MinMaxCalibration")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "first line is not TRT-VERSION-ALGORITHM"),
        (b"{}", "first line"),
        (b"\xff\xfe\x00", "it is not text"),
        (b"TRT-8602-LegacyCalibration\na: 3c010a14\n", "a cache of LegacyCalibration"),
        (b"TRT-8602-EntropyCalibration2\n", "without a tensor"),
        (b"TRT-8602-EntropyCalibration2\na: 3c010a14\nb: 3c01zz14\n", "line 3: 'b: 3c01zz14' is not"),
        (b"TRT-8602-EntropyCalibration2\na: 3c010a1400\n", "line 2"),
        (b"TRT-8602-EntropyCalibration2\na 3c010a14\n", "line 2"),
        (b"TRT-8602-EntropyCalibration2\na:\n", "line 2"),
        (b"TRT-8602-EntropyCalibration2\na: " + struct.pack(">f", -1.0).hex().encode(), "line 2"),
        (b"TRT-8602-EntropyCalibration2\na: " + struct.pack(">f", float("nan")).hex().encode(), "line 2"),
        (b"TRT-8602-EntropyCalibration2\na: 7f7fffff\n", "line 2"),
        (b"TRT-8602-EntropyCalibration2\na: 3c010a14\na: 3c010a15\n", "line 3: 'a' has two scales"),
    ],
)
def test_another_file_is_refused_with_its_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "X.cache"
    path.write_bytes(content)
    with pytest.raises(ArtifactError) as refused:
        read_calibration_cache(path)
    assert says in refused.value.message
    assert refused.value.hint


def test_tensors_that_lack_are_told_from_another_graph(tmp_path: Path) -> None:
    path, wanted = tmp_path / "X.cache", {"a": "read by /conv/Conv", "b": "read by /fc/Gemm"}
    require_tensors(path, {"a": 1.0, "b": 1.0, "more": 1.0}, wanted, "m.onnx")
    for scales in ({"a": 1.0}, {"a": 1.0, "b": 0.0}):
        with pytest.raises(ArtifactError, match=r"1 of 2 tensors of m.onnx .* 'b' \(read by /fc/Gemm\)"):
            require_tensors(path, scales, wanted, "m.onnx")
    with pytest.raises(ArtifactError, match=r"another graph: it has 'x' \.\.\., and m.onnx has 'a', 'b'"):
        require_tensors(path, {"x": 1.0}, wanted, "m.onnx")
