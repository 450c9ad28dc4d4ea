"""Signatures by OpenSSH (`ssh-keygen -Y`, its PROTOCOL.sshsig): who made an artifact, wherever it lies.

Signed is the JSON that says what an artifact is: its sidecar, which holds its sha256, or the artifact where that is
JSON itself. Of `X.json` the signature is `X.json.sig`. One that is there is checked whenever that JSON is read.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from edgecnn.artifact.temporary import scratch_folder
from edgecnn.errors import ArtifactError
from edgecnn.output import say

NAMESPACE = "edgecnn"
ALLOWED_SIGNERS = "EDGECNN_ALLOWED_SIGNERS"  # environment: the file; --allowed-signers
REQUIRED = "EDGECNN_REQUIRE_SIGNATURE"  # environment: 1 demands a signature; --require-signature
_TIMEOUT_S = 60
_good: dict[tuple[bytes, bytes, bytes], str] = {}  # (hashes of content, signature, allowed signers): who


def signature_path(described: Path) -> Path:
    """Where the signature of a sidecar, or of an artifact that is JSON, stands."""
    return described.with_name(described.name + ".sig")


def is_required() -> bool:
    """Whether what is loaded has to be signed."""
    return os.environ.get(REQUIRED, "") not in ("", "0")


def allowed_signers() -> Path:
    """The file that says whose signature counts (ssh-keygen(1), ALLOWED SIGNERS)."""
    return Path(os.environ.get(ALLOWED_SIGNERS) or Path.home() / ".ssh" / "allowed_signers")


def check_signature(described: Path, content: bytes) -> str:
    """Check the signature of `content`, read from `described`, if there is one; who has signed it, "" where nobody has
    that is known here.

    Where none is demanded, and OpenSSH or the allowed signers are not here, what could not be checked is said on
    stderr. Raises `ArtifactError` for a signature of other content, or of somebody who is not allowed.
    """
    signature, required = signature_path(described), is_required()
    if not signature.is_file():
        return ""
    if not required and shutil.which("ssh-keygen") is None:
        _say("signatures are not checked: OpenSSH's ssh-keygen is not here")
    elif not required and not allowed_signers().is_file() and not os.environ.get(ALLOWED_SIGNERS):
        key = _key_of(described, content)
        _say(f"signed with the key {key}; who signed it is not known here: no {allowed_signers()}")
    else:
        return signer_of(described, content)
    return ""


def require_signature(described: Path) -> None:
    """Raise `ArtifactError` where a signature is demanded and `described` has none."""
    if is_required() and not signature_path(described).is_file():
        raise unsigned(described)


def unsigned(described: Path) -> ArtifactError:
    """The error for what has no signature."""
    return ArtifactError(
        f"{described}: is not signed: no {signature_path(described).name}",
        "who made it signs it: `edgecnn sign RUN`; copy the .sig files along",
    )


def signer_of(described: Path, content: bytes) -> str:
    """Which of the allowed signers has signed `content`, read from `described`; raises `ArtifactError`."""
    signature, allowed = signature_path(described), allowed_signers()
    try:
        known = tuple(hashlib.sha256(c).digest() for c in (content, signature.read_bytes(), allowed.read_bytes()))
    except FileNotFoundError as exc:
        if not signature.is_file():
            raise unsigned(described) from exc
        raise ArtifactError(
            f"{allowed}: no such file: whose signature is allowed is not known",
            "name the list: --allowed-signers FILE, with lines `NAME KEYTYPE KEY` as ssh-keygen(1) has them",
        ) from exc
    except OSError as exc:
        raise ArtifactError(f"{exc.filename}: cannot be read: {exc.strerror}", "check its permissions") from exc
    key = (known[0], known[1], known[2])
    if key not in _good:
        _good[key] = _verify(described, content, signature, allowed)
    return _good[key]


def sign(contents: Sequence[bytes], key: Path) -> list[bytes]:
    """The signature of each of `contents`, made with a private key, or with the public half of one that an agent holds;
    a passphrase is asked for once. Raises `ArtifactError` for a key that cannot be used."""
    if not key.is_file():
        raise ArtifactError(f"{key}: no such key", "name yours with --key FILE; `ssh-keygen -t ed25519` makes one")
    with scratch_folder() as scratch:
        files = [scratch / f"{k}.json" for k in range(len(contents))]
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
        done = _run("sign", "-f", str(key), *map(str, files), timeout_s=None)
        if done.returncode:
            raise ArtifactError(
                f"{key}: cannot be signed with: {_last_line(done.stderr)}",
                "name a private key with --key FILE, or the public half of one that ssh-agent holds",
            )
        return [signature_path(file).read_bytes() for file in files]


def _verify(described: Path, content: bytes, signature: Path, allowed: Path) -> str:
    known = _run("find-principals", "-s", str(signature), "-f", str(allowed), namespaced=False)
    for who in known.stdout.decode(errors="replace").splitlines():
        if not _run("verify", "-f", str(allowed), "-I", who, "-s", str(signature), content=content).returncode:
            return who
    key = _key_of(described, content)
    raise ArtifactError(
        f"{described}: signed by the key {key}, which {allowed} does not list as allowed",
        f"add the signer to {allowed}, if you know whose key that is; or take the artifact from somebody it lists",
    )


def _key_of(described: Path, content: bytes) -> str:
    """The fingerprint of the key that signed; raises `ArtifactError` where the signature is not one of the content."""
    done = _run("check-novalidate", "-s", str(signature_path(described)), content=content)
    if done.returncode:
        raise ArtifactError(
            f"{described}: its signature {signature_path(described).name} is not one of its content "
            f"({_last_line(done.stderr + done.stdout)})",
            "it was changed after it was signed, or signed as something else: copy it again, or sign it again",
        )
    return done.stdout.decode(errors="replace").split()[-1]


def _run(
    action: str, *arguments: str, content: bytes = b"", namespaced: bool = True, timeout_s: float | None = _TIMEOUT_S
) -> subprocess.CompletedProcess[bytes]:
    command = ["ssh-keygen", "-Y", action, *(["-n", NAMESPACE] if namespaced else []), *arguments]
    try:
        return subprocess.run(command, input=content, capture_output=True, timeout=timeout_s, check=False)
    except FileNotFoundError as exc:
        raise ArtifactError(
            "OpenSSH's ssh-keygen is not installed here, and signatures are made and checked by it",
            "apt-get install openssh-client (or your system's package of that name)",
        ) from exc
    except subprocess.TimeoutExpired as exc:
        raise ArtifactError(f"ssh-keygen -Y {action}: no answer in {_TIMEOUT_S} s", "check it by hand") from exc


def _last_line(text: bytes) -> str:
    return (text.decode(errors="replace").strip().splitlines() or ["ssh-keygen says nothing"])[-1].strip()


@functools.cache
def _say(line: str) -> None:
    """On stderr, once in a process."""
    say(line)
