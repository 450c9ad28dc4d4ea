"""What runs on a device for one call over ssh: the text of `agent_folder.py` and this, under the device's own Python.

It needs the standard library alone, and imports nothing of this package: the device may have none yet. A request is
one line of JSON on standard input, with bytes after it where files are put; answers are lines of JSON on standard
output, with bytes after them where files are fetched.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:  # there its text comes before this
    from edgecnn.remote.agent_folder import (
        FOLDER,
        JOBS,
        PART,
        README,
        SITE,
        STORE,
        RefusedError,
        alone,
        full_disk,
        home,
        is_whole,
        kept_whole,
        remove_parts,
        require_ours,
        require_space,
        user_name,
    )  # fmt: skip

SETUP, PYTHON = "setup.json", "python"
INTERPRETER = '#!/bin/sh\nif [ ! -x {0} ]; then echo {0} is gone >&2; exit 85; fi\nexec {0} "$@"\n'
CHUNK = 1 << 20
PR_SET_PDEATHSIG = 1  # prctl(2)
GRACE_S = 5.0
Request = dict[str, Any]


def answer(**content: Any) -> None:
    """One line to the machine that asked."""
    sys.stdout.buffer.write(json.dumps(content).encode() + b"\n")
    sys.stdout.buffer.flush()


def memory() -> Request:
    """Bytes of memory and of swap, and how many processes Linux has killed for want of them since it started."""
    found = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree"):
                found[name] = int(rest.split()[0]) * 1024
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                found["oom_kill"] = int(line.split()[1])
    return found


def first_line(path: str) -> str:
    """Of a file of the system's; "" where there is none."""
    with contextlib.suppress(OSError):
        return (Path(path).read_text(errors="replace").splitlines() or [""])[0]
    return ""


def tensorrt_version() -> str:
    """That of the system's TensorRT module; "" where there is none."""
    from importlib.metadata import PackageNotFoundError, version

    for name in ("tensorrt", "tensorrt-rtx"):
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return ""


def hello(request: Request) -> Request:
    """What this machine is, and how it was set up."""
    path = home(create=False)
    setup = setup_of(path)
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "machine": platform.machine(),
        "glibc": platform.libc_ver()[1],
        "tag": sysconfig.get_platform(),
        "system": f"{platform.system()} {platform.release()}",
        "user": user_name(),
        "folder": str(path),
        "free_bytes": shutil.disk_usage(path if path.exists() else path.parent).free,
        "memory": memory(),
        "boot_id": first_line("/proc/sys/kernel/random/boot_id"),
        "tensorrt": tensorrt_version(),
        "l4t": first_line("/etc/nv_tegra_release"),
        "setup": setup,
        "site": {name: (path / SITE / name).is_dir() for name in setup.get("site", ())},
    }


def setup_of(path: Path) -> Request:
    """What the setup has written down; nothing where that cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((path / SETUP).read_text())
        if isinstance(found, dict) and isinstance(found.get("machine"), str) and isinstance(found.get("site"), dict):
            return found
    return {}


def missing(request: Request) -> Request:
    """Which files, by content, are not here."""
    store = home() / STORE
    return {"missing": [sha256 for sha256, size in request["files"] if not is_whole(store / sha256, size)]}


def put(request: Request) -> Request:
    """Keep files by their content; each is whole and checked before it bears its name, and stays when a later one
    fails."""
    store = home() / STORE
    remove_parts(store)
    require_space(store, sum(size for _, size in request["files"]))
    for sha256, size in request["files"]:
        with kept_whole(store / sha256) as written:
            digest, left = hashlib.sha256(), size
            while left:
                chunk = sys.stdin.buffer.read(min(left, CHUNK))
                if not chunk:
                    raise RefusedError("the connection ended in the middle of a file", "run the same command again")
                digest.update(chunk)
                written.write(chunk)
                left -= len(chunk)
            if digest.hexdigest() != sha256:
                raise RefusedError(f"a file of {size} bytes arrived damaged", "run the same command again")
    return {}


def install(request: Request) -> Request:
    """Unpack wheels, which are here by their content, into a folder of `site/`, whole or not at all; others go."""
    path = home()
    with alone(path, request["who"]):
        for name, wheels in request["site"].items():
            if (path / SITE / name).is_dir():
                continue
            scratch = Path(tempfile.mkdtemp(prefix=PART, dir=path / SITE))
            try:
                for sha256 in wheels:
                    unpack_wheel(path / STORE / sha256, scratch)
                os.sync()
                scratch.rename(path / SITE / name)
            except OSError as exc:
                raise full_disk(scratch, exc) from exc
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        interpreter = shlex.quote(sys.executable)
        with kept_whole(path / PYTHON) as file:
            file.write(INTERPRETER.format(interpreter).encode())
        (path / PYTHON).chmod(stat.S_IRWXU)
        with kept_whole(path / SETUP) as file:
            file.write(json.dumps(request["setup"]).encode())
        for sha256 in (sha256 for wheels in request["site"].values() for sha256 in wheels):
            (path / STORE / sha256).unlink(missing_ok=True)
        for old in (path / SITE).iterdir():
            if old.name not in request["site"]:
                shutil.rmtree(old, ignore_errors=True)
    return {}


def unpack_wheel(wheel: Path, target: Path) -> None:
    """A wheel's modules (PEP 427): what belongs beside them too, and no scripts."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            parts = member.filename.split("/")
            if parts[0].endswith(".data"):
                if parts[1:2] not in (["purelib"], ["platlib"]):
                    continue
                parts = parts[2:]
            if member.is_dir():
                continue
            if ".." in parts or not all(parts):
                raise RefusedError(f"{wheel.name}: a wheel with the member {member.filename!r}", "do not trust it")
            file = target.joinpath(*parts)
            file.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, file.open("wb") as written:
                shutil.copyfileobj(source, written)


def run(request: Request) -> Request:
    """Run edgecnn in a job's folder, with its files from the store; what it says is passed on at once, what it prints
    and which files it made in the end. It ends with the connection."""
    path = home()
    with alone(path, request["who"]):
        if not all((path / SITE / name).is_dir() for name in request["site"]):
            raise RefusedError("another edgecnn was set up there meanwhile", "run the same command again")
        job = path / JOBS / request["job"]
        job.mkdir(exist_ok=True)
        for name, pieces in request["files"].items():
            lay(path / STORE, pieces, job / name)
        for name in request["folders"]:
            (job / name).mkdir(parents=True, exist_ok=True)
        before = memory()
        found = execute(request, path, job)
        for name in request["passing"]:
            (job / name).unlink(missing_ok=True)
        return {
            **found,
            "memory_before": before,
            "memory": memory(),
            "files": files_of(job, {*request["files"], *request["ignored"]}),
        }


def lay(store: Path, pieces: "list[list[Any]]", target: Path) -> None:
    """Put a file together of what is in the store and of what came with the request."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with kept_whole(target) as file:
        for content, sha256 in pieces:
            if not sha256:
                file.write(bytes.fromhex(content))
                continue
            if not (store / sha256).is_file():
                raise RefusedError(
                    "a file that was sent is gone", "run the same command again: it sends what is missing"
                )
            digest = hashlib.sha256()
            with (store / sha256).open("rb") as source:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != sha256:
                (store / sha256).unlink()
                raise RefusedError(
                    "a file that was sent is damaged there", "run the same command again: it is sent anew"
                )


def execute(request: Request, path: Path, job: Path) -> Request:
    """The process of the command: its exit code or signal, what it printed, the most memory it had."""
    packages = [str(path / SITE / name) for name in request["site"]]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgecnn", *request["arguments"]],
        cwd=job,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(packages), "PYTHONUTF8": "1"},
        start_new_session=True,
        preexec_fn=end_with_parent,
    )
    threading.Thread(target=end_with_connection, args=(process,), daemon=True).start()
    assert process.stdout is not None
    assert process.stderr is not None
    printed, stdout = list[bytes](), process.stdout
    reader = threading.Thread(target=lambda: printed.append(stdout.read()), daemon=True)
    reader.start()
    for line in process.stderr:
        answer(say=line.decode(errors="replace").rstrip("\n"))
    reader.join()
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    process.returncode = code
    return {"code": code, "out": b"".join(printed).decode(errors="replace"), "peak_bytes": usage.ru_maxrss * 1024}


def end_with_parent() -> None:
    """In the child: a killed agent takes it along."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def end_with_connection(process: "subprocess.Popen[bytes]") -> None:
    """End a command whose asker is gone: nobody would know of it."""
    while sys.stdin.buffer.read(CHUNK):
        pass
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        time.sleep(GRACE_S)
    os._exit(1)


def files_of(job: Path, others: "set[str]") -> "list[list[Any]]":
    """(path, sha256, size) of each file that a command has left, `others` apart."""
    found = []
    for file in sorted(job.rglob("*")):
        name = file.relative_to(job).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/"))
        if file.is_file() and not file.is_symlink() and not hidden and name not in others:
            digest = hashlib.sha256()
            with file.open("rb") as content:
                while chunk := content.read(CHUNK):
                    digest.update(chunk)
            found.append([name, digest.hexdigest(), file.stat().st_size])
    return found


def get(request: Request) -> None:
    """Files of a job, one after the other."""
    job = home() / JOBS / request["job"]
    opened = list[BinaryIO]()
    with contextlib.ExitStack() as stack:
        for name, _, size in request["files"]:
            file = job / name
            if not is_whole(file, size):
                raise RefusedError(f"{name}: was changed meanwhile", "run the same command again")
            opened.append(stack.enter_context(file.open("rb")))
        answer(stream=True)
        for file_, (_, _, size) in zip(opened, request["files"]):  # noqa: B905 - they are as many
            left = size
            while left and (chunk := file_.read(min(left, CHUNK))):
                sys.stdout.buffer.write(chunk)
                left -= len(chunk)
        sys.stdout.buffer.flush()


def forget(request: Request) -> Request:
    """Remove a job whose files are where they belong."""
    shutil.rmtree(home() / JOBS / request["job"], ignore_errors=True)
    return {}


def clean(request: Request) -> Request:
    """Remove the private folder."""
    path = home(create=False)
    if not path.exists():
        return {"removed": "", "bytes": 0}
    require_ours(path)
    with alone(path, request["who"]):
        size = sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
        for entry in path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != README:  # it says until the end whose the rest is
                entry.unlink()
        shutil.rmtree(path)
    return {"removed": str(path), "bytes": size}


def main() -> None:
    """Answer one request."""
    request = json.loads(sys.stdin.buffer.readline())
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.umask(0o077)
    operations = (hello, missing, put, install, run, get, forget, clean)
    try:
        found = {operation.__name__: operation for operation in operations}[request["call"]](request)
    except RefusedError as exc:
        answer(error=[exc.message, exc.hint])
    except OSError as exc:
        told = full_disk(Path(exc.filename or Path("~").expanduser() / FOLDER), exc)
        answer(error=[told.message, told.hint])
    else:
        if found is not None:
            answer(result=found)


if __name__ == "edgecnn-agent":
    main()
    sys.stdout.flush()
    os._exit(0)  # a thread may still wait for standard input, at which a shutdown in order aborts
