"""Networks that are not of the zoo: a user's `nn.Module` or one of timm, with weights, classes and preprocessing.

To the later steps each is a module and a `ModelCard`, as a network of the zoo is.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from edgecnn.artifact.sidecar import Sidecar, sha256_of
from edgecnn.data.preprocess import Preprocessing, doubt_of, preprocessing_from_json
from edgecnn.errors import ArtifactError, MissingPackageError, ModelError, nearest
from edgecnn.pytorch.export.exporter import compute_logits, make_probe_images
from edgecnn.pytorch.run_factory import build_from_code
from edgecnn.pytorch.weights import load_weights
from edgecnn.recipe.schema import ModelSettings
from edgecnn.results.training import WeightsInfo
from edgecnn.zoo import OWN, ModelCard

MIXED = 1e-2  # difference of an image's logits, as a share of the largest, that no order of additions explains
_WRAPPED = {  # what a network is wrapped in for other purposes, and what gives it back
    torch.jit.ScriptModule: "return the module that it was scripted or traced from",
    torch.nn.DataParallel: "return what it wraps: .module",
    torch.nn.parallel.DistributedDataParallel: "return what it wraps: .module",
}
_COMPILED = "return what torch.compile was given: ._orig_mod"


@dataclass(frozen=True)
class OwnNetwork:
    """A module in eval mode with its weights; `card` names it and says what it takes and gives, `files` is the code
    that made it, `facts` say how it is made again."""

    card: ModelCard
    module: nn.Module
    preprocessing: Preprocessing
    weights: WeightsInfo
    files: tuple[Path, ...]
    facts: dict[str, Any]

    @property
    def network(self) -> nn.Module:
        """What takes NCHW images and gives logits."""
        return in_nchw(self.module, self.facts.get("layout"))


class FromChannelsLast(nn.Module):
    """A module that takes NHWC images, as one that takes NCHW."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: torch.Tensor) -> Any:
        """NCHW images through the NHWC module."""
        return self.inner(images.permute(0, 2, 3, 1))


def load_own(
    model: ModelSettings,
    preprocessing_on: Callable[[Preprocessing | None], Preprocessing],
    *,
    layout: Literal["nchw", "nhwc"] | None = None,
    trust_code: bool = False,
) -> OwnNetwork:
    """The network of `model.python` or `model.timm` with its weights, run once to see what it gives.

    `preprocessing_on` is given the network's own preprocessing, where it has one. Raises `ModelError` for what is no
    classifier, for weights that do not fit or are not to be had, and where the function makes another network at each
    call.
    """
    if model.python:
        module, files = build_from_code(model.python, trust_code=trust_code)
        _require_plain(model.python, module)
        own, name, facts = None, model.python, {"model": model.python, "origin": "python"}
    else:
        name = str(model.timm)
        module, own = build_timm(name, model.classes, pretrained=model.weights == "default")
        files, facts = [], {"model": name, "origin": "timm"}
    if layout == "nhwc":
        facts["layout"] = layout
    preprocessing = preprocessing_on(own)
    card = own_card(name, preprocessing)
    logits = probe(in_nchw(module, layout), card)  # lazy layers take their shapes from it
    info = _doubted(_load_weights(module, card, model), preprocessing)
    classes = logits.shape[1]
    if model.classes not in (None, classes):
        raise ModelError(f"{name}: gives {classes} classes, model.classes is {model.classes}", "correct one of them")
    facts["classes"] = classes
    made = OwnNetwork(own_card(name, preprocessing, classes), module, preprocessing, info, tuple(files), facts)
    if model.python:
        _require_the_same_again(made, trust_code)
    return made


def own_module(module: nn.Module, preprocessing: Preprocessing) -> OwnNetwork:
    """A copy of a module that the caller has made, as `load_own` returns it."""
    name = type(module).__name__
    _require_plain(name, module)
    module = copy.deepcopy(module).cpu().eval()
    classes = probe(module, own_card(name, preprocessing)).shape[1]
    facts = {"model": name, "origin": "python", "classes": classes}
    info = _doubted(WeightsInfo("given"), preprocessing)
    return OwnNetwork(own_card(name, preprocessing, classes), module, preprocessing, info, (), facts)


def own_card(name: str, preprocessing: Preprocessing, classes: int = 0) -> ModelCard:
    """The facts of a network that the zoo does not have."""
    return ModelCard(
        name=name,
        family=OWN,
        year=0,
        paper="",
        input_shape=preprocessing.input_shape,
        classes=classes,
        params=0,
        macs=0,
        preprocessing=preprocessing.to_json(),
    )


def build_again(checkpoint: Path, sidecar: Sidecar, *, trust_code: bool) -> nn.Module:
    """The module of a checkpoint of an own network, without the weights; raises `ArtifactError` where its code is not
    here or has changed since, and without `trust_code`."""
    facts = sidecar.facts
    if facts["origin"] == "timm":
        return build_timm(facts["model"], facts["classes"])[0]
    code = code_of(checkpoint, sidecar)
    for path, digest in code.items():
        if not path.is_file():
            raise ArtifactError(f"{path}: no such file; {checkpoint} is of the network that it makes", "copy it along")
        if sha256_of(path) != digest:
            raise ArtifactError(f"{path}: changed since {checkpoint} was made with it", "make it again: `edgecnn run`")
    function = str(facts["model"]).rpartition(":")[2]
    if not code:
        raise ArtifactError(f"{checkpoint}: does not say which code makes its network", "make it again: `edgecnn run`")
    module, _ = build_from_code(f"{next(iter(code))}:{function}", trust_code=trust_code)
    shape = preprocessing_from_json(sidecar.preprocessing or {}).input_shape
    _run_if_lazy(in_nchw(module, facts.get("layout")), shape)
    return module


def code_of(checkpoint: Path, sidecar: Sidecar) -> dict[Path, str]:
    """The files of code that a checkpoint's network is made by, that of the function first, and their sha256."""
    wanted = Path(str(sidecar.facts["model"]).rpartition(":")[0]).name
    found = {checkpoint.parent / name: digest for name, digest in sidecar.parents.items() if name.endswith(".py")}
    first = sorted(found, key=lambda p: (p.name != wanted, len(p.parts)))
    return {path: found[path] for path in first}


def _require_plain(name: str, module: nn.Module) -> None:
    compiled = {torch._dynamo.OptimizedModule: _COMPILED} if "torch._dynamo" in sys.modules else {}  # loads slowly
    for kind, hint in (_WRAPPED | compiled).items():
        if isinstance(module, kind):
            raise ModelError(f"{name}: is a {kind.__name__}, which cannot be exported", hint)


def in_nchw(module: nn.Module, layout: str | None) -> nn.Module:
    """The module as one that takes NCHW images."""
    return FromChannelsLast(module).eval() if layout == "nhwc" else module


def probe(network: nn.Module, card: ModelCard) -> np.typing.NDArray[np.float32]:
    """The logits [2, classes] of two images of noise; raises `ModelError` for a network that is no classifier of
    `card.input_shape`, mixes the images of a batch, or gives probabilities."""
    images = make_probe_images(card.input_shape, 2)
    logits = compute_logits(network, card, images)
    near = MIXED * max(float(np.abs(logits).max()), 1e-30)
    same = np.allclose(compute_logits(network, card, images), logits, 0, near)
    if same and not np.allclose(compute_logits(network, card, images[:1]), logits[:1], 0, near):
        raise ModelError(
            f"{card.name}: gives other logits for an image alone than beside another",
            "the images of a batch must not be mixed: reduce and normalize over the other dimensions",
        )
    strong = np.concatenate([logits, compute_logits(network, card, images * 100)])  # a logit would leave 0..1
    if strong.min() >= 0 and strong.max() <= 1:
        if strong.shape[1] == 1:
            raise ModelError(
                f"{card.name}: its only output stays within 0..1, as behind a sigmoid; a logit is needed",
                "return what goes into the sigmoid",
            )
        if np.allclose(strong.sum(1), 1, atol=1e-5):
            raise ModelError(
                f"{card.name}: gives probabilities, whose rows add up to 1; logits are needed",
                "return what goes into the softmax",
            )
    return logits


def build_timm(name: str, classes: int | None = None, *, pretrained: bool = False) -> tuple[nn.Module, Preprocessing]:
    """A network of timm and its preprocessing; raises `ModelError` for one that it does not have, or whose published
    weights are not to be had."""
    if importlib.util.find_spec("timm") is None:
        raise MissingPackageError("timm", f"model.timm = {name!r}", "own")
    import timm
    from timm.data.config import resolve_data_config

    if not timm.is_model(name.partition(".")[0]):
        close = nearest(name, timm.list_models()) or "timm.list_models() lists them"
        raise ModelError(f"timm {timm.__version__} has no network {name!r}", close)
    others: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    try:
        module = timm.create_model(name, pretrained=pretrained, **others)
    except Exception as exc:  # of a download, of the hub's client, or of timm for a tag that it does not know
        said = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
        raise ModelError(
            f"timm cannot make {name!r}{' with its published weights' if pretrained else ''}: {said}",
            "download the weights yourself and name the file: model.weights" if pretrained else "check its name",
        ) from exc
    config = resolve_data_config({}, model=module)  # type: ignore[no-untyped-call]
    content = {key: list(v) if isinstance(v, tuple) else v for key, v in config.items()}
    return module.eval(), preprocessing_from_json(content)


def _load_weights(module: nn.Module, card: ModelCard, model: ModelSettings) -> WeightsInfo:
    if model.weights == "none":
        return WeightsInfo("none", weights_notes=(f"weights as {model.own} makes them",))
    if model.weights == "default":
        return WeightsInfo("default", weights_url=f"timm:{model.timm}")
    return load_weights(module, card, model.weights, ema=model.ema)


def _doubted(info: WeightsInfo, preprocessing: Preprocessing) -> WeightsInfo:
    doubt = doubt_of(preprocessing)
    return info if doubt is None else dataclasses.replace(info, weights_notes=(*info.weights_notes, doubt))


def _run_if_lazy(network: nn.Module, shape: Sequence[int]) -> None:
    if any(nn.parameter.is_lazy(p) for p in (*network.parameters(), *network.buffers())):
        with torch.no_grad():
            network(torch.zeros(1, *shape))


def _require_the_same_again(made: OwnNetwork, trust_code: bool) -> None:
    """A later step makes the network anew and loads the weights: that must be the same network."""
    again, _ = build_from_code(made.card.name, trust_code=trust_code)
    twin = in_nchw(again, made.facts.get("layout"))
    try:
        _run_if_lazy(twin, made.card.input_shape)
        again.load_state_dict(made.module.state_dict())
        equal = np.array_equal(probe(twin, made.card), probe(made.network, made.card))
    except RuntimeError:
        equal = False
    if not equal:
        raise ModelError(
            f"{made.card.name}: makes another network at each call, with the same weights",
            "what is random or counts calls in it must be a parameter or a buffer, which its state_dict holds",
        )
