"""A checkpoint from elsewhere: every copy of tensors by name that it holds, read without running any of it.

Training scripts put their arguments and metrics beside the weights. The classes of `SET_ASIDE` are read as inert
stand-ins: not even NumPy's or argparse's own code is called, and a file that names any other class is refused.
"""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgecnn.errors import ArtifactError
from edgecnn.limits import WEIGHTS_EXPANSION, require_regular, what_lacks

State = dict[str, torch.Tensor]
LONGEST_SHOWN = 120  # characters of a name
DEPTH = 3  # how deep a script nests its weights: checkpoint["ema"]["model"]
AVERAGED = re.compile(r"(^|[._])(ema|swa|avg|averaged?)([._]|$)")
# DenseNet as published: keys from before a PyTorch that refused dots in a module's name.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")


class _StandIn:
    """In place of an object that is not weights: takes whatever it is given, and keeps nothing."""

    def __init__(self, *unused: object) -> None: ...

    def __setstate__(self, unused: object) -> None: ...


class _PlainMapping:
    """In place of a mapping with a factory."""

    def __new__(cls, *unused: object) -> Any:
        return {}


SET_ASIDE = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray"),
    *(f"pathlib.{local}{kind}Path" for local in ("", "_local.") for kind in ("Posix", "Windows", "PurePosix")),
    *(f"datetime.{name}" for name in ("datetime", "date", "timedelta")),
    *(f"builtins.{name}" for name in ("list", "dict", "int", "float", "str", "bool", "tuple", "slice")),
    "fastcore.foundation.L",  # fastai's hyperparameters
    "mmengine.logging.history_buffer.HistoryBuffer",
    *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig", "nodes.AnyNode")),
    *("omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", "typing.Any"),
)
_ALLOWED: list[Any] = [(_PlainMapping, "collections.defaultdict"), *((_StandIn, name) for name in SET_ASIDE)]

_DAMAGED = (AssertionError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError)
# First bytes of what is given in place of weights, and what to do with it.
_OTHER_KINDS = (
    (b"\x89HDF", "an HDF5 file, as Keras writes them", "edgecnn import takes the network as ONNX (tf2onnx makes it)"),
    (b"version https://git-lfs", "a pointer of git-lfs, not the file itself", "git lfs pull"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it first"),
    (b"<", "a text that begins as a web page does", "download the file itself"),
)


@dataclass(frozen=True)
class Copy:
    """Tensors by name that stand together at one place in a file ("" is the top), and whether they are an average."""

    place: str
    averaged: bool
    tensors: State


def shown(key: str) -> str:
    """A name from a file as a message shows it: on one line, without what a terminal would obey, and not too long."""
    text = key if key.isprintable() else repr(key)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def read_copies(path: Path) -> list[Copy]:
    """Every mapping of tensors in a safetensors or PyTorch file; raises `ArtifactError` where there is none."""
    if not path.is_file():
        raise ArtifactError(f"{path}: {what_lacks(path)}", "check the path; weights are a .safetensors or .pth file")
    content = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    copies = list(_copies(content, "", _renamed_by(content), set()))
    if not copies:
        found = f"a {type(content).__name__}" if not isinstance(content, Mapping) else "a mapping of other things"
        raise ArtifactError(f"{path}: holds {found}, not tensors by name", "save it with torch.save(net.state_dict())")
    return copies


def _renamed_by(content: Any) -> str:
    """The place of the plain weights in a file that has the averaged ones as `state_dict`; "" for other files.

    mmengine's EMAHook and Lightning's WeightAveraging exchange the two when they save, so that who loads `state_dict`
    gets the average.
    """
    if not isinstance(content, Mapping):
        return ""
    meta = content.get("meta")
    if "ema_state_dict" in content and isinstance(meta, Mapping) and "mmengine_version" in meta:
        return "ema_state_dict"
    return "current_model_state" if {"averaging_state", "current_model_state"} <= content.keys() else ""


def _copies(content: Any, place: str, plain: str, seen: set[int]) -> Iterator[Copy]:
    if not isinstance(content, Mapping) or (plain and place == plain) or id(content) in seen:
        return
    seen.add(id(content))
    tensors = {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
    if tensors:
        averaged = bool(AVERAGED.search(place)) or (bool(plain) and place == "state_dict")
        yield Copy(place, averaged, {_OLD_DENSENET.sub(r"\1\2", k): v for k, v in tensors.items()})
    if place.count(".") < DEPTH - 1:
        for key, value in content.items():
            yield from _copies(value, f"{place}.{key}" if place else str(key), plain, seen)


def _is_safetensors(path: Path) -> bool:
    """By name or content: eight bytes of header length, then JSON."""
    try:
        size = require_regular(path)
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}", "check the path and its permissions") from exc
    with path.open("rb") as file:
        head = file.read(9)
    by_content = head[8:] == b"{" and int.from_bytes(head[:8], "little") <= size
    return by_content or path.suffix == ".safetensors"


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as exc:
        raise ArtifactError(f"{path}: not a whole safetensors file ({exc})", "it is truncated: copy it again") from exc


def _read_torch(path: Path) -> Any:
    _refuse_other_kinds(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_ALLOWED):
            warnings.simplefilter("ignore")  # of a foreign pickle protocol; what matters is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise _not_run(path, exc) from exc
    except Exception as exc:  # a damaged pickle raises whatever its bytes come to
        why = str(exc).splitlines()[0][:200] if str(exc) else type(exc).__name__
        raise ArtifactError(
            f"{path}: not a whole PyTorch checkpoint ({why})", "it is truncated or of another kind: copy it again"
        ) from exc


def _refuse_other_kinds(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(32)
    for first, what, instead in _OTHER_KINDS:
        if head.startswith(first):
            raise ArtifactError(f"{path}: {what}", instead)
    if not head.startswith((b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        raise ArtifactError(f"{path}: not a whole PyTorch or safetensors file", "weights are a .safetensors or a .pth")
    if not head.startswith(b"PK"):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] or name for name in archive.namelist()]
            unpacked = sum(info.file_size for info in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeDecodeError):
        return  # PyTorch says what is wrong with it
    if unpacked > WEIGHTS_EXPANSION * path.stat().st_size:
        raise ArtifactError(
            f"{path}: unpacks to {unpacked / 1e6:.0f} MB, more than {WEIGHTS_EXPANSION} times its size: no weights",
            "weights are a .safetensors or a .pth, saved with torch.save(net.state_dict())",
        )
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        raise ArtifactError(
            f"{path}: a TorchScript archive, which is a program; it was not run",
            f"where you trust it: torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')",
        )
    if "data.pkl" not in names and names:
        raise ArtifactError(
            f"{path}: a zip archive of something else ({', '.join(map(shown, names[:3]))})",
            "weights are a .safetensors or a .pth",
        )


def _not_run(path: Path, exc: Exception) -> ArtifactError:
    """What to say of a pickle that names classes or functions which are no weights."""
    found = re.search(r"(?:Unsupported global: GLOBAL|unsupported GLOBAL) ([\w.]+)", str(exc))
    first = found.group(1) if found else ""
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except (*_DAMAGED, zipfile.BadZipFile, pickle.UnpicklingError, struct.error):  # of the old format, or damaged
        named = [first]
    if any(name.startswith("torch.nn.") for name in named):
        return ArtifactError(
            f"{path}: a whole network (class {first}) and not only its weights; it was not run",
            "where its code is and you trust it: net = torch.load(path, weights_only=False), then "
            "torch.save(net.state_dict(), 'weights.pth')",
        )
    holds = f"holds more than weights ({first})" if first else "holds more than weights, or is damaged"
    return ArtifactError(
        f"{path}: a pickle that {holds}; it was not run",
        "load it where you trust it and save net.state_dict() alone, best as safetensors",
    )
