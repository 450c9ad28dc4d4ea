"""Weights: downloads from a local server, checkpoints of every kind of wrongness, random ones that behave."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgecnn import cli
from edgecnn.errors import ArtifactError, ModelError
from edgecnn.records import to_plain
from edgecnn.zoo import ModelCard, Weights, find_model, imagenet_classes

if TYPE_CHECKING:  # imported before the first test of this file
    import torch
    from safetensors.torch import save_file

    from edgecnn.pytorch.checkpoint_file import read_copies
    from edgecnn.pytorch.download import cached_path, fetch
    from edgecnn.pytorch.models import build_model
    from edgecnn.pytorch.weights import load_checkpoint, load_weights

pytestmark = pytest.mark.torch

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """Serves CONTENT at any path; it can cut a transfer short, ignore ranges, and remembers what was asked for."""

    def __init__(self) -> None:
        self.content, self.ranges = CONTENT, True
        self.cut_at: int | None = None
        self.asked: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                server.asked.append(asked)
                start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
                if start >= len(server.content):
                    self.send_error(416)
                    return
                body = server.content[start:]
                self.send_response(206 if asked and server.ranges else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body if server.cut_at is None else body[: server.cut_at])

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/net.pth"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server()
    yield running
    running.stop()


def test_a_download_is_kept_and_not_repeated(server: Server) -> None:
    path = fetch(server.url, SHA256[:8])
    assert path.read_bytes() == CONTENT
    assert path == cached_path(server.url)
    assert fetch(server.url, SHA256) == path
    assert server.asked == [None]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("known", "said"), [(64, ""), (8, "only 8 of 64"), (0, "sha256 is not known")])
def test_what_no_whole_hash_proves_is_called_unverified(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, known: int, said: str
) -> None:
    monkeypatch.setenv("EDGECNN_ACCEPT_HASH", "1")
    fetch(server.url, SHA256[:known])
    err = capsys.readouterr().err
    assert said in err
    assert ("unverified" in err) == bool(said)


def test_a_url_without_a_hash_is_refused_until_its_hash_stands_behind_it(server: Server) -> None:
    for asked in ([None], [None]):  # what came is kept, and not fetched again
        with pytest.raises(ModelError, match=f"has {SHA256}$") as caught:
            fetch(server.url)
        assert f'model.weights = "{server.url}#sha256={SHA256}"' in caught.value.hint
        assert server.asked == asked
    assert fetch(f"{server.url}#sha256={SHA256.upper()}") == cached_path(server.url)
    with pytest.raises(ModelError, match="moved to"):
        fetch(f"{server.url}#sha256={'0' * 64}")
    with pytest.raises(ModelError, match="#sha256=12 is not a sha256"):
        fetch(f"{server.url}#sha256=12")


def test_an_accepted_hash_is_remembered_and_another_file_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECNN_ACCEPT_HASH", "1")
    path = fetch(server.url)
    known = path.with_name(f"{path.name}.sha256")
    assert known.read_text() == f"{SHA256}  {path.name}\n"
    monkeypatch.delenv("EDGECNN_ACCEPT_HASH")
    assert fetch(server.url) == path
    path.unlink()
    server.content = CONTENT[:-1] + b"!"
    monkeypatch.setenv("EDGECNN_ACCEPT_HASH", "1")  # of the first file alone
    with pytest.raises(ModelError, match=f"and had when it was accepted {SHA256[:12]}") as caught:
        fetch(server.url)
    assert str(known) in caught.value.hint
    assert not path.exists()
    known.write_text("?")
    with pytest.raises(ModelError, match="begins with no sha256"):
        fetch(server.url)


def test_a_file_url_is_a_url(server: Server, tmp_path: Path) -> None:
    """A pipe behind one would be waited for."""
    saved = tmp_path / "a net.pth"
    saved.write_bytes(saved_lenet())
    digits = hashlib.sha256(saved.read_bytes()).hexdigest()
    module = build_model("lenet5")
    with pytest.raises(ModelError, match=digits):
        load_weights(module, lenet_card(), saved.as_uri())
    assert load_weights(module, lenet_card(), f"{saved.as_uri()}#sha256={digits}").weights_sha256 == digits
    os.mkfifo(tmp_path / "pipe")
    for name, why in (("pipe", "not a regular file"), ("gone", "No such file")):
        with pytest.raises(ModelError, match=why):
            load_weights(module, lenet_card(), (tmp_path / name).as_uri())


def test_accept_hash_is_for_one_command(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    server.content = saved_lenet()
    export = ["export", "lenet5", "--weights", server.url]
    assert cli.main(export) == 2
    assert "#sha256=" in capsys.readouterr().err
    assert cli.main([*export, "--accept-hash"]) == 0
    assert "EDGECNN_ACCEPT_HASH" not in os.environ


@pytest.mark.parametrize("ranges", [True, False])
def test_a_truncated_download_is_continued(server: Server, ranges: bool) -> None:
    server.cut_at, server.ranges = 500_000, ranges
    with pytest.raises(ModelError, match="500000 of 1024000 bytes"):
        fetch(server.url, SHA256)
    assert not cached_path(server.url).exists()
    server.cut_at = None
    assert fetch(server.url, SHA256).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=500000-"]


def test_a_whole_part_file_is_only_renamed(server: Server) -> None:
    part = cached_path(server.url).with_name(cached_path(server.url).name + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    assert fetch(server.url, SHA256).read_bytes() == CONTENT


def test_without_a_hash_two_halves_are_not_joined(server: Server) -> None:
    part = cached_path(server.url).with_name(cached_path(server.url).name + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half of something else")
    with pytest.raises(ModelError, match=SHA256):
        fetch(server.url)
    assert cached_path(server.url).read_bytes() == CONTENT
    assert server.asked == [None]


def test_a_hash_mismatch_is_moved_aside_and_never_used(server: Server) -> None:
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(ModelError, match="its publisher says") as caught:
        fetch(server.url, SHA256)
    (aside,) = cached_path(server.url).parent.iterdir()
    assert ".mismatch-" in aside.name
    assert str(aside) in caught.value.message
    server.content = CONTENT
    assert fetch(server.url, SHA256).read_bytes() == CONTENT


def test_a_cached_file_that_was_changed_is_not_used(server: Server) -> None:
    path = fetch(server.url, SHA256)
    path.write_bytes(b"changed")
    with pytest.raises(ModelError, match="moved to"):
        fetch(server.url, SHA256)
    assert not path.exists()


def test_two_downloads_at_once_share_one_file(server: Server) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(server.url, SHA256))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p.read_bytes() == CONTENT for p in found] == [True] * 4
    assert len(server.asked) == 1


def test_offline_names_the_url_and_where_to_put_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url = "http://127.0.0.1:9/net.pth"  # the discard port: nothing listens
    with pytest.raises(ModelError) as caught:
        fetch(url)
    path = cached_path(url)
    assert path.is_relative_to(tmp_path)
    assert url in caught.value.message
    assert str(path) in caught.value.hint
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(CONTENT)
    assert fetch(f"{url}#sha256={SHA256}") == path


def lenet_card(**changes: Any) -> ModelCard:
    return replace(find_model("lenet5"), **changes)


def saved_lenet() -> bytes:
    torch.manual_seed(1)
    buffer = io.BytesIO()
    torch.save(build_model("lenet5").state_dict(), buffer)
    return buffer.getvalue()


def test_a_connection_that_breaks_is_not_taken_for_the_disk(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (ssl.SSLError("bad record mac"), ConnectionResetError("reset"), TimeoutError("slow")):
        with monkeypatch.context() as patch:
            patch.setattr("http.client.HTTPResponse.read", lambda *unused, error=error: _raise(error))
            with pytest.raises(ModelError, match="cannot be downloaded"):
                fetch(server.url, SHA256)
    assert fetch(server.url, SHA256).read_bytes() == CONTENT


def _raise(error: Exception) -> bytes:
    raise error


def test_what_is_no_url_is_named() -> None:
    with pytest.raises(ModelError, match=r"http://\[half: not a URL"):
        fetch("http://[half")


def test_default_weights_are_those_of_the_zoo_entry(server: Server) -> None:
    server.content = saved_lenet()
    sha256 = hashlib.sha256(server.content).hexdigest()
    card = lenet_card(weights=Weights(server.url, sha256[:10], "BSD-3-Clause"))
    module = build_model("lenet5")
    info = load_weights(module, card, "default")
    torch.manual_seed(1)
    wanted = build_model("lenet5").state_dict()
    assert all(torch.equal(v, wanted[k]) for k, v in module.state_dict().items())
    assert to_plain(info) == {
        "weights": "default",
        "weights_sha256": sha256,
        "weights_url": server.url,
        "weights_license": "BSD-3-Clause",
    }
    assert load_weights(module, card, f"{server.url}#sha256={sha256}").weights_sha256 == sha256


def test_a_network_that_nobody_publishes_says_so() -> None:
    with pytest.raises(ModelError, match="nobody publishes") as caught:
        load_weights(build_model("lenet5"), lenet_card(weights=None), "default")
    assert "--weights none" in caught.value.hint


def test_prefixes_and_wrappers_are_accepted_and_said(tmp_path: Path) -> None:
    state = build_model("lenet5").state_dict()
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "x.pth")
    module = build_model("lenet5")
    info = load_checkpoint(tmp_path / "x.pth", module)
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
    assert [("'state_dict'" in s, "'module.'" in s) for s in info.weights_notes] == [(True, False), (False, True)]


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_is_not_weights_is_never_run(tmp_path: Path) -> None:
    for name, write in (("plain", pickle.dump), ("zip", torch.save)):
        with (tmp_path / name).open("wb") as file:
            write({"state_dict": Bomb(tmp_path / "ran")}, file)
        with pytest.raises(ArtifactError, match="it was not run"):
            load_checkpoint(tmp_path / name, build_model("lenet5"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_checkpoint_is_an_error_whatever_its_bytes_come_to(tmp_path: Path, zipped: bool) -> None:
    content, path, random = io.BytesIO(), tmp_path / "x.pth", np.random.default_rng(0)
    torch.save({"a": torch.zeros(3, 4), "b": torch.ones(2)}, content, _use_new_zipfile_serialization=zipped)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content.getvalue())
        for place in random.integers(0, min(len(damaged), 700), 4):
            damaged[place] = random.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            read_copies(path)
        except ArtifactError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_checkpoint(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "pth":
        path.write_bytes(saved_lenet())
    else:
        save_file(build_model("lenet5").state_dict(), path)
    load_checkpoint(path, build_model("lenet5"))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ArtifactError, match=r"not a whole|more than weights, or is damaged"):
        load_checkpoint(path, build_model("lenet5"))


def test_things_that_are_not_a_state_dict(tmp_path: Path) -> None:
    for content in (torch.zeros(3), {"epoch": 1}, {}, [torch.zeros(1)]):
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(ArtifactError, match="not tensors by name"):
            load_checkpoint(tmp_path / "x.pth", build_model("lenet5"))


def test_a_wrong_tensor_inside_the_network_is_named(tmp_path: Path) -> None:
    state = build_model("lenet5").state_dict()
    name = next(k for k, v in state.items() if v.ndim == 4)
    state[name] = state[name][:, :, :3, :3].contiguous()
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=f"first {name}: .*3, 3.* there, .*5, 5.* in this network"):
        load_checkpoint(tmp_path / "x.safetensors", build_model("lenet5"))


@pytest.mark.parametrize("name", ["resnet20_cifar", "lenet5"])
def test_random_weights_are_seeded_and_sane(name: str) -> None:
    card = find_model(name)
    logits = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(logits))  # the global seed must not matter
        module = build_model(name)
        before = torch.get_rng_state()
        info = load_weights(module, card, "none", seed)
        assert torch.equal(torch.get_rng_state(), before)
        assert "random" in info.weights_notes[0]
        module.eval()
        with torch.no_grad():
            logits.append(module(torch.randn(4, *card.input_shape, generator=torch.Generator().manual_seed(7))))
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
    assert 0.05 < logits[0].std(0).mean() < 20  # images differ, and by an amount that can be compared


def test_imagenet_classes_are_those_of_torchvision_and_timm() -> None:
    import timm
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    names, wnids = imagenet_classes()
    assert list(names) == list(_IMAGENET_CATEGORIES)
    assert list(wnids) == (Path(timm.__file__).parent / "data/_info/imagenet_synsets.txt").read_text().split()


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[str, str]:
    """Run a command that must fail as a user's mistake; returns its error and its hint."""
    assert cli.main([str(a) for a in arguments]) == 2
    error, hint = capsys.readouterr().err.strip().splitlines()[-2:]
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    return error, hint


def test_command_refuses_what_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error, hint = refused(capsys, "export", "resnet81")
    assert "resnet18" in hint
    error, hint = refused(capsys, "export", "lenet5", "--size", "12", "--weights", "none")
    assert "32x32" in error
    torch.save(build_model("resnet20_cifar").state_dict(), "other.pth")
    error, hint = refused(capsys, "export", "lenet5", "--checkpoint", "other.pth")
    assert "missing" in error
    assert "unexpected (bn1.weight" in error
    torch.save(build_model("resnet20_cifar", 37).state_dict(), "head.pth")
    error, hint = refused(capsys, "export", "resnet20_cifar", "--checkpoint", "head.pth")
    assert "37 classes, not 10" in error
    assert "--classes 37" in hint
    Path("text.pth").write_text("not weights")
    error, hint = refused(capsys, "export", "lenet5", "--checkpoint", "text.pth")
    assert "not a whole PyTorch or safetensors file" in error
    error, hint = refused(capsys, "export", "lenet5", "--checkpoint", "absent.pth")
    assert "no such file" in error
    error, _ = refused(capsys, "export", "lenet5", "--checkpoint", "head.pth", "--weights", "none")
    Path("labels.txt").write_text("one\ntwo\n")
    error, _ = refused(capsys, "export", "lenet5", "--weights", "none", "--labels", "labels.txt")
    assert "2 labels for 10 classes" in error
    assert not list(tmp_path.glob("*.onnx*"))


def test_command_refuses_downloads_that_cannot_be_trusted(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = server.url.replace("net.pth", "net-0123abcd.pth")
    error, _ = refused(capsys, "export", "lenet5", "--weights", named)
    assert "its publisher says 0123abcd" in error
    server.cut_at = 1000
    error, hint = refused(capsys, "export", "lenet5", "--weights", server.url)
    assert "ended after 1000 of 1024000 bytes" in error
    assert "continues" in hint
    nowhere = "http://127.0.0.1:9/net.pth"
    error, hint = refused(capsys, "export", "lenet5", "--weights", nowhere)
    assert nowhere in error
    assert str(cached_path(nowhere)) in hint
    with Path("bomb.pth").open("wb") as file:
        pickle.dump(Bomb(tmp_path / "ran"), file)
    error, _ = refused(capsys, "export", "lenet5", "--checkpoint", "bomb.pth")
    assert "it was not run" in error
    assert not (tmp_path / "ran").exists()
    assert not list(tmp_path.glob("*.onnx*"))


def test_the_sidecar_of_a_checkpoint_comes_along(tmp_path: Path) -> None:
    from edgecnn.artifact.sidecar import Sidecar, read_sidecar
    from edgecnn.artifact.write import write_artifact
    from edgecnn.steps.export import export

    card, path = find_model("resnet20_cifar"), tmp_path / "model.safetensors"
    own = Sidecar(
        kind="checkpoint",
        preprocessing={**card.preprocessing, "resize": 56, "crop": 48},
        labels=["ant", "bee", "cat"],
        facts={"model": card.name, "classes": 3},
    )
    state = build_model(card.name, 3).state_dict()
    write_artifact(path, lambda temporary: save_file(state, temporary), own)
    made = read_sidecar(export(card.name, tmp_path / "x.onnx", weights=str(path)))
    assert (made.labels, made.preprocessing) == (own.labels, own.preprocessing)
    assert made.facts["input_shape"] == [3, 48, 48]
    with pytest.raises(ModelError, match="a checkpoint of resnet20_cifar, not of resnet32_cifar"):
        export("resnet32_cifar", tmp_path / "y.onnx", weights=str(path))
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ArtifactError, match="is not the one its sidecar promises"):
        export(card.name, tmp_path / "y.onnx", weights=str(path))


def test_command_takes_a_head_of_another_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    from edgecnn.artifact.sidecar import sha256_of, verified_sidecar

    monkeypatch.chdir(tmp_path)
    state = build_model("resnet20_cifar", 37).state_dict()
    torch.save({f"module.{k}": v for k, v in state.items()}, "head.pth")
    assert cli.main(["export", "resnet20_cifar", "--checkpoint", "head.pth", "--classes", "37", "--json"]) == 0
    out, err = capsys.readouterr()
    row = json.loads(out)
    assert row["classes"] == 37
    assert "'module.'" in err
    sidecar = verified_sidecar(Path("resnet20_cifar.fp32.onnx"))
    assert sidecar.parents == {"head.pth": sha256_of(Path("head.pth"))}
    assert sidecar.facts["weights_notes"]
    assert sidecar.preprocessing == find_model("resnet20_cifar").preprocessing
