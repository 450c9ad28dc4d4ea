"""Build routes of TensorRT 11.1 and later: words `-knob=value`, for the compiler inside it.

The knobs with their values are `IBuilderConfig.all_build_routes`, JSON text that is empty where there are none: before
11.1, on Windows, and in TensorRT-RTX. There a route that is set is dropped without a word (TensorRT-RTX 1.7.1), so that
each is read back. Sources: the bindings' documentation of `build_route` (11.4); trtexec's README, section 7; the fields
of the JSON as sampleTuning.cpp of TensorRT's samples reads them.
"""

from __future__ import annotations

import re
from typing import Any

from edgecnn.errors import BackendError, nearest
from edgecnn.records import parse_json
from edgecnn.results.build_routes import Knob, problem_of

_CLOSED = re.compile(r"\[([^\]]*)\]")  # [on|off]; [0|1|...] goes on, and what is no list is a type: int
_OPEN_ENDED = "..."


def read_knobs(trt: Any, settings: Any) -> tuple[Knob, ...]:
    """What the builder's `settings` offer; none where this TensorRT has no build routes. Raises `BackendError` for
    other text than NVIDIA documents."""
    try:
        text = _text(getattr(settings, "all_build_routes", ""))
        if not text.strip():
            return ()
        return tuple(
            Knob(_text(one["option"]), _closed_set(one["allowed_values"]), _text(one["default_value"]))
            for one in _listed(parse_json(text)["tuner_options"])
        )
    except (ValueError, KeyError, TypeError) as exc:
        raise BackendError(
            f"TensorRT {trt.__version__}: its list of build routes is not what was expected: {exc!r}",
            "report it with the first lines of `trtexec --helpBuildRoute`; `edgecnn search --routes none` does without",
        ) from exc


def set_build_route(trt: Any, settings: Any, route: str) -> list[str]:
    """Build by `route` ("": as TensorRT does by itself); returns what is to be said about it.

    Raises `BackendError` where this TensorRT has no build routes, for a knob or a value that it does not list, and
    where it does not take what was asked for.
    """
    if not route:
        return []
    knobs = {knob.name: knob for knob in read_knobs(trt, settings)}
    if not knobs:
        raise BackendError(
            f"the TensorRT that is here, {trt.__version__}, has no build routes",
            "TensorRT has them from 11.1 on, TensorRT-RTX and Windows never: leave --build-route or build.routes out",
        )
    if problem := problem_of(route):
        raise BackendError(f"build route: {problem}", "for example --build-route='-conv_lowering=off -kgen:tiling=2'")
    words = route.split()
    for word in words:
        _require_listed(knobs, word)
    try:
        settings.build_route = route
        taken = _text(settings.build_route).split()
    except (TypeError, ValueError, RuntimeError) as exc:
        raise BackendError(
            f"TensorRT {trt.__version__} does not take the build route {route!r}: {exc}",
            "build without it; and report it with TensorRT's version",
        ) from exc
    if lost := [word for word in words if word not in taken]:
        raise BackendError(
            f"TensorRT {trt.__version__} does not take {' '.join(lost)} of the build route {route!r}",
            "build without it; and report it with TensorRT's version",
        )
    return [f"build route {route}"]


def _require_listed(knobs: dict[str, Knob], word: str) -> None:
    name, _, value = word.partition("=")
    if name not in knobs:
        close = nearest(name, knobs) or "`trtexec --helpBuildRoute` lists them"
        raise BackendError(f"build route: this TensorRT has no knob {name}", close)
    if not knobs[name].takes(value):
        allowed = ", ".join(knobs[name].values) or "a single one"
        raise BackendError(f"build route: {word}: no value of that knob", f"allowed: {allowed}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _listed(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value


def _closed_set(text: str) -> tuple[str, ...]:
    found = _CLOSED.search(text)
    if found is None or _OPEN_ENDED in found[1]:
        return ()
    return tuple(value.strip() for value in found[1].split("|") if value.strip())
