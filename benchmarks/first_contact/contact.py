"""The questions in their order, each in a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.first_contact.answer import (
    ABSENT,
    ANSWERED,
    CRASHED,
    FAILED,
    LATE,
    NOT_ASKED,
    Answer,
    Question,
    Work,
    failed_parts,
)
from benchmarks.first_contact.questions import QUESTIONS
from edgecnn.errors import EdgecnnError
from edgecnn.version import __version__

ROOT = Path(__file__).resolve().parents[2]
REASON, ERROR = 64, 65  # exit codes of a child


class Contact:
    """The questions in their order, as long as there is time."""

    def __init__(
        self,
        work: Work,
        total_s: float,
        questions: Sequence[Question] = QUESTIONS,
        keep: Callable[[dict[str, Any]], None] = lambda document: None,
    ) -> None:
        """`keep` is given the document after each question."""
        self.work, self.questions, self.started = work, questions, time.monotonic()
        self.keep = keep
        self.ends, self.found = self.started + total_s, dict[str, dict[str, Any]]()
        for name in ("answers", "logs"):
            (work.folder / name).mkdir(parents=True)

    def ask_all(self) -> dict[str, Any]:
        """The document; an interruption ends the questions, and not the document."""
        interrupted = False
        for question in self.questions:
            began = time.monotonic()
            if interrupted:
                row = self.row(question, NOT_ASKED, "interrupted")
            elif found := self.why_not(question):
                row = self.row(question, *found)
            else:
                try:
                    row = self.ask(question)
                except KeyboardInterrupt:
                    interrupted, row = True, self.row(question, NOT_ASKED, "interrupted")
            row["seconds"] = round(time.monotonic() - began, 1)
            self.found[question.key] = row
            why = f": {row['why'][:150]}" if row["why"] else ""
            print(f"[{row['seconds']:6.1f} s] {question.key}: {row['state']}{why}", flush=True)
            if "gpu" in self.found:  # by which the file is named
                self.keep(self.document(interrupted))
        return self.document(interrupted)

    def why_not(self, question: Question) -> tuple[str, str] | None:
        """The state of a question that is not asked, with the reason: it needs something that gave nothing."""
        for key in question.needs:
            needed = self.found[key]
            state, why = needed["state"], needed["why"]
            if state in (ABSENT, NOT_ASKED):
                return state, why
            if not needed.get("answer", {}).keys() - needed.get("refused", ()):
                return NOT_ASKED, f"it needs {key}: {state} {why}"
        return (NOT_ASKED, "the time is used up") if self.ends - time.monotonic() < 1 else None

    def ask(self, question: Question) -> dict[str, Any]:
        """A question in a process of its own, which is ended with all that it started when its time is over."""
        log, limit = self.work.folder / "logs" / f"{question.key}.txt", question.limit_s
        limit = min(limit, self.ends - time.monotonic())
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
            "PYTHONFAULTHANDLER": "1",
            "XDG_CACHE_HOME": str(self.work.folder / "cache"),
        }
        command = [sys.executable, "-m", "benchmarks.first_contact", "--ask", question.key]
        with log.open("wb") as file:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self.work.folder,
                env=environment,
                start_new_session=True,
            )
        try:
            child.communicate(json.dumps(dataclasses.asdict(self.work), default=str).encode(), timeout=limit)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGABRT)  # Python then writes where it is
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=2)
            return self.row(question, LATE, f"within {limit:.0f} s; {' | '.join(fatal_lines(log))}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # a driver that hangs keeps even what is killed
                child.wait(timeout=10)
        return self.row(question, *self.how_it_ended(child.returncode, log))

    def how_it_ended(self, code: int, log: Path) -> tuple[str, str]:
        """The state of a question whose process ended with `code`, and why."""
        said = lines_of(log)
        if code == 0:
            return ANSWERED, ""
        if code in (REASON, ERROR):
            return (ABSENT if code == REASON else FAILED), said[-1] if said else ""
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return CRASHED, f"{name}; {' | '.join(fatal_lines(log))}"
        told = [line for line in said if line.startswith(("error: ", "hint: "))] or said[-3:]
        return FAILED, f"exit code {code}: {' | '.join(told)}"

    def row(self, question: Question, state: str, why: str) -> dict[str, Any]:
        """One question in the document."""
        parts = dict(self.work.earlier(question.key))
        if now := parts.pop("now", ""):  # it did not come to its end
            why = f"{why} (in {now})"
        row = {"asks": question.asks, "state": state, "why": self.without_paths(why), "seconds": 0.0}
        if refused := failed_parts(parts):
            row["refused"] = refused
        if parts:
            row["answer"] = json.loads(self.without_paths(json.dumps(parts)))
        return row

    def without_paths(self, text: str) -> str:
        """What is sent to others names no folder of this machine."""
        for path, name in (
            (self.work.folder, "."),
            (self.work.graphs, "graphs"),
            (ROOT, "edgecnn"),
            (Path.home(), "~"),
        ):
            if len(path.parts) > 1:
                text = text.replace(str(path), name)
        return text

    def document(self, interrupted: bool) -> dict[str, Any]:
        """What is written."""
        gpu = self.found.get("gpu", {}).get("answer", {}).get("properties", {})
        return {
            "edgecnn": __version__,
            "commit": _commit(),
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "gpu": gpu.get("name", ""),
            "compute_capability": gpu.get("compute_capability", ""),
            "networks": {"small": self.work.small, "large": self.work.large, "seconds": self.work.seconds},
            "seconds": round(time.monotonic() - self.started, 1),
            "interrupted": interrupted,
            "questions": self.found,
        }


def lines_of(log: Path) -> list[str]:
    """What a process said."""
    return [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]


def fatal_lines(log: Path) -> list[str]:
    """What a process said last before it was ended by a signal, and the place in Python where it was."""
    said = lines_of(log)
    fatal = next((k for k, line in enumerate(said) if line.startswith("Fatal Python error")), len(said))
    place = next((line for line in said[fatal:] if line.startswith("File ")), "")
    return [*said[max(0, fatal - 2) : fatal], *([place] if place else [])]


def answer_one(key: str, work: Work) -> int:
    """In the child: ask one question; the last line says why there is no answer."""
    question = next(q for q in QUESTIONS if q.key == key)
    answer = Answer(work.folder / "answers" / f"{key}.json")
    try:
        reason = question.ask(work, answer)
    except EdgecnnError as exc:
        reason, failed = "", f"{exc.message}; {exc.hint}"
    else:
        failed = _failure(answer)
    answer.close()
    print(" ".join((reason or failed).split()))
    return REASON if reason else ERROR if failed else 0


def _failure(answer: Answer) -> str:
    """Why an answer is none: it has no part, or each of its parts is an error."""
    errors = failed_parts(answer.found)
    if len(errors) < len(answer.found):
        return ""
    return "; ".join(f"{key}: {answer.found[key]['error']}" for key in errors) or "nothing was found"


def work_from_json(text: str) -> Work:
    """As the parent sent it."""
    fields = json.loads(text)
    return Work(**{**fields, "folder": Path(fields["folder"]), "graphs": Path(fields["graphs"])})


def _commit() -> str:
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=ROOT, capture_output=True, text=True
        )
    except FileNotFoundError:
        return ""
    return told.stdout.strip()
