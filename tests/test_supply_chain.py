"""What is installed, what is known against it, and which weights come with their whole hash."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgecnn.version import __version__
from edgecnn.zoo import cards

ROOT = Path(__file__).resolve().parents[1]


def test_the_security_page_lists_the_weights_by_what_proves_them() -> None:
    weights = {name: card.weights.sha256 for name, card in cards().items() if card.weights}
    assert all(re.fullmatch("[0-9a-f]*", digits) and len(digits) in (0, 8, 10, 64) for digits in weights.values())
    rows = {
        "whole sha256": [name for name, digits in weights.items() if len(digits) == 64],
        "8 or 10 of its 64 digits": [name for name, digits in weights.items() if 0 < len(digits) < 64],
        "nothing but the revision in the URL": [name for name, digits in weights.items() if not digits],
    }
    assert len(weights) == sum(map(len, rows.values())) > 40
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for what, names in rows.items():
        assert f"| {what} | {len(names)} | {', '.join(f'`{name}`' for name in names)} |" in page.splitlines()


def test_every_dependency_has_an_oldest_version(tmp_path: Path) -> None:
    """`make test-lowest` takes them out of pyproject.toml line by line."""
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*content["project"]["dependencies"], *content["project"]["optional-dependencies"]["cpu"]]
    wanted += [line for line in content["dependency-groups"]["test-core"] if isinstance(line, str)]
    bounds = {re.sub(r"^([\w-]+)>=([0-9.]+)(;.*)?$", r"\1==\2", line) for line in wanted}
    assert all(re.fullmatch(r"[\w-]+==[0-9.]+", bound) for bound in bounds)
    (script,) = re.findall(
        r"^\t(sed -n .*) > \$\(LOWEST\)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    taken = subprocess.run(script, shell=True, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert bounds <= set(taken)


def test_the_bill_of_materials(tmp_path: Path) -> None:
    """The fields that the NTIA asks of one; its schema is checked by what writes it."""
    pytest.importorskip("cyclonedx_py", reason="cyclonedx-bom is not installed: make sbom")
    made = tmp_path / "edgecnn.cdx.json"
    here = f"BIN={Path(sys.executable).parent}"
    subprocess.run(["make", "sbom", "STAMP=", here, f"SBOM={made}", "ARGS=--no-validate"], cwd=ROOT, check=True)
    bill = json.loads(made.read_text())
    assert (bill["bomFormat"], bill["specVersion"][:2]) == ("CycloneDX", "1.")
    assert bill["serialNumber"].startswith("urn:uuid:")
    assert bill["metadata"]["timestamp"]
    assert [tool["name"] for tool in bill["metadata"]["tools"]["components"]]
    root = bill["metadata"]["component"]
    assert (root["name"], root["version"], root["licenses"][0]["license"]["id"]) == (
        "edgecnn",
        __version__,
        "Apache-2.0",
    )
    rows = {row["name"].lower(): row for row in bill["components"]}
    assert {"numpy", "pillow", "pydantic", "typer", "rich"} <= rows.keys()
    assert all(row["version"] and row["purl"].startswith("pkg:pypi/") for row in rows.values())
    depends = {row["ref"]: row.get("dependsOn", []) for row in bill["dependencies"]}
    assert rows["numpy"]["bom-ref"] in depends[root["bom-ref"]]
    assert str(ROOT) not in made.read_text()


CHECKED = {"name": "a", "version": "1", "vulns": []}
FLAWED = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "c", "skip_reason": "Dependency not found on PyPI"}
OURS = {"name": "edgecnn", "skip_reason": "distribution marked as editable"}


@pytest.mark.parametrize(
    ("rows", "code", "said"),
    [
        ([CHECKED, OURS], 0, "1 of 1 packages looked up, 0 known"),
        ([CHECKED, FLAWED, UNKNOWN], 1, "b 2: CVE-1, mended in 3"),
        ([CHECKED, UNKNOWN], 2, "not checked: c"),
        ([UNKNOWN, OURS], 2, "nothing was checked"),
        (None, 2, "nothing was checked"),
    ],
)
def test_an_audit_tells_what_it_did_not_check(
    rows: list[object] | None, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip-audit itself says "No known vulnerabilities found", with 0, where nothing could be looked up."""
    answer = "" if rows is None else json.dumps({"dependencies": rows})
    (tmp_path / "pip_audit.py").write_text(f"print({answer!r})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ended = subprocess.run([sys.executable, ".ci/audit"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == code
    assert said in ended.stdout + ended.stderr
