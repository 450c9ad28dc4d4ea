"""A stand-in for NVIDIA's trtexec, and scripts that find it; NVIDIA's client for Triton."""

from __future__ import annotations

import importlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.backends.conftest import unpacked

CLIENT, ITS_JSON = "2.73.0", "1.23"

TRTEXEC = r"""#!/bin/sh
echo "&&&& RUNNING TensorRT.trtexec [TensorRT vVERSION] # trtexec $*"
[ "$1" = --help ] && exit 0
echo "$@" > "$(dirname "$0")/asked"
for option; do
    case "$option" in
        --onnx=*) [ -s "${option#--onnx=}" ] || exit 1 ;;
        --calib=*) head -n 1 "${option#--calib=}" | grep -q "^TRT-VERSION-EntropyCalibration2$" || exit 1 ;;
        --saveEngine=*) { printf 'ftrt\0\0\0\0'; head -c 16 /dev/zero; printf 'HEADER'; } > "${option#--saveEngine=}" ;;
    esac
done
exit CODE
"""

Build = Callable[..., tuple[int, str, str]]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """`build(script, number, header)` runs a script where trtexec is of the TensorRT `number`: its exit code, what
    trtexec was asked for, and what was said on stderr."""

    def run(script: Path, number: int, header: tuple[int, ...] = (10, 3, 0, 26), code: int = 0) -> tuple[int, str, str]:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        octal = "".join(f"\\{n:03o}" for n in header)
        text = TRTEXEC.replace("VERSION", str(number)).replace("HEADER", octal).replace("CODE", str(code))
        (folder / "trtexec").write_text(text)
        (folder / "trtexec").chmod(0o755)
        (folder / "asked").unlink(missing_ok=True)
        path = f"{folder}:{os.environ['PATH']}"
        done = subprocess.run([str(script)], env={"PATH": path}, cwd="/", capture_output=True, text=True, check=False)
        asked = (folder / "asked").read_text() if (folder / "asked").exists() else ""
        return done.returncode, asked, done.stderr

    return run


@pytest.fixture(scope="session")
def tritonclient() -> Any:
    """The module `tritonclient.grpc`, whose other packages come with ours."""
    wheels = f"tritonclient=={CLIENT}", f"python-rapidjson=={ITS_JSON}"
    folder = unpacked(f"tritonclient-{CLIENT}-grpc", *wheels)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        return importlib.import_module("tritonclient.grpc")
