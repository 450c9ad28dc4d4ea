"""A function in a Python file that makes a network: looked at without running it, and run only where it is trusted."""

from __future__ import annotations

import ast
from pathlib import Path

from edgecnn.errors import ArtifactError, ModelError, nearest


def split_factory(factory: str) -> tuple[Path, str]:
    """The file and the function of FILE.py:FUNCTION; raises `ModelError` for another form."""
    file, _, name = factory.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise ModelError(f"{factory!r} names no function", "write FILE.py:FUNCTION, such as net.py:make")
    return Path(file), name


def names_factory(model: str) -> bool:
    """Whether it has the form FILE.py:FUNCTION (or FILE.py, which lacks the function), not that of a network's name."""
    return ".py:" in model or model.endswith(".py")


def check_factory(factory: str) -> None:
    """Raise, without running anything, what can be told of a factory that cannot be had: `ArtifactError` for its file,
    `ModelError` for a file that is no Python or has no such function."""
    path, name = split_factory(factory)
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except OSError as exc:
        raise ArtifactError(
            f"{path}: cannot be read: {exc.strerror}", f"check the path; it counts from {Path.cwd()}"
        ) from exc
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        raise ModelError(f"{path}: not valid Python: {str(exc) or 'nested too deeply'}", "correct it") from exc
    found, open_ended = set[str](), False
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [(alias.asname or alias.name).split(".")[0] for alias in node.names]
            found.update(names)
            open_ended |= "*" in names
    if name not in found and not open_ended:
        functions = [n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
        raise ModelError(
            f"{path}: has no function {name!r}",
            nearest(name, functions) or f"it has {', '.join(functions[:5]) or 'none'}",
        )


def require_trust(factory: str, trust_code: bool) -> None:
    """Raise `ArtifactError` where a file of Python would be run that nobody has said to trust."""
    if not trust_code:
        raise ArtifactError(
            f"{factory}: is Python code, which can do anything that you can; it is not run unasked",
            "read it, then add --trust-code (in Python: trust_code=True)",
        )
