"""Export several networks as one graph that averages their probabilities."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgecnn.artifact.sidecar import Sidecar, parents_of, sidecar_path, tool_versions, verified_sidecar
from edgecnn.artifact.stale import TRAIN_IMAGES
from edgecnn.artifact.write import check_output, write_artifact
from edgecnn.contract import OPSET, InputForm, OutputForm, ServingContract
from edgecnn.data.calibration_set import is_manifest
from edgecnn.data.dataset import Dataset, held_out, spread
from edgecnn.data.open import images_sha256, is_split
from edgecnn.data.preprocess import first_difference, preprocessing_from_json
from edgecnn.errors import ArtifactError, GraphError, ModelError, RecipeError
from edgecnn.limits import GRAPH_BYTES
from edgecnn.machine.threads import allowed_threads
from edgecnn.measure.predict import Progress
from edgecnn.records import record_from_mapping, to_plain
from edgecnn.results.ensemble import EnsembleMember, MemberWeights
from edgecnn.results.export import ExportFacts
from edgecnn.steps import TOOLS
from edgecnn.steps._arguments import FilePath, require_one_of, require_packages
from edgecnn.steps._images import open_images
from edgecnn.steps._sessions import VALIDATION_BATCH, open_reference_source
from edgecnn.steps._shared import predict_shared

if TYPE_CHECKING:
    import onnx

FLOAT_GRAPH = "model.fp32.onnx"  # of a run
MOST_IMAGES = 2000  # for a few weights
_SUM = 1e-3  # from 1: what weights written with three digits may lack


@dataclass(frozen=True)
class _Member:
    name: str
    path: Path
    sidecar: Sidecar
    model: onnx.ModelProto

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of its input, 0 for a dynamic axis."""
        return tuple(d.dim_value for d in self.model.graph.input[0].type.tensor_type.shape.dim)

    @property
    def classes(self) -> int:
        """The columns of its output, 0 where they are not fixed."""
        dims = self.model.graph.output[0].type.tensor_type.shape.dim
        return int(dims[1].dim_value) if len(dims) == 2 else 0


def export_ensemble(
    members: Sequence[FilePath],
    output: FilePath,
    *,
    weights: Sequence[float] | None = None,
    weights_from: FilePath = "",
    takes: InputForm = "normalised",
    gives: OutputForm = "probabilities",
    progress: Progress | None = None,
) -> Path:
    """Write one graph that averages the probabilities of several exported networks; returns it.

        import edgecnn as ec
        whole = ec.export_ensemble(["runs/a", "runs/b", "c.fp32.onnx"], "ens.onnx")
        ec.validate(whole, "runs/a/model.fp32.onnx", data="imgs/val").top1.drop_pp

    `members` are float32 graphs or run folders, of one input size, one preprocessing and one list of classes; graph and
    average of the members are proven equal in ONNX Runtime at N = 1 and 2. They count alike, by `weights` (which add up
    to 1), or by those that make the labels of validation images most likely: of `weights_from`, which is a folder
    without a split or a manifest, or the data set that every member was trained on by `run`, of which the images count
    that every member held out; at most 2000 images, spread over the classes. `takes` and `gives` are the serving
    contract, as in `export`; as logits it gives the logarithm of the probabilities. Raises `ModelError` for networks
    that are no ensemble, `RecipeError` for weights, `GraphError` for a graph, and the errors of the data.
    """
    require_packages("calibrate")  # what any step on a graph needs
    require_one_of("takes", takes, InputForm)
    require_one_of("gives", gives, OutputForm)
    output, weights_from = Path(output), os.fspath(weights_from)
    if isinstance(members, (str, os.PathLike)) or len(members) < 2:
        raise ModelError("an ensemble of fewer than two networks", "name at least two graphs or run folders")
    paths = [_graph_of(Path(member)) for member in members]
    check_output(output, ".onnx", *paths)
    known = _open_members([Path(member) for member in members], paths)
    if weights is not None and weights_from:
        raise RecipeError("weights, and images to choose them on", "give one of the two")
    chosen = _choose(known, weights_from, progress) if weights_from else None
    shares = _shares(known, chosen.weights if chosen else weights)
    return _write(known, shares, output, ServingContract(takes, gives), chosen)


def describe_used(sidecar: Sidecar, sha256s: Sequence[str]) -> tuple[str, ...]:
    """That images with these identities chose the weights of the ensemble that a sidecar describes; nothing where none
    did. Raises `ArtifactError` for a sidecar that is none."""
    if (told := sidecar.facts.get("member_weights")) is None:
        return ()
    chosen = record_from_mapping(
        MemberWeights, told, "the sidecar's member_weights", "make the ensemble again with this version"
    )
    if not (used := chosen.count_used(sha256s)):
        return ()
    return (f"{used} of {len(sha256s)} images chose the ensemble's weights: it may do worse on others",)


def _graph_of(member: Path) -> Path:
    path = member / FLOAT_GRAPH if member.is_dir() else member
    if not path.is_file():
        what = f"no {FLOAT_GRAPH} in this folder" if member.is_dir() else "no such file"
        raise ArtifactError(f"{member}: {what}", "a member is a float32 graph, or the folder of a run")
    if path.suffix != ".onnx":
        raise ArtifactError(f"{path}: not a graph", "export it first: a member is a float32 .onnx, or a run's folder")
    if not sidecar_path(path).exists():
        raise ArtifactError(
            f"{path}: has no sidecar: its classes and its preprocessing are not known",
            f"`edgecnn import {path.name} --preprocess P --labels L` writes one",
        )
    return path


def _open_members(named: Sequence[Path], paths: Sequence[Path]) -> list[_Member]:
    """The members, each held against the first."""
    from edgecnn.artifact.external import external_files
    from edgecnn.graph.load import load_graph, naming, require_float_classifier

    size = sum(file.stat().st_size for path in paths for file in (path, *external_files(path).values()))
    if size > GRAPH_BYTES:
        raise GraphError(
            f"the members have {size / 1e9:.1f} GB together, more than the {GRAPH_BYTES / 1e9:.0f} GB that one ONNX "
            "file can hold",
            "take fewer of them, or smaller ones",
        )
    found: list[_Member] = []
    for name, path in zip(named, paths, strict=True):
        sidecar = verified_sidecar(path)
        _require_member(path, sidecar)
        if same := next((m for m in found if m.sidecar.sha256 == sidecar.sha256), None):
            raise ModelError(
                f"{path}: the same graph as {same.path}", "an ensemble is of networks that differ: name it once"
            )
        stem = name.resolve().name if name.is_dir() else path.stem.removesuffix(".fp32")
        member = _Member(stem, path, sidecar, load_graph(path))
        with naming(path):
            require_float_classifier(member.model)
        if member.classes != len(sidecar.labels or ()):
            raise ModelError(
                f"{path}: gives {member.classes} logits, and its sidecar names {len(sidecar.labels or ())} classes",
                "export it again",
            )
        if found:
            _require_alike(found[0], member)
        found.append(member)
    return found


def _require_member(path: Path, sidecar: Sidecar) -> None:
    sidecar.require_classes(path)
    if (found := sidecar.precision_requested) != "fp32" or sidecar.kind != "graph":
        what = "a graph" if sidecar.kind == "graph" else "an engine"
        raise ModelError(
            f"{path}: {what} of {found.upper() or 'no known precision'}; members are float32 graphs",
            "merge the float32 graphs, and quantize the ensemble",
        )
    if not sidecar.contract.is_plain:
        raise ModelError(
            f"{path}: takes {sidecar.contract.input} and gives {sidecar.contract.output}; members take normalised "
            "images and give logits",
            "export it without --input and --output: the ensemble has these options itself",
        )
    if (opset := sidecar.facts.get("opset", OPSET)) != OPSET:
        raise ModelError(f"{path}: of opset {opset}; members are of opset {OPSET}", "export it without --opset")
    if sidecar.facts.get("classes") == 1:
        raise ModelError(f"{path}: gives one logit", "an ensemble is of networks with a logit for each class")
    for what, there, option in (
        ("classes are", sidecar.labels, "--labels"),
        ("preprocessing is", sidecar.preprocessing, "--preprocess"),
    ):
        if not there:
            raise ModelError(
                f"{path}: its {what} not known, and an ensemble's members share them", f"make it again with {option}"
            )


def _require_alike(first: _Member, other: _Member) -> None:
    for what, ours, theirs in (
        ("takes images of", first.input_shape[1:], other.input_shape[1:]),
        ("runs at a batch of", first.input_shape[:1], other.input_shape[:1]),
    ):
        if ours != theirs:
            shown = ["x".join(str(n or "any size") for n in shape) for shape in (theirs, ours)]
            raise ModelError(
                f"{other.path}: {what} {shown[0]}, {first.path} {shown[1]}", "members share one input: export it alike"
            )
    known, named = first.sidecar.labels or [], other.sidecar.labels or []
    if known != named:
        pairs = enumerate(zip(known, named, strict=False))
        k = next((k for k, (a, b) in pairs if a != b), min(len(known), len(named)))
        shown = [f"{names[k]!r}" if k < len(names) else "absent" for names in (named, known)]
        raise ModelError(
            f"{other.path}: {len(named)} classes, of which class {k} is {shown[0]}; of the {len(known)} of "
            f"{first.path} it is {shown[1]}",
            "members share one list of classes, in one order",
        )
    if difference := first_difference(other.sidecar.preprocessing, first.sidecar.preprocessing):
        raise ModelError(
            f"{other.path}: its preprocessing is not that of {first.path}: {difference} there",
            "members share one input, and so one preprocessing",
        )


def _shares(members: Sequence[_Member], weights: Sequence[float] | None) -> tuple[float, ...]:
    """What each member counts; they add up to 1."""
    if weights is None:
        return (1 / len(members),) * len(members)
    given = tuple(weights)
    if len(given) != len(members):
        raise RecipeError(f"{len(given)} weights for {len(members)} members", "give one for each, in their order")
    total = sum(given)
    if not all(math.isfinite(w) and w >= 0 for w in given) or not abs(total - 1) <= _SUM:
        raise RecipeError(
            f"weights {', '.join(f'{w:g}' for w in given)}: must be at least 0 and add up to 1, found {total:g}",
            "for example 0.5,0.3,0.2",
        )
    if 0 in given:
        name = members[given.index(0)].name
        raise RecipeError(f"the weight of {name} is 0: it would cost its time for nothing", "leave it out")
    return tuple(w / total for w in given)


def _choose(members: Sequence[_Member], data: str, progress: Progress | None) -> MemberWeights:
    from edgecnn.measure.mixture import choose_member_weights

    images = _validation_images(members, data)
    images = images.subset(spread(images, MOST_IMAGES))
    rows = []
    for k, member in enumerate(members):
        with open_reference_source(member.path, None) as session:
            rows.append(
                predict_shared(
                    session,
                    images,
                    batch=member.input_shape[0] or VALIDATION_BATCH,
                    workers=allowed_threads(),
                    strict=True,
                    progress=_from(progress, k * len(images), len(members) * len(images)),
                )
            )
    return choose_member_weights(rows, images.name)


def _from(progress: Progress | None, done: int, total: int) -> Progress | None:
    return None if progress is None else lambda more, _: progress(done + more, total)


def _validation_images(members: Sequence[_Member], data: str) -> Dataset:
    """All images of a manifest or of a folder without a split; of a data set with one the training images that every
    member held out of its training. Raises `RecipeError` where nobody says which these are."""
    sidecar = members[0].sidecar
    if is_manifest(data):
        return open_images(sidecar, data, "train")
    if not is_split(data):
        return open_images(sidecar, data, "test")
    whole, digest = open_images(sidecar, data, "train"), images_sha256(data, "train")
    for member in members:
        if not member.sidecar.fields.get("train.validation") or member.sidecar.facts.get(TRAIN_IMAGES) != digest:
            raise RecipeError(
                f"{data}: which of its training images {member.path} has not learned from is not known",
                "name validation images: a folder without a test split, or a manifest; or members that `edgecnn run` "
                "trained on this data with train.validation",
            )
    unseen = set(range(len(whole)))
    for member in members:
        fields = member.sidecar.fields
        unseen &= set(held_out(whole, fields["train.validation"], fields["train.seed"]))
    return whole.subset(sorted(unseen))


def _write(
    members: Sequence[_Member],
    weights: tuple[float, ...],
    output: Path,
    contract: ServingContract,
    chosen: MemberWeights | None,
) -> Path:
    import onnx

    from edgecnn.graph.ensemble import merge_members, prove_average
    from edgecnn.graph.serving import fold_contract

    first, models = members[0].sidecar, [m.model for m in members]
    merged = merge_members(models, weights)
    difference = prove_average(merged, {str(m.path): m.model for m in members}, weights)
    preprocessing = preprocessing_from_json(first.preprocessing or {})
    whole = ServingContract(contract.input, contract.output, len(first.labels or ()))
    fold_contract(merged, whole, preprocessing)
    facts = ExportFacts(
        model=f"ensemble of {', '.join(m.name for m in members)}",
        input_shape=preprocessing.input_shape,
        classes=whole.classes,
        params=sum(_params(m) for m in members),
        nodes=len(merged.graph.node),
        opset=OPSET,
        max_difference=difference,
    )
    told: dict[str, object] = {
        "ensemble": [
            to_plain(EnsembleMember(m.name, m.sidecar.sha256, w)) for m, w in zip(members, weights, strict=True)
        ]
    }
    if chosen is not None:
        told["member_weights"] = to_plain(chosen)
    alike = all(m.sidecar.wnids == first.wnids for m in members)
    sidecar = Sidecar(
        kind="graph",
        made_by="edgecnn export --ensemble",
        precision_requested="fp32",
        precision_obtained="fp32",
        parents=parents_of(output, *(m.path for m in members)),
        fields={"ensemble.weights": list(weights), **({"ensemble.weights_from": chosen.data} if chosen else {})},
        preprocessing=first.preprocessing,
        labels=first.labels,
        wnids=first.wnids if alike else None,
        tools=tool_versions(*TOOLS["quantize"]),
        facts={**to_plain(facts), **whole.facts, **told},
    )
    write_artifact(output, lambda temporary: onnx.save(merged, temporary), sidecar)
    return output


def _params(member: _Member) -> int:
    """As its sidecar counts them; of a graph from elsewhere the values that it holds."""
    known = member.sidecar.facts.get("params")
    return known if isinstance(known, int) else sum(math.prod(t.dims) for t in member.model.graph.initializer)
