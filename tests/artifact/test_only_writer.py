"""Every write goes through edgecnn/artifact/: the rest of the package writes to what that gives it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

METHODS = {"write_text", "write_bytes", "touch", "rename", "symlink_to", "hardlink_to", "tofile"}
FUNCTIONS = {
    "os.open", "os.replace", "os.rename", "os.link", "os.symlink", "os.truncate", "onnx.save", "torch.save", "np.save",
    "np.savez", "np.savez_compressed", "shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree",
    "shutil.move", "safetensors.torch.save_file", "zipfile.ZipFile", "tarfile.open", "open", "gzip.open",
}  # fmt: skip
GIVEN = {"temporary", "scratch"}  # by atomic_path, write_artifact, temporary_folder and scratch_folder
ALLOWED = {
    "edgecnn/limits.py: os.open": "to read",
    "edgecnn/cli/__init__.py: os.open": "a closed standard output",
    "edgecnn/pytorch/download.py: part.open": "a download goes on where it ended, and is checked by its hash",
    "edgecnn/pytorch/download.py: part.replace": "the same",
    "edgecnn/pytorch/download.py: path.replace": "the same, of one whose hash is another",
    "edgecnn/pytorch/training/events.py: self._path.open": "TensorBoard reads events while they are appended",
    "edgecnn/report/github.py: path.open": "the step summary, to which other programs append",
    "edgecnn/backends/trt/timing.py: path.with_name(path.name + '.lock').open": "a lock, which holds nothing",
    "edgecnn/data/sources/packed.py: rows.open": "a temporary folder's, in which images are packed",
    "edgecnn/data/sources/packed.py: zipfile.ZipFile": "the same",
    "edgecnn/data/sources/packed.py: archive.open": "the same",
    "edgecnn/pytorch/export/onnx_writer.py: path.open": "the same",
    "edgecnn/measure/predict.py: np.savez": "the same",
    "edgecnn/measure/vectors.py: np.savez": "the same",
    "edgecnn/steps/export.py: onnx.save": "the same",
    "edgecnn/graph/serving.py: onnx.save": "the same",
    "edgecnn/bundle/tar.py: target.open": "below a scratch folder",
    "edgecnn/bundle/served.py: made.replace": "a temporary folder, which becomes the output when it is whole",
    "edgecnn/bundle/served.py: path.write_text": "below that folder",
    "edgecnn/bundle/served.py: shutil.copyfile": "the same",
    "edgecnn/bundle/trtexec.py: onnx.save": "the same",
    "edgecnn/backends/ort/backend.py: onnx.save": "below a scratch folder",
    "edgecnn/pipeline/release.py: path.write_bytes": "below a scratch folder",
    "edgecnn/diagnose/repro.py: onnx.save": "below a scratch folder",
    "edgecnn/steps/_fresh.py: path.write_bytes": "the same",
    "edgecnn/graph/ptq/subgraph.py: (self.folder / f'{number}-{batch}').write_bytes": "the same",
    "edgecnn/graph/calibration/collect.py: np.savez_compressed": "into memory",
    "edgecnn/remote/agent.py: file.open": "on a device: a folder that is renamed when it is whole",
    "edgecnn/remote/agent_folder.py: open": "on a device: a temporary file",
    "edgecnn/remote/agent_folder.py: os.open": "on a device: a lock, and a folder to be seen onto the disk",
    "edgecnn/remote/agent_folder.py: os.truncate": "on a device: who holds the lock",
    "edgecnn/remote/agent_folder.py: part.replace": "on a device: a file that was checked and seen onto the disk",
}


def root_name(node: ast.expr) -> str:
    while isinstance(node, (ast.Attribute, ast.Call, ast.BinOp, ast.Subscript)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.args:  # str(temporary), Path(scratch)
                node = node.args[0]
            else:
                node = node.func
        else:
            node = node.left if isinstance(node, ast.BinOp) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def writes(call: ast.Call) -> bool:
    """Whether a call writes to a file by its name; of `open` and `ZipFile`, by the mode."""
    name, given = ast.unparse(call.func), (*call.args, *(keyword.value for keyword in call.keywords))
    modes = [value.value for value in given if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    mode = any(re.fullmatch(r"[wax][bt]?\+?b?|r[bt]?\+b?", text) for text in modes)
    if name in ("os.open", "onnx.save") or (name in FUNCTIONS and "open" not in name and "ZipFile" not in name):
        return True
    if name in FUNCTIONS:
        return mode
    if not isinstance(call.func, ast.Attribute):
        return False
    if call.func.attr == "open":
        return mode
    one = len(call.args) == 1 and not call.keywords  # a text's `replace` takes two, `dataclasses.replace` fields
    return call.func.attr in METHODS or (call.func.attr == "replace" and one)


def found_writes(path: Path, root: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not writes(node):
            continue
        of_object = isinstance(node.func, ast.Attribute) and ast.unparse(node.func) not in FUNCTIONS
        targets = [node.func.value] if of_object and isinstance(node.func, ast.Attribute) else node.args
        if GIVEN.isdisjoint(map(root_name, targets)):
            found.add(f"{path.relative_to(root)}: {ast.unparse(node.func)}")
    return found


def test_nothing_is_written_past_the_one_writer(root: Path) -> None:
    files = [p for p in sorted((root / "edgecnn").rglob("*.py")) if p.parent != root / "edgecnn" / "artifact"]
    assert len(files) > 300
    found = set[str]().union(*(found_writes(path, root) for path in files))
    assert sorted(found - ALLOWED.keys()) == [], "write with edgecnn.artifact.write, or into a scratch_folder()"
    assert sorted(ALLOWED.keys() - found) == [], "allowed, and not there any more"


def test_temporary_names_are_made_in_one_place(root: Path) -> None:
    """What a killed process leaves is found by its name."""
    texts = {p: p.read_text(encoding="utf-8") for p in (root / "edgecnn").rglob("*.py")}
    made = {str(p.relative_to(root)) for p, text in texts.items() if "import tempfile" in text}
    there = {"edgecnn/remote/agent.py", "edgecnn/remote/agent_folder.py"}  # on a device, before anything of ours is
    asking = {"edgecnn/remote/ssh.py"}  # where the system keeps such
    assert made - there - asking == {"edgecnn/artifact/temporary.py", "edgecnn/backends/ort/opening.py"}, "a profile"


def test_the_finder_finds_writes(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "path.write_text(x)\nopen(p, 'w')\np.open('rb')\nx.replace('a', 'b')\np.replace(q)\nonnx.save(m, p)\n"
        "dataclasses.replace(x, a=1)\nonnx.save(m, str(temporary))\n(scratch / 'a').write_bytes(b'')\n"
        "os.replace(a, b)\n"
    )
    assert found_writes(tmp_path / "a.py", tmp_path) == {
        "a.py: path.write_text", "a.py: open", "a.py: p.replace", "a.py: onnx.save", "a.py: os.replace",
    }  # fmt: skip
