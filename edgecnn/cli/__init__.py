"""The command line: parse, make one call, print, exit. One module per command, found by listing."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any

from edgecnn.data.sources.listing import listing_each_folder_once
from edgecnn.errors import EdgecnnError, is_out_of_memory
from edgecnn.output import print_lines, say

INTERRUPTED, TERMINATED = 130, 143
BUG = 101
OF_THE_HOST = {"torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "safetensors"}  # absent on a device
OF_THE_CORE = {  # what is imported, and what pip installs: a checkout that was copied may lack it
    "numpy": "numpy>=1.24",
    "PIL": "pillow>=10.1",
    "pydantic": "pydantic>=2.7",
    "typer": "typer>=0.19",
    "rich": "rich>=13",
    **({"tomli": "tomli>=2"} if sys.version_info < (3, 11) else {}),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (left out: that of the process) and return its exit code (see the README's table); every error
    becomes its exit code here and nowhere else."""
    thresholds = gc.get_threshold()
    gc.disable()  # of the parser that is loaded nothing is garbage
    if arguments is None:  # nor does a process of ours that ends look for any: that takes longer than to load it all
        atexit.register(gc.freeze)
    try:
        return _main(sys.argv[1:] if arguments is None else [*arguments])
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
        gc.enable()


def _main(arguments: list[str]) -> int:
    try:
        import typer

        from edgecnn.cli.app import application
    except ModuleNotFoundError as exc:
        return _unexpected(exc)

    # Typer >= 0.26 carries click inside itself: its base exception is reached through a public subclass.
    click_exception: type[typer.BadParameter] = next(  # really its base class
        c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
    )
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what cannot be read is counted, or refused with its name
    with Termination() as termination, listing_each_folder_once():
        code = _run(arguments, application, click_exception, typer.Abort)
    if code == INTERRUPTED:
        say("terminated" if termination.asked else "interrupted")
        return TERMINATED if termination.asked else INTERRUPTED
    return code


def _run(
    arguments: list[str],
    application: Callable[..., Any],
    click_exception: Any,
    abort: type[BaseException],
) -> int:
    try:
        run = application(*arguments[:1])
        result = run(args=arguments, prog_name="edgecnn", standalone_mode=False)
    except EdgecnnError as exc:
        return _fail(exc.message, exc.hint, exc.exit_code)
    except click_exception as exc:
        if type(exc).__name__ == "NoArgsIsHelpError":
            print_lines(exc.format_message().split("\n"))
            return 2
        context = getattr(exc, "ctx", None)
        command = context.command_path if context is not None else "edgecnn"
        message = exc.format_message().replace("Value error, ", "")  # pydantic's prefix, through Typer
        return _fail(message, f"`{command} --help` shows what is allowed", 2)
    except (KeyboardInterrupt, abort):
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UnicodeEncodeError as exc:  # a file's name with bytes that are no UTF-8
        before, after = exc.object[: exc.start].rpartition("\n")[2], exc.object[exc.start :].partition("\n")[0]
        return _fail(f"{before + after!a}: the name is not valid UTF-8", "rename the file or folder", 2)
    except Exception as exc:  # noqa: BLE001 - the one place where a bug becomes an exit code
        if is_out_of_memory(exc):
            said = str(exc).partition("\n")[0][:200] or "the machine has no more"
            return _fail(f"not enough memory: {said}", "use a smaller batch or input size", 2)
        if isinstance(exc, OSError):
            where = f"{exc.filename}: " if exc.filename else ""
            return _fail(f"{where}{exc.strerror or exc}", "check the path, its permissions and the free space", 2)
        return _unexpected(exc)
    return result if isinstance(result, int) else 0  # Typer makes INTERRUPTED of KeyboardInterrupt by itself


class Termination:
    """SIGTERM ends the block as Ctrl-C does, so that what is half done is cleared away; a second one kills. Under
    torchrun it kills at once: the others may wait for this process."""

    def __init__(self) -> None:
        self.asked = False
        self._taken = False

    def __enter__(self) -> Termination:
        alone = os.environ.get("WORLD_SIZE", "1") == "1" and threading.current_thread() is threading.main_thread()
        if alone and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._handle)
            self._taken = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._taken:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt


def _unexpected(error: Exception) -> int:
    """The exit code of what nothing has translated: a package that is missing, or a bug."""
    package = error.name.partition(".")[0] if isinstance(error, ModuleNotFoundError) and error.name else ""
    if package in OF_THE_CORE:
        import importlib.util

        absent = [name for name in OF_THE_CORE if name == package or importlib.util.find_spec(name) is None]
        wanted = " ".join(f"'{OF_THE_CORE[name]}'" for name in absent)
        return _fail(f"edgecnn needs {', '.join(absent)}: not installed here", f"install with: pip install {wanted}", 2)
    if package in OF_THE_HOST:
        from edgecnn.machine.packages import missing_package

        missing = missing_package(package, "this command", "cpu")
        return _fail(missing.message, missing.hint, missing.exit_code)
    importer = _importer(error)
    if package not in ("", "edgecnn") and importer != "edgecnn":
        from importlib.metadata import packages_distributions

        if owners := packages_distributions().get(importer):
            hint = f"what is installed is not whole: pip install --force-reinstall {' '.join(owners)}"
            return _fail(f"{importer} needs {package}: not installed here", hint, 2)
    for line in "".join(traceback.format_exception(error)).rstrip("\n").split("\n"):
        say(line)
    say("error: this is a bug in edgecnn, not a mistake of yours")
    say("hint: report it with the traceback above and the output of `edgecnn doctor`")
    return BUG


def _importer(error: Exception) -> str:
    """The package whose module raised `error` or called the importlib that did."""
    names = [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    packages = [name.partition(".")[0] for name in names]
    return next((package for package in reversed(packages) if package != "importlib"), "")


def _fail(message: str, hint: str, code: int) -> int:
    say(f"error: {message}")
    say(f"hint: {hint}")
    return code
