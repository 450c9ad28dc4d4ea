"""Checkpoints as training scripts write them: what wraps, names and accompanies the weights."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgecnn import cli
from edgecnn.errors import ArtifactError, ModelError

if TYPE_CHECKING:  # imported before the first test of this file
    import torch
    from safetensors.torch import save_file
    from torch import nn

    from edgecnn.pytorch.models import build_model
    from edgecnn.pytorch.weights import load_checkpoint

pytestmark = pytest.mark.torch

NAME = "resnet20_cifar"  # with batch norms, small


def trained(seed: int = 0, classes: int = 10) -> nn.Module:
    """A network whose every weight and statistic is known by the seed."""
    net = build_model(NAME, classes)
    generator = torch.Generator().manual_seed(seed)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
    return net


def prefixed(prefix: str, seed: int = 0) -> dict[str, torch.Tensor]:
    return {f"{prefix}{k}": v for k, v in trained(seed).state_dict().items()}


def notes(path: Path, seed: int = 0, **how: Any) -> str:
    """Load it, prove that the weights are those of `trained(seed)`, and give what was said."""
    net = build_model(NAME)
    info = load_checkpoint(path, net, **how)
    wanted = trained(seed).state_dict()
    assert [k for k, v in net.state_dict().items() if not torch.equal(v, wanted[k])] == []
    return "; ".join(info.weights_notes)


def arguments() -> argparse.Namespace:
    return argparse.Namespace(
        model=NAME, lr=np.float64(0.1), data=Path("data"), size=(3, 32, 32), betas=[0.9], amp=None
    )


def optimizer(net: nn.Module) -> dict[str, Any]:
    """A real one's state, after a step."""
    made = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = [p.detach().clone() for p in net.parameters()]
    made.step()
    with torch.no_grad():
        for parameter, kept in zip(net.parameters(), before, strict=True):
            parameter.copy_(kept)
    return made.state_dict()


@pytest.mark.parametrize(
    "prefix",
    [
        *("", "module.", "_orig_mod.", "model.", "net.", "backbone."),
        *("module._orig_mod.", "_orig_mod.module.", "model.net.", "model._orig_mod.module.backbone.", "encoder.cnn."),
    ],
)
def test_prefixes_are_taken_off_until_the_keys_fit(tmp_path: Path, prefix: str) -> None:
    save_file(prefixed(prefix), tmp_path / "x.safetensors")
    assert (f"{prefix!r}" in notes(tmp_path / "x.safetensors")) == bool(prefix)


def test_data_parallel_and_torch_compile_as_they_are(tmp_path: Path) -> None:
    compiled: Any = torch.compile(trained())
    wrapped = [nn.DataParallel(trained()), compiled, nn.DataParallel(compiled)]
    for net in wrapped:
        torch.save(net.state_dict(), tmp_path / "x.pth")
        assert "prefix" in notes(tmp_path / "x.pth")


def test_lightning(tmp_path: Path) -> None:
    net = trained()
    content = {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {
            **prefixed("model."),
            "criterion.weight": torch.ones(10),
            "train_loss.pos_weight": torch.ones(10),
            "val_acc.total": torch.tensor(3),
        },
        "loops": {"fit_loop": {"state_dict": {}, "epoch_loop.batch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val.acc'}": {"best_model_score": torch.tensor(0.9), "dirpath": "x"}},
        "optimizer_states": [optimizer(net)],
        "lr_schedulers": [{"milestones": collections.Counter([30, 60]), "last_epoch": 3}],
        "MixedPrecision": {"scale": 65536.0},
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": np.float32(0.1), "args": arguments()},
    }
    torch.save(content, tmp_path / "last.ckpt")
    said = notes(tmp_path / "last.ckpt")
    assert "'state_dict'" in said
    assert "'model.'" in said
    assert "left aside, as they are no weights of the network: criterion.weight, train_loss.pos_weight" in said


def test_timm(tmp_path: Path) -> None:
    """Written by timm's own saver."""
    from timm.utils import CheckpointSaver, ModelEmaV3

    net = trained()
    ema = ModelEmaV3(net)
    ema.module.load_state_dict(trained(1).state_dict())
    saver = CheckpointSaver(
        model=net, optimizer=torch.optim.SGD(net.parameters(), 0.1), args=arguments(), model_ema=ema,
        checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path),
    )  # fmt: skip
    saver.save_checkpoint(3, metric=np.float64(71.5))
    assert "an averaged copy stands beside them ('state_dict_ema'): --ema takes it" in notes(tmp_path / "last.pth.tar")
    assert "an average over the training" in notes(tmp_path / "last.pth.tar", seed=1, ema=True)


def test_torchvision_references(tmp_path: Path) -> None:
    net, average = trained(), torch.optim.swa_utils.AveragedModel(trained(1), use_buffers=True)
    content = {
        "model": net.state_dict(),
        "optimizer": optimizer(net),
        "lr_scheduler": {"_last_lr": [0.1]},
        "epoch": 3,
        "args": arguments(),
        "model_ema": average.state_dict(),
        "scaler": {"scale": 1.0, "_growth_tracker": 0},
    }
    torch.save(content, tmp_path / "checkpoint.pth")
    assert "'model_ema', prefix 'module.'" in notes(tmp_path / "checkpoint.pth")
    assert "'module.'" in notes(tmp_path / "checkpoint.pth", seed=1, ema=True)
    torch.save(average.state_dict(), tmp_path / "average.pth")  # nothing else in it
    assert "an average over the training" in notes(tmp_path / "average.pth", seed=1)


@pytest.mark.parametrize("place", ["ema", "ema_state_dict", "swa_model", "ema.module"])
def test_other_names_of_an_averaged_copy(tmp_path: Path, place: str) -> None:
    outer, _, inner = place.partition(".")
    average = prefixed("", 1)
    torch.save({"net": prefixed(""), outer: {inner: average} if inner else average}, tmp_path / "x.pth")
    assert place in notes(tmp_path / "x.pth")
    notes(tmp_path / "x.pth", seed=1, ema=True)


def test_an_averaged_copy_in_the_same_mapping(tmp_path: Path) -> None:
    both = {**prefixed("model."), **prefixed("ema_model.module.", 1), "ema_model.n_averaged": torch.tensor(3)}
    torch.save({"state_dict": both}, tmp_path / "x.ckpt")
    assert "prefix 'ema_model.module.'" in notes(tmp_path / "x.ckpt")
    notes(tmp_path / "x.ckpt", seed=1, ema=True)


@pytest.mark.parametrize("who", ["mmengine", "lightning"])
def test_where_the_average_is_saved_as_the_state_dict(tmp_path: Path, who: str) -> None:
    """Who reads `state_dict` there gets the average; what is named after it are the plain weights."""
    average = {"state_dict": prefixed("", 1)}
    if who == "mmengine":
        content = {**average, "ema_state_dict": prefixed("module."), "meta": {"mmengine_version": "0.10.4"}}
    else:
        content = {**average, "current_model_state": prefixed(""), "averaging_state": {"n_averaged": torch.tensor(3)}}
    torch.save(content, tmp_path / "x.pth")
    for ema in (False, True):
        assert "an average over the training" in notes(tmp_path / "x.pth", seed=1, ema=ema)


def test_mmcls(tmp_path: Path) -> None:
    state = {f"{'head' if k.startswith('linear') else 'backbone'}.{k}": v for k, v in trained().state_dict().items()}
    meta = {"epoch": 100, "mmcls_version": "0.25.0", "CLASSES": ("ant", "bee"), "time": "x", "hook_msgs": {}}
    torch.save({"meta": meta, "state_dict": state, "optimizer": optimizer(trained())}, tmp_path / "latest.pth")
    said = notes(tmp_path / "latest.pth")
    assert "'backbone.'" in said
    assert "'head.'" in said


def test_fastai(tmp_path: Path) -> None:
    opt = {"state": [{"mom": torch.zeros(3)}], "hypers": collections.defaultdict(list, {"lr": [np.float64(0.1)]})}
    torch.save({"model": prefixed(""), "opt": opt}, tmp_path / "model.pth")
    assert "'model'" in notes(tmp_path / "model.pth")


def test_what_others_leave_in_a_state_dict_is_left_aside_by_name(tmp_path: Path) -> None:
    state = trained().state_dict()
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}  # of an old PyTorch
    totals = {f"{layer}{kind}": torch.zeros(1) for layer in ("", "conv1.") for kind in ("total_ops", "total_params")}
    torch.save({**state, **totals, "linear.num_batches_tracked": torch.tensor(1)}, tmp_path / "x.pth")
    assert "left aside, as they are no weights of the network: total_ops" in notes(tmp_path / "x.pth")


def test_a_counter_of_batches_is_kept(tmp_path: Path) -> None:
    state = {f"module.{k}": v + 7 if k.endswith("tracked") else v for k, v in trained().state_dict().items()}
    torch.save(state, tmp_path / "x.pth")
    net = build_model(NAME)
    load_checkpoint(tmp_path / "x.pth", net)
    assert int(net.state_dict()["bn1.num_batches_tracked"]) == 7


@pytest.mark.parametrize(
    ("network", "theirs", "ours"),
    [
        (NAME, "linear.1", "linear"),  # nn.Sequential(nn.Dropout(), nn.Linear(...))
        (NAME, "linear.0.1", "linear"),
        ("mobilenet_v2", "classifier.1.1", "classifier.1"),
        ("mobilenet_v2", "classifier", "classifier.1"),  # a bare nn.Linear in place of the Sequential
        ("mobilenet_v2", "classifier.0", "classifier.1"),
    ],
)
def test_a_head_in_a_sequential(tmp_path: Path, network: str, theirs: str, ours: str) -> None:
    net = build_model(network, 7)
    state = {
        k.replace(f"{ours}.", f"{theirs}.") if k.startswith(f"{ours}.") else k: v for k, v in net.state_dict().items()
    }
    assert f"{theirs}.weight" in state
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "x.pth")
    other = build_model(network, 7)
    said = load_checkpoint(tmp_path / "x.pth", other).weights_notes
    assert torch.equal(other.state_dict()[f"{ours}.weight"], net.state_dict()[f"{ours}.weight"])
    assert any(theirs in note and ours in note for note in said)


def refusal(path: Path, **how: Any) -> tuple[str, str]:
    with pytest.raises(ModelError) as caught:
        load_checkpoint(path, build_model(NAME), **how)
    return caught.value.message, caught.value.hint


def test_the_hint_says_what_differs_after_the_best_prefix(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    two = {k: v for k, v in prefixed("model.").items() if ".linear." not in k}
    torch.save({**two, "model.linear.0.weight": torch.ones(32, 64), "model.linear.2.weight": torch.ones(10, 32)}, path)
    message, hint = refusal(path)
    assert "after the prefix 'model.'" in message
    assert "2 keys missing (linear.weight, linear.bias)" in message
    assert "2 keys unexpected (model.linear.0.weight, model.linear.2.weight)" in message
    assert "only the classifier differs" in hint
    torch.save({**prefixed("model."), "model.mean": torch.zeros(3)}, path)  # it normalizes: not to be ignored
    message, hint = refusal(path)
    assert "1 keys unexpected (model.mean)" in message
    assert "the network is whole" in hint
    torch.save({k: v for k, v in prefixed("model.").items() if "running" not in k}, path)
    message, hint = refusal(path)
    assert "of 97 keys fit" in hint
    assert "another network" not in hint
    torch.save({"state_dict": {"stem.weight": torch.ones(3)}}, path)
    assert "another network" in refusal(path)[1]


def test_two_copies_that_cannot_be_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({**prefixed("student."), **prefixed("teacher.", 1)}, path)
    message, hint = refusal(path)
    assert "'student.'" in message
    assert "'teacher.'" in message
    assert "alone" in hint
    torch.save({**prefixed("student."), **prefixed("same.")}, path)  # one module under two names
    assert "another copy was left aside" in notes(path)
    torch.save({"best": prefixed("", 1), "state_dict": prefixed("")}, path)
    assert "another copy was left aside: 'best'" in notes(path)


def test_an_average_that_is_not_there(tmp_path: Path) -> None:
    torch.save(prefixed("module."), tmp_path / "x.pth")
    message, hint = refusal(tmp_path / "x.pth", ema=True)
    assert "no averaged copy" in message
    assert "--ema" in hint


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_of_other_types_become_fp32(tmp_path: Path, dtype: str) -> None:
    state = {k: v.to(getattr(torch, dtype)) if v.is_floating_point() else v for k, v in trained().state_dict().items()}
    torch.save(state, tmp_path / "x.pth")
    net = build_model(NAME)
    said = load_checkpoint(tmp_path / "x.pth", net).weights_notes
    assert said == (f"its {dtype} weights were converted to float32",)
    weight = net.state_dict()["conv1.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, state["conv1.weight"].float())


@pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning", "ignore:Sparse:UserWarning")
def test_weights_that_are_no_numbers_to_compute_with(tmp_path: Path) -> None:
    state = trained().state_dict()
    name = "conv1.weight"
    for odd, what in (
        (torch.quantize_per_tensor(state[name], 0.1, 0, torch.qint8), "a quantized tensor"),
        (state[name].to(torch.int8), "int8"),
        (state[name].to_sparse(), "a sparse tensor"),
        (state[name].to("meta"), "a tensor without data"),
    ):
        torch.save({**state, name: odd}, tmp_path / "x.pth")
        with pytest.raises(ArtifactError, match=f"{name} is {what}, not float32"):
            load_checkpoint(tmp_path / "x.pth", build_model(NAME))


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path, how: Callable[..., object] = os.mkdir) -> None:
        self.path, self.how = path, how

    def __reduce__(self) -> tuple[object, ...]:
        return self.how, (str(self.path),)


def test_nothing_beside_the_weights_is_run(tmp_path: Path) -> None:
    """Not by itself, nor as what an allowed stand-in is given."""
    inside = argparse.Namespace(args=Bomb(tmp_path / "ran"))
    by_state: Any = collections.defaultdict(list)
    by_state["x"] = Bomb(tmp_path / "ran")
    for number, hidden in enumerate((Bomb(tmp_path / "ran"), inside, by_state, Bomb(tmp_path / "ran", exec))):
        for write in (torch.save, lambda c, p: torch.save(c, p, _use_new_zipfile_serialization=False)):
            path = tmp_path / f"{number}.pth"
            write({"state_dict": prefixed(""), "args": hidden}, path)
            with pytest.raises(ArtifactError, match="it was not run"):
                load_checkpoint(path, build_model(NAME))
    assert not (tmp_path / "ran").exists()


def test_code_of_numpy_and_argparse_is_not_called_either(tmp_path: Path) -> None:
    content = {"state_dict": prefixed(""), "args": arguments(), "best": np.float64(3), "curve": np.zeros(3)}
    torch.save(content, tmp_path / "x.pth")
    before = list(torch.serialization.get_safe_globals())
    notes(tmp_path / "x.pth")
    assert set(torch.serialization.get_safe_globals()) == set(before)
    with pytest.raises(pickle.UnpicklingError):  # and a load elsewhere in this process allows no more than before
        torch.load(tmp_path / "x.pth", weights_only=True)


def test_mappings_that_hold_each_other_end(tmp_path: Path) -> None:
    knot: dict[Any, Any] = {"state_dict": prefixed("")}
    knot |= dict.fromkeys(range(500), knot)
    torch.save(knot, tmp_path / "x.pth")
    notes(tmp_path / "x.pth")


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning", "ignore:.*deprecated:DeprecationWarning")
def test_other_kinds_of_files_say_what_they_are(tmp_path: Path) -> None:
    path, net = tmp_path / "x.pth", trained()
    cases: list[tuple[Callable[[], object], str, str]] = [
        (lambda: torch.save(net, path), "a whole network .class edgecnn.*ResNet", "net.state_dict()"),
        (lambda: torch.save({"model": net}, path), "a whole network", "weights_only=False"),
        (lambda: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path), "TorchScript", "torch.jit.load('x.pth')"),
        (lambda: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(90)), "HDF5", "ONNX"),
        (lambda: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git-lfs", "git lfs pull"),
        (lambda: path.write_bytes(b"<!DOCTYPE html>"), "web page", "download"),
        (
            lambda: np.savez(tmp_path / "x.npz", a=np.zeros(3)) or (tmp_path / "x.npz").rename(path),
            "zip archive of something else .a.npy",
            ".safetensors",
        ),
        (lambda: torch.save({"model": object()}, path), "more than weights", "safetensors"),
    ]
    for write, what, instead in cases:
        write()
        with pytest.raises(ArtifactError, match=what) as caught:
            load_checkpoint(path, build_model(NAME))
        assert instead in caught.value.hint


def test_export_takes_the_average(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    net = build_model("lenet5")
    twice = {k: 2 * v for k, v in net.state_dict().items()}
    torch.save({"state_dict": net.state_dict(), "state_dict_ema": twice, "args": arguments()}, "last.pth.tar")
    assert cli.main(["export", "lenet5", "--checkpoint", "last.pth.tar", "--ema", "-o", "a.onnx"]) == 0
    assert "an average over the training" in capsys.readouterr().err
    import onnx
    from onnx import numpy_helper

    biases = {t.name: numpy_helper.to_array(t) for t in onnx.load("a.onnx").graph.initializer}
    assert np.array_equal(biases["fc3.bias"], twice["fc3.bias"].numpy())
    assert cli.main(["export", "lenet5", "--weights", "none", "--ema", "-o", "b.onnx"]) == 2
    assert "the weights are 'none'" in capsys.readouterr().err


def test_a_recipe_takes_the_average(tmp_path: Path) -> None:
    from edgecnn.pytorch.checkpoint import read_weights
    from edgecnn.recipe.load import load_recipe
    from edgecnn.steps.train import take_weights

    net = build_model("lenet5")
    twice = {k: 2 * v for k, v in net.state_dict().items()}
    torch.save({"model": net.state_dict(), "model_ema": twice}, tmp_path / "mine.pth")
    settings = ["train.epochs=0", f'model.weights="{tmp_path / "mine.pth"}"', "model.ema=true"]
    take_weights(load_recipe("lenet5-digits", settings), tmp_path / "model.safetensors")
    assert torch.equal(read_weights(tmp_path / "model.safetensors")["fc1.weight"], twice["fc1.weight"])
