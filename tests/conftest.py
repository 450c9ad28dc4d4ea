"""Fixtures for all groups of tests."""

from __future__ import annotations

import ast
import fcntl
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "torchvision", "timm")
IMPORTED = pytest.StashKey[set[str]]()
MADE = pytest.StashKey[dict[str, dict[Path, tuple[tuple[int, ...], bytes]]]]()
CPU_LIMIT_S = 10.0
USUAL_LOOP_S = 0.05  # of processor time: see `slowness`
UNLIMITED = ("slow", "gpu")
REQUIRABLE = ("gpu", "nvidia", "browser", "sshd")
NEEDS = re.compile(r"^pytestmark = .*\bmark\.(torch|onnx)\b", re.MULTILINE)

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores: PyTorch's threads of one wait for the other's
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # where the environment says how OpenMP waits, no bench loads PyTorch anew in a process of its own (steps/_fresh.py)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Pass over a file whose mark names a package that is not installed: it could not be imported."""
    if collection_path.suffix != ".py":
        return None
    needed = NEEDS.search(collection_path.read_text(encoding="utf-8"))
    return True if needed and importlib.util.find_spec(needed[1]) is None else None


def refuse_skip(report: pytest.TestReport | pytest.CollectReport, need: str | None) -> None:
    """Turn a skip into a failure where EDGECNN_REQUIRE_<need>=1 says that what is needed must be here."""
    variable = f"EDGECNN_REQUIRE_{str(need).upper()}"
    if need and report.skipped and not hasattr(report, "wasxfail") and os.environ.get(variable) == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        report.outcome, report.longrepr = "failed", f"{variable}=1: {reason.removeprefix('Skipped: ')}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skip speaks for the need whose marker is nearest to the test."""
    report = yield
    refuse_skip(report, next((mark.name for mark in item.iter_markers() if mark.name in REQUIRABLE), None))
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A file that is skipped whole has no tests that could carry a marker: the need is read from its text."""
    report = yield
    if report.skipped and isinstance(collector, pytest.Module):
        marked = re.findall(r"\bmark\.(\w+)", collector.path.read_text(encoding="utf-8"))
        for need in sorted(set(marked) & set(REQUIRABLE)):
            refuse_skip(report, need)
    return report


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note which of the packages that take seconds the collection has imported."""
    session.config.stash[IMPORTED] = set(HEAVY) & sys.modules.keys()


def import_late(module: ModuleType) -> None:
    """Run the imports below `if TYPE_CHECKING:` of a test file, and of those that it takes functions from."""
    if not module.__name__.startswith("tests.") or hasattr(module, "_imported_late"):
        return
    module._imported_late = True  # type: ignore[attr-defined]
    for statement in ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            imports = ast.Module(statement.body, type_ignores=[])
            exec(compile(imports, str(module.__file__), "exec"), vars(module))  # noqa: S102 - our own imports
    for name in {str(getattr(value, "__module__", "")) for value in list(vars(module).values())} & sys.modules.keys():
        import_late(sys.modules[name])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Import what the test's file keeps below `if TYPE_CHECKING:`, before its first test; with PyTorch what the first
    optimizer and the first export would load, so that no test is charged with those seconds."""
    if isinstance(item, pytest.Function):
        import_late(item.module)
        if "torch" in sys.modules:
            importlib.import_module("torch._dynamo")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test whose call costs more processor time than CPU_LIMIT_S, ended child processes and threads included.
    `cpu_s(SECONDS)` sets another limit, and a slower machine grants as much more. Exempt: what is marked slow or gpu,
    and fixtures, for one of a session or module serves many tests."""
    before = sum(os.times()[:4])
    result = yield
    spent = sum(os.times()[:4]) - before
    mark = item.get_closest_marker("cpu_s")
    limit = mark.args[0] if mark else CPU_LIMIT_S
    limited = not any(item.get_closest_marker(name) for name in UNLIMITED)
    if limited and spent > limit and spent > (limit := limit * slowness()):
        pytest.fail(f"took {spent:.1f} s of processor time, of {limit:.3g} s that a test may take", pytrace=False)
    return result


def slowness() -> float:
    """How many times longer a fixed loop takes now than where the limits were set; at least 1."""
    costs = []
    for _ in range(3):
        start = time.process_time()
        sum(k * k for k in range(1_000_000))
        costs.append(time.process_time() - start)
    return max(1.0, min(costs) / USUAL_LOOP_S)


def is_here(address: object) -> bool:
    """Whether an address is this machine's: local servers stand for others in tests."""
    host = address[0] if isinstance(address, tuple) else address
    host = host.decode() if isinstance(host, bytes) else str(host or "")
    return host.startswith("127.") or host in ("", "localhost", "::1", "0.0.0.0", "::", socket.gethostname())


def only_here(method: Callable[..., Any], position: int) -> Callable[..., Any]:
    """`method`, which fails the test where its argument at `position` is the address of another machine."""

    def called(*args: Any, **options: Any) -> Any:
        given = args[position] if len(args) > position else options.get("host", "")
        family = getattr(args[0], "family", None) if args else None
        if family != socket.AF_UNIX and not is_here(given):
            pytest.fail(f"the test opens a connection to {given}: mark it nvidia, browser or sshd", pytrace=False)
        return method(*args, **options)

    return called


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test and all its fixtures speak to this machine alone, unless it is marked nvidia, browser or sshd.

    What a child process opens is not seen, nor what compiled code does without Python's sockets.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not any(item.get_closest_marker(name) for name in ("nvidia", "browser", "sshd")):
            for name, position in (("connect", 1), ("connect_ex", 1), ("sendto", -1)):
                patch.setattr(socket.socket, name, only_here(getattr(socket.socket, name), position))
            patch.setattr(socket, "getaddrinfo", only_here(socket.getaddrinfo, 0))
        return (yield)


def state(path: Path) -> tuple[int, ...]:
    """What changes when a file is written; () where there is none."""
    if not path.is_file():
        return ()
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def content(path: Path) -> bytes:
    """The digest of a file's content; b"" where there is none."""
    return hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b""


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Note the files of a fixture that serves several tests; one that yields may run a program, which writes."""
    wide = fixturedef.scope != "function" and "tmp_path_factory" in fixturedef.argnames
    if not wide or inspect.isgeneratorfunction(fixturedef.func):
        return (yield)
    base = request.getfixturevalue("tmp_path_factory").getbasetemp()
    before = set(base.iterdir())
    made = yield
    folders = {path for path in set(base.iterdir()) - before if not path.is_symlink()}
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    request.config.stash.setdefault(MADE, {})[fixturedef.argname] = {p: (state(p), content(p)) for p in files}
    return made


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Fail a test that changes or removes a file which a fixture made for several tests: they would depend on their
    order. It may add others."""
    made = pyfuncitem.config.stash.get(MADE, {})
    files = {path: seen for name in pyfuncitem.fixturenames for path, seen in made.get(name, {}).items()}
    for path, (then, _) in files.items():
        if state(path) != then:  # another fixture's doing
            files[path] = state(path), content(path)
    result = yield
    changed = [path for path, (then, what) in files.items() if state(path) != then and content(path) != what]
    if changed:
        pytest.fail(f"changed what other tests read, of a fixture: {', '.join(map(str, changed))}", pytrace=False)
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is marked slow or gpu has half an hour by the clock, unless it says otherwise."""
    for item in items:
        if any(item.get_closest_marker(name) for name in UNLIMITED) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session", autouse=True)
def one_application() -> Iterator[None]:
    """Typer reads the signatures of all commands at every call, which takes 50 ms: here, once per process."""
    import typer.main

    from edgecnn.cli import app

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "application", functools.cache(app.application))
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_core_each() -> Iterator[None]:
    """A worker counts one core as its own: two that take all cores wait for each other's threads."""
    with pytest.MonkeyPatch.context() as patch:
        if "PYTEST_XDIST_WORKER" in os.environ:
            patch.setattr(os, "sched_getaffinity", lambda pid: {0})
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def digits_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of lenet5-digits, made once for all workers of the session: what serves a module reads it."""
    from edgecnn.cli import main

    everyone = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        everyone = everyone.parent  # each worker's folder lies below that of the session
    folder = everyone / "lenet5-digits"
    with (everyone / "lenet5-digits.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            made = Path(tempfile.mkdtemp(dir=everyone)) / "lenet5-digits"
            assert main(["run", "lenet5-digits", "--out", str(made)]) == 0
            made.rename(folder)
    return folder


@pytest.fixture
def digits(digits_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run folder of lenet5-digits, a copy for each test: what one changes no other sees."""
    folder = Path(shutil.copytree(digits_made, tmp_path_factory.mktemp("digits") / "lenet5-digits"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons of latency in blocks of 5 ms in place of 50, where their figures are not looked at."""
    monkeypatch.setattr("edgecnn.measure.comparison.BLOCK_S", 0.005)


@pytest.fixture(scope="session")
def shared() -> Path:
    """A folder with real images (`data/`) and weights (`weights/`): EDGECNN_SHARED, else `../shared`."""
    folder = Path(os.environ.get("EDGECNN_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real images: {folder}/data is absent (EDGECNN_SHARED names another folder)")
    return folder
