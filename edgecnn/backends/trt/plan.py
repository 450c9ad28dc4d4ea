"""Plan files without a GPU: magic, format and TensorRT version in pure Python, what the sidecar adds, and whether a
plan can run here. Nothing is deserialised: a plan is native code.

Layout (NVIDIA's trtexec, `--getPlanVersionOnly`, sampleEngines.cpp of 10.3 to 11.1; TensorRT-RTX 1.7 writes the same):
bytes 0-3 `ftrt` or `vtrt`, bytes 4-7 the serialisation version (0 is understood), bytes 24-27 major, minor, patch and
build of the TensorRT that built it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import shlex
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecnn.artifact.sidecar import Sidecar, read_sidecar, sha256_of, sidecar_path
from edgecnn.backends.trt.flavor import FLAVORS, TENSORRT, Flavor, flavor_of
from edgecnn.errors import ArtifactError
from edgecnn.limits import require_regular
from edgecnn.machine.cpu import system_name
from edgecnn.recipe.schema import BatchSettings
from edgecnn.records import parse_json, to_plain
from edgecnn.results.device import Device
from edgecnn.results.layers import layers_from_json, shares_of
from edgecnn.targets import version_tuple

MAGICS = tuple(flavor.magic for flavor in FLAVORS)
HEADER_BYTES = 28
MAX_PREFIX_BYTES = 1 << 20
FOREIGN = (
    (b"PK\x03\x04", "a zip archive (a PyTorch checkpoint or TorchScript?)"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with `git lfs pull`"),
    (b"\x08", "an ONNX graph, perhaps: build it with `edgecnn build`"),
    (b"<", "an HTML or XML page, perhaps a failed download"),
    (b"{", "a JSON file, perhaps the sidecar"),
)


@dataclass(frozen=True)
class PlanHeader:
    """What the first bytes of a plan say. `tensorrt` is major.minor.patch.build of its `flavor`; `offset` is where the
    plan starts, and `prefix` what another tool wrote before it ("" when nothing)."""

    tensorrt: str
    serialisation: int
    size_bytes: int
    offset: int = 0
    prefix: str = ""
    flavor: Flavor = TENSORRT


def read_plan_header(path: Path) -> PlanHeader:
    """The header of a plan file; raises `ArtifactError` that says what the file is instead, as far as can be told."""
    try:
        size = require_regular(path)
        with path.open("rb") as file:
            start = file.read(HEADER_BYTES)
            offset, prefix = _json_prefix(path, file.read, start) if not start.startswith(MAGICS) else (0, "")
            if offset:
                file.seek(offset)
                start = file.read(HEADER_BYTES)
    except FileNotFoundError as exc:
        raise ArtifactError(f"{path}: no such file", "build it with `edgecnn build`, or check the path") from exc
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}", "check the path and its permissions") from exc
    flavor = flavor_of(start)
    if flavor is None:
        raise ArtifactError(f"{path}: not a TensorRT plan: {_guess(start, size)}", "build one with `edgecnn build`")
    if len(start) < HEADER_BYTES:
        raise ArtifactError(
            f"{path}: a plan cut off after {size} bytes; its header alone has {HEADER_BYTES}",
            "copy it again, or build it again",
        )
    serialisation = struct.unpack_from("<I", start, 4)[0]
    if serialisation != 0:
        raise ArtifactError(
            f"{path}: plan serialisation version {serialisation}; this edgecnn reads version 0",
            "the file is damaged (a copy in text mode?), or newer than this edgecnn: build it again",
        )
    return PlanHeader(".".join(str(b) for b in start[24:28]), serialisation, size, offset, prefix, flavor)


DEFAULT_LEVEL = 3  # of the builder's optimization


def plan_mismatch(
    path: Path, header: PlanHeader, sidecar: Sidecar | None, tensorrt: str, device: Device
) -> tuple[str, str] | None:
    """(message, hint) when a plan cannot run under this TensorRT on this device, else None.

    All four version numbers must agree (as many as `tensorrt` has) unless the plan was built version compatible, which
    lets a newer TensorRT run it. GPU, operating system and architecture are compared through the sidecar: without one
    nothing is known about them.
    """
    facts = sidecar.facts if sidecar else {}
    again = f"rebuild it here: {rebuild_command(path, sidecar, header.flavor)}"
    if (system := facts.get("system") or system_name()) != system_name():
        return f"{path}: built for {system}, here is {system_name()}: a plan is native code", again
    built, here = version_tuple(header.tensorrt), version_tuple(tensorrt)
    known = min(len(built), len(here))
    same = built[:known] == here[:known] or (bool(facts.get("version_compatible")) and here >= built[: len(here)])
    built_on = (sidecar.device if sidecar else None) or Device()
    there, this = built_on.compute_capability, device.compute_capability
    if header.flavor.needs_gpu:
        reach = str(facts.get("hardware_compatibility") or "none")
        fits = (
            not there
            or not this
            or there == this
            or (reach == "ampere_plus" and version_tuple(this) >= (8, 0) and not device.board)
        )
        origin = f" (sidecar: {built_on.board or built_on.gpu_name or 'GPU'}, SM {there})" if there else ""
    else:
        capabilities = facts.get("compute_capabilities") or []
        if not header.flavor.runs_on(this):
            takes = ", ".join(header.flavor.gpus)
            return (
                f"{path}: {header.flavor.product} runs on GPUs of compute capability {takes} and later; here is {this}",
                "run its graph by TensorRT (edgecnn build X.onnx --backend trt) or by ONNX Runtime (--provider cuda)",
            )
        fits = not this or this in capabilities or (not capabilities and version_tuple(this) >= (8, 0))
        again = f"rebuild it here: {rebuild_command(path, _for_this_gpu(sidecar), header.flavor)}"
        origin = f" for SM {', '.join(capabilities) or '8.0 and later'}"
    if same and fits:
        return None
    product = header.flavor.product
    message = f"{path}: built by {product} {header.tensorrt}{origin}; here are {tensorrt or f'no {product}'}"
    message += f" and SM {this}" if this else ""
    return message, f"a plan runs where it was built; {again}"


def _for_this_gpu(sidecar: Sidecar | None) -> Sidecar | None:
    """Without the GPUs that it was built for: this one is not among them."""
    if sidecar is None:
        return None
    facts = {key: value for key, value in sidecar.facts.items() if key != "compute_capabilities"}
    return dataclasses.replace(sidecar, facts=facts)


def rebuild_command(path: Path, sidecar: Sidecar | None, flavor: Flavor = TENSORRT) -> str:
    """The command line that builds the plan `path` again, from its sidecar as far as that tells."""
    graphs = [p for p in (sidecar.parents if sidecar else {}) if p.endswith(".onnx")]
    graph = os.path.normpath(path.parent / graphs[0]) if graphs else f"{path.stem}.onnx"
    target = (sidecar.target if sidecar else "") or flavor.default_target
    asked = ["--backend", flavor.backend, "--target", target, *_asked_for(sidecar.facts if sidecar else {})]
    if sidecar and sidecar.facts.get("weakly_typed"):
        of_others = (".onnx", "/latency.json")  # of a plan that was chosen among several builds
        ranges = next((p for p in sidecar.parents if not p.endswith(of_others)), "X.calib.json")
        asked += ["--weakly-typed", "--ranges", os.path.normpath(path.parent / ranges)]
    return shlex.join(["edgecnn", "build", graph, *asked, "-o", str(path)])


def _asked_for(facts: Mapping[str, Any]) -> list[str]:
    """The options of a build that were not the defaults, as far as a sidecar tells them."""
    sizes = []
    with contextlib.suppress(KeyError, IndexError, TypeError):
        sizes = [tuple(profile[k][0] for k in ("min", "opt", "max")) for profile in facts.get("profiles", [])]
    said = [] if tuple(sizes) == BatchSettings().all_profiles else sizes
    asked = [part for profile in said for part in ("--profile", ":".join(map(str, profile)))]
    if (level := facts.get("optimization_level", DEFAULT_LEVEL)) != DEFAULT_LEVEL:
        asked += ["--optimization-level", str(level)]
    asked += [f"--build-route={route}"] if (route := facts.get("build_route")) else []
    if (reach := facts.get("hardware_compatibility", "none")) != "none":
        asked += ["--hardware-compatibility", str(reach)]
    asked += ["--version-compatible"] if facts.get("version_compatible") else []
    if isinstance(capabilities := facts.get("compute_capabilities"), list):
        asked += ["--sm", ",".join(str(c).replace(".", "") for c in capabilities)]
    return asked


def installed_tensorrt(flavor: Flavor = TENSORRT) -> str:
    """The version of a flavor's package installed here, without importing it; "" when there is none."""
    for package in flavor.packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def describe_plan(path: Path) -> dict[str, object]:
    """What `edgecnn inspect X.plan` prints: the header and, from the sidecar, device, profiles and precision shares."""
    header = read_plan_header(path)
    here = installed_tensorrt(header.flavor)
    shown: dict[str, object] = {
        "path": str(path),
        "kind": f"{header.flavor.product} plan",
        "built_by_tensorrt": header.tensorrt,
        "tensorrt_here": here or None,
        "size_mb": header.size_bytes / 1e6,
        "prefix": header.prefix or None,
    }
    if not sidecar_path(path).exists():
        return {**shown, "sidecar": None, "note": "without a sidecar it is loaded only with --trust"}
    sidecar = read_sidecar(path)
    facts = sidecar.facts
    layers = layers_from_json(facts.get("layers") or [])
    mismatch = plan_mismatch(path, header, sidecar, here, Device()) if here else None
    return {
        **shown,
        "sidecar": str(sidecar_path(path)),
        "sha256_matches": sha256_of(path) == sidecar.sha256,
        "precision_requested": sidecar.precision_requested or None,
        "precision_obtained": sidecar.precision_obtained or None,
        **(to_plain(shares_of(layers)) if layers else {}),
        "device": to_plain(sidecar.device),
        "target": sidecar.target or None,
        "profiles": facts.get("profiles"),
        "system": facts.get("system"),
        "hardware_compatibility": facts.get("hardware_compatibility"),
        "version_compatible": facts.get("version_compatible"),
        "build_route": facts.get("build_route"),
        "compute_capabilities": facts.get("compute_capabilities"),
        "made_from": sidecar.parents,
        "made_by": sidecar.made_by,
        "created": sidecar.created,
        "mismatch": mismatch[0] if mismatch else None,
        "rebuild": rebuild_command(path, sidecar, header.flavor),
    }


def foreign_prefix_error(path: Path, header: PlanHeader) -> ArtifactError:
    """The refusal of a plan that another tool put something in front of."""
    clean = path.with_name(f"{path.stem}.clean.plan")
    return ArtifactError(
        f"{path}: {header.prefix} stands before the plan; neither TensorRT nor edgecnn loads it so",
        f"cut it off: tail -c +{header.offset + 1} {shlex.quote(str(path))} > {shlex.quote(str(clean))}",
    )


def _json_prefix(path: Path, read: Any, start: bytes) -> tuple[int, str]:
    """(offset of the plan, what stands before it) when `start` is a uint32 length and JSON, as Ultralytics writes."""
    if len(start) < 6 or start[4:5] != b"{":
        return 0, ""
    length = struct.unpack_from("<I", start)[0]
    if not 2 <= length <= MAX_PREFIX_BYTES:
        return 0, ""
    content = start[4:] + read(max(0, length + len(TENSORRT.magic) - (len(start) - 4)))
    if content[length : length + len(TENSORRT.magic)] not in MAGICS:
        return 0, ""
    try:
        metadata = parse_json(content[:length])
    except ValueError:
        return 0, ""
    author = metadata.get("author") if isinstance(metadata, dict) else None
    by = f" written by {author}" if isinstance(author, str) else ""
    return 4 + length, f"a JSON prefix of {length} bytes{by}"


def _guess(start: bytes, size: int) -> str:
    if not size:
        return "the file is empty"
    what = next((meaning for magic, meaning in FOREIGN if start.startswith(magic)), "")
    return what or f"it starts with {start[:4]!r}, a plan with {' or '.join(repr(magic) for magic in MAGICS)}"
