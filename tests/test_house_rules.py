"""The rules that keep the project readable, checked against the code."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgecnn
from tests.conftest import IMPORTED, REQUIRABLE

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "edgecnn").rglob("*.py"))
FILE_LINES, FUNCTION_LINES = 400, 60


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def test_the_sources_are_found() -> None:
    assert len(SOURCES) > 30


def test_few_mappings_of_anything_and_none_in_gate_and_report() -> None:
    """A measurement travels as a record."""
    texts = {p.relative_to(ROOT / "edgecnn"): p.read_text(encoding="utf-8") for p in SOURCES}
    assert sum(text.count("dict[str, Any]") for text in texts.values()) < 40
    judging = [text for path, text in texts.items() if path.parts[0] in ("gate", "report")]
    assert len(judging) > 5
    assert not any("[str, Any]" in text for text in judging)


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body, its docstring apart."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_budgets(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= FILE_LINES, "a file that outgrows its budget becomes a folder of its name"
    long = {f.name: body_lines(f) for f in functions(path)}
    assert {name: n for name, n in long.items() if n > FUNCTION_LINES} == {}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_names_of_modules(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "common", "misc"}
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.split(".")[0])
    assert path.stem not in imported, "no module bears the name of a module that it imports"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_and_public_function_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not tree.body or ast.get_docstring(tree), "a module docstring"
    public = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_")]
    assert [n.name for n in public if not ast.get_docstring(n)] == []


def test_errors_are_drawn_as_they_are() -> None:
    """The tree in the docstring of errors.py names every class, below its base."""
    import edgecnn.errors as errors

    classes = {n: c for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, errors.EdgecnnError)}
    drawn = re.findall(r"^ {4}([| `-]*)(\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    assert {name for _, name in drawn} == classes.keys()
    path: list[str] = []
    for indent, name in drawn:
        depth = (len(indent) + 2) // 3
        path = [*path[:depth], name]
        if depth:
            assert classes[name].__base__ is classes[path[depth - 1]], name


def test_no_path_of_a_machine_and_no_left_over() -> None:
    files = list[Path]()
    for folder, inner, names in os.walk(ROOT):
        inner[:] = [name for name in inner if name != ".venv"]  # tens of thousands of files
        files += [Path(folder, name) for name in names if name.endswith((".py", ".md", ".toml", ".yml", ".yaml"))]
    assert len(files) > 40
    words = re.compile(r"(/home/\w+|/root/)|\b(TODO|FIXME|XXX)\b")
    found = {
        str(p.relative_to(ROOT)): hit.group(0)
        for p in files
        if p.name != Path(__file__).name and (hit := words.search(p.read_text(encoding="utf-8", errors="replace")))
    }
    assert found == {}


WRITTEN = [
    *(ROOT / "llms.txt", *sorted(ROOT.glob("*.md"))),
    *(p for folder in ("benchmarks", "docs", "skills") for p in sorted((ROOT / folder).rglob("*.md"))),
]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def outside_code(text: str) -> str:
    """A document without its code, in which nothing is a link or a heading."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors(text: str) -> set[str]:
    """Those of a document's headings, as forges make them: words in lower case, hyphens for spaces."""
    found = list[str]()
    for heading in re.findall(r"^#+ +(.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.MULTILINE):
        slug = (
            re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).strip().replace(" ", "-")
        )
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return set(found)


def broken_links(path: Path) -> list[str]:
    """Links of a document to no file of the checkout, or to a heading that a document does not have."""
    broken = []
    for link in LINK.findall(outside_code(path.read_text(encoding="utf-8"))):
        place, _, anchor = link.partition("#")
        there = (path.parent / place).resolve() if place else path
        if re.match(r"\w+:", link):
            continue
        leads = there.exists() and there.is_relative_to(ROOT)
        if leads and anchor:
            leads = there.suffix == ".md" and anchor in anchors(there.read_text(encoding="utf-8"))
        broken += [] if leads else [link]
    return broken


@pytest.mark.parametrize("path", WRITTEN, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_of_documents_lead_somewhere(path: Path) -> None:
    assert broken_links(path) == []


def test_a_broken_link_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.test_house_rules.ROOT", tmp_path)
    (tmp_path / "a.md").write_text("# One `two`, three\n## Same\n## Same\n```\n# no heading\n```\n")
    good = "[a](a.md) [b](a.md#one-two-three) [c](a.md#same-1) [d](#here) [e](https://example.org/x#y)\n# Here\n"
    good += "`[f](none)`"
    bad = "[a](b.md) [b](a.md#two) [c](a.md#same-2) [d](#there) [e](a.md#no-heading) [f](../../etc)"
    (tmp_path / "page.md").write_text(good + bad)
    assert broken_links(tmp_path / "page.md") == re.findall(r"\((.*?)\)", bad)


def test_the_changelog_begins_with_this_version() -> None:
    entries = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert entries[0] == edgecnn.__version__
    assert len(set(entries)) == len(entries)


TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
LATE = {"torch", "torchvision", "timm", "onnxruntime", "safetensors"}


def imported_at_once(path: Path) -> set[str]:
    """The packages of the imports that run when the file is imported: those outside functions and TYPE_CHECKING."""
    found, left = set[str](), list[ast.AST](ast.parse(path.read_text(encoding="utf-8")).body)
    while left:
        node = left.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("pytest.importorskip", "import_module"):
            found |= {str(a.value).split(".")[0] for a in node.args[:1] if isinstance(a, ast.Constant)}
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            left += node.orelse
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            left += ast.iter_child_nodes(node)
    return found


def test_what_counts_as_imported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "test_x.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import timm\n"
        "try:\n    import torch.nn as nn\nexcept ImportError:\n    pass\n"
        "x = pytest.importorskip('torchvision.ops')\n"
        "def f():\n    import onnxruntime\n"
    )
    assert imported_at_once(path) & LATE == {"torch", "torchvision"}


def test_collecting_the_tests_imports_nothing_heavy(request: pytest.FixtureRequest) -> None:
    """What takes seconds to import belongs below `if TYPE_CHECKING:`, from where tests/conftest.py imports it before
    the file's first test, or into a function."""
    assert len(TESTS) > 50
    assert {str(p.relative_to(ROOT)): found for p in TESTS if (found := imported_at_once(p) & LATE)} == {}
    assert request.config.stash[IMPORTED] == set(), "some test file imports these through another module"


SPENDING = """
import subprocess, sys, time
import pytest

def spend(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

def test_below():
    spend(0.01)

def test_above():
    spend(0.3)

def test_a_child_above():
    subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.4: pass"], check=True)

@pytest.mark.cpu_s(5)
def test_allowed():
    spend(0.3)

@pytest.mark.slow
def test_slow():
    spend(0.3)

@pytest.fixture(scope="session")
def made():
    spend(0.3)

def test_of_a_fixture(made):
    pass
"""


def test_a_test_has_a_limit_of_processor_time(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers =\n    slow\n    gpu\n    cpu_s(seconds)\n    timeout(seconds)\n")
    text = (ROOT / "tests" / "conftest.py").read_text().replace("CPU_LIMIT_S = 10.0", "CPU_LIMIT_S = 0.2")
    pytester.makeconftest(re.sub(r"USUAL_LOOP_S = \S+", "USUAL_LOOP_S = 1e9", text))
    pytester.makepyfile(SPENDING)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:timeout")
    result.assert_outcomes(passed=4, failed=2)
    result.stdout.fnmatch_lines(
        ["*_ test_above _*", "took 0.* s of processor time, of 0.2 s *", "*_ test_a_child_above _*"]
    )


SHARING = """
import pytest

@pytest.fixture(scope="session")
def digits_made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    (folder / "verdict.json").write_text("pass")
    return folder

@pytest.mark.parametrize("verdict", ["fail", "inconclusive"])
def test_judges(digits, verdict):
    assert (digits / "verdict.json").read_text() == "pass"
    (digits / "verdict.json").write_text(verdict)
"""


def test_what_a_test_does_to_the_run_of_the_digits_no_other_sees(pytester: pytest.Pytester) -> None:
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text())
    pytester.makepyfile(SHARING)
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)


WIDE = """
import pytest

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("made")
    for name in ("a", "b", "c"):
        (made / name).write_text(name)
    return made

@pytest.fixture(scope="module")
def more(folder):
    (folder / "a").write_text("another fixture may")
    return folder

def test_reads_and_adds(folder, more):
    (folder / "new").write_text((folder / "b").read_text())

def test_changes_what_a_test_added(folder):
    (folder / "new").write_text("")

def test_writes_the_same(folder):
    (folder / "b").write_text("b")

def test_changes(folder):
    (folder / "b").write_text("B")

def test_removes(more):
    (more / "c").unlink()

def test_comes_later(folder):
    pass
"""


def test_what_a_fixture_made_for_several_tests_none_of_them_changes(pytester: pytest.Pytester) -> None:
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text())
    pytester.makepyfile(WIDE)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=4, failed=2)
    lines = ["*_ test_changes _*", "changed what other tests read, *: */made0/b", "*_ test_removes _*", "*/made0/c"]
    result.stdout.fnmatch_lines(lines)


NEEDING = """
import pytest

NEEDS = ("gpu", "nvidia", "browser", "sshd")

@pytest.mark.parametrize("need", [pytest.param(n, marks=getattr(pytest.mark, n)) for n in NEEDS])
def test_in_its_body(need):
    pytest.skip(f"no {need}")

@pytest.mark.nvidia
@pytest.mark.skipif(True, reason="not here")
def test_by_a_mark():
    pass

@pytest.fixture
def browser():
    pytest.skip("no browser")

@pytest.mark.browser
def test_by_a_fixture(browser):
    pass

@pytest.mark.sshd
@pytest.mark.xfail
def test_expected_to_fail():
    raise OSError

@pytest.mark.sshd
def test_that_has_what_it_needs():
    pass

@pytest.mark.gpu
class TestNearest:
    @pytest.mark.nvidia
    def test_of_a_tool_on_a_gpu(self):
        pytest.skip("no tool")

def test_that_needs_nothing():
    pytest.skip("another reason")
"""
FAILING = {
    "gpu": ["test_in_its_body[gpu]"],
    "nvidia": ["test_in_its_body[nvidia]", "test_by_a_mark", "TestNearest::test_of_a_tool_on_a_gpu"],
    "browser": ["test_in_its_body[browser]", "test_by_a_fixture"],
    "sshd": ["test_in_its_body[sshd]"],
}


@pytest.mark.parametrize("required", ["", *FAILING])
def test_a_skip_fails_where_what_it_lacks_is_required(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, required: str
) -> None:
    """In its body, by a mark, by a fixture, and of a file that is passed over while it is collected."""
    for need in FAILING:
        monkeypatch.setenv(f"EDGECNN_REQUIRE_{need.upper()}", "1" if need == required else "0")
    markers = "".join(f"    {name}\n" for name in ("slow", *FAILING))
    pytester.makeini(f"[pytest]\nmarkers =\n{markers}    cpu_s(seconds)\n    timeout(seconds)\n")
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text())
    whole = "import pytest\npytestmark = pytest.mark.browser\npytest.importorskip('no_such_package')\n"
    pytester.makepyfile(test_whole=whole, test_parts=NEEDING)
    options = ("-p", "no:cacheprovider", "-p", "no:timeout", "-rfE", "--continue-on-collection-errors")
    result = pytester.runpytest_inprocess(*options)
    told = [
        line.split()[1].removeprefix("test_parts.py::") for line in result.outlines if line[:5] in ("FAILE", "ERROR")
    ]
    expected = [*FAILING.get(required, []), *(["test_whole.py"] if required == "browser" else [])]
    assert sorted(told) == sorted(expected)
    assert all(f"EDGECNN_REQUIRE_{required.upper()}=1" in result.stdout.str() for _ in told)
    assert result.parseoutcomes()["skipped"] == 9 - len(told)
    assert (result.ret == 0) is (not required)


def test_the_markers_that_can_be_required_are_those_that_say_what_a_machine_has(root: Path) -> None:
    assert set(FAILING) == set(REQUIRABLE)
    named = re.findall(r'^    "(\w+)[(:]', (root / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(REQUIRABLE) <= set(named)


DECIDING = [
    *(p for name in ("gate", "report", "results", "pipeline") for p in sorted((ROOT / "edgecnn" / name).rglob("*.py"))),
    ROOT / "edgecnn" / "artifact" / "run_folder.py",
]
NAME_READING = {"endswith", "startswith", "stem", "removesuffix", "removeprefix"}


def names_read(source: str) -> list[str]:
    """Where a program reads a meaning out of a name."""
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute) and n.attr in NAME_READING]
    return sorted(f"{node.lineno}: {ast.unparse(node)}" for node in nodes)


def test_nothing_that_judges_reads_a_meaning_out_of_a_name() -> None:
    """What an engine is stands in its `EngineInfo`; a name is for readers."""
    assert len(DECIDING) > 30
    found = {str(p.relative_to(ROOT)): names_read(p.read_text(encoding="utf-8")) for p in DECIDING}
    assert {path: places for path, places in found.items() if places} == {}
    assert names_read("simulated = m.name.endswith('-tensorrt')\nkey = path.stem\ntext = f(x.suffix)") == [
        "1: m.name.endswith",
        "2: path.stem",
    ]


def test_tests_mirror_the_package() -> None:
    """A folder of tests bears the name of a room; beside them, what is shared or pinned, the whole flow, the fuzzer."""
    others = {"fakes", "pinned", "acceptance", "fuzz"}
    folders = {p.parent.name for p in (ROOT / "tests").glob("*/__init__.py")} - others
    assert folders
    assert folders <= {p.parent.name for p in (ROOT / "edgecnn").glob("*/__init__.py")}
    files = {p.stem.removeprefix("test_") for p in (ROOT / "tests").glob("test_*.py")} - {"house_rules"}
    assert {"statistics", "records", "targets"} < files
    assert files - {"api_names", "no_network", "python_api", "supply_chain"} <= {
        p.stem for p in (ROOT / "edgecnn").glob("*.py")
    }


def test_no_test_module_imports_another() -> None:
    """What tests share is in tests/fakes and in conftest.py."""
    files = sorted((ROOT / "tests").rglob("*.py"))
    assert len(files) > 60
    found = [
        f"{path.relative_to(ROOT)}: {module}"
        for path in files
        if re.search(r"\btests\.|from tests\b", text := path.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(text))
        for module in imported_modules(node)
        if module.startswith("tests.") and any(part.startswith("test_") for part in module.split(".")[:3])
    ]
    assert found == []


def imported_modules(node: ast.AST) -> list[str]:
    """Dotted names of modules that an import statement may load; a name imported from one stands behind it."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


UNGUARDED = {
    "json.loads", "json.load", "toml.loads", "tomllib.loads", "np.load", "struct.unpack", "struct.unpack_from",
    "zlib.decompress", "pickle.load", "pickle.loads", "torch.load", "ast.literal_eval", "np.fromfile",
}  # fmt: skip
GUARDED = {  # where bytes become values, and why no stranger's do so unlooked at
    "records.py": "the decoder of JSON and TOML that the others use",
    "artifact/calibration_cache.py": "eight digits that were matched before",
    "artifact/stale.py": "of what was dumped in the same line",
    "backends/trt/plan.py": "a word of a header whose length was looked at",
    "data/sources/archive.py": "two words of a header that zipfile has read already",
    "graph/calibration/collect.py": "after `require_arrays`",
    "data/label_file.py": "what literal_eval raises is an error of the file's",
    "graph/ptq/subgraph.py": "a folder of this process's own",
    "inspection/artifact.py": "eight bytes, fewer of which are an error of the file's",
    "inspection/monitor/rows.py": "after `require_arrays`",
    "measure/predict.py": "after `require_arrays`",
    "measure/vectors.py": "after `require_arrays`",
    "pytorch/checkpoint.py": "with weights_only, its own state; and what was dumped in the same line",
    "pytorch/checkpoint_file.py": "with weights_only, after the archive was looked at",
    "remote/agent.py": "on a device, from the machine that asks there, and what it has written itself",
    "remote/child.py": "from a process that it has started",
    "remote/worker.py": "from the process that has started it",
    "steps/_fresh.py": "between two processes of its own",
}


def test_what_reads_bytes_from_outside_is_guarded() -> None:
    """JSON and TOML by records.py, arrays by limits.py; what reads by itself stands in this list."""
    found = dict[str, set[str]]()
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        if any(word.partition(".")[2] in text for word in UNGUARDED):
            calls = {ast.unparse(n.func) for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)}
            if calls & UNGUARDED:
                found[str(path.relative_to(ROOT / "edgecnn"))] = calls & UNGUARDED
    assert found.keys() == GUARDED.keys()
