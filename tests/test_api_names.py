"""`import edgecnn` is light, and says what it offers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edgecnn
from edgecnn import errors

HEAVY = ("numpy", "PIL", "torch", "onnx", "onnxruntime", "pydantic", "typer", "rich")


def offered() -> set[str]:
    """What the TYPE_CHECKING block of edgecnn/__init__.py imports, for type checkers and editors."""
    tree = ast.parse(Path(edgecnn.__file__).read_text(encoding="utf-8"))
    [block] = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    return {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_the_import_is_light() -> None:
    script = f"import sys, edgecnn; print([m for m in {HEAVY!r} if m in sys.modules], dir(edgecnn))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] ")
    assert "'quantize'" in done.stdout


def test_all_is_what_type_checkers_see_and_what_is_there() -> None:
    assert len(set(edgecnn.__all__)) == len(edgecnn.__all__)
    assert offered() == set(edgecnn.__all__)
    assert set(edgecnn.__all__) <= set(dir(edgecnn))
    for name in edgecnn.__all__:
        found = getattr(edgecnn, name)
        assert found.__name__ == name
        assert found.__module__.startswith("edgecnn.")


def test_every_error_is_offered() -> None:
    tree = {n for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, errors.EdgecnnError)}
    assert tree <= set(edgecnn.__all__)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="quantise"):
        edgecnn.quantise  # noqa: B018


def test_every_function_says_how_it_is_called_and_what_it_raises() -> None:
    functions = {
        name: getattr(edgecnn, name) for name in edgecnn.__all__ if not isinstance(getattr(edgecnn, name), type)
    }
    assert len(functions) > 10
    for name, function in functions.items():
        text = function.__doc__ or ""
        example = [line.strip() for line in text.splitlines() if line.startswith(" " * 8)]
        assert len(example) == 3, name
        ast.parse("\n".join(example))
        assert f"ec.{name}(" in text, name
        assert "Raises" in text, name
