"""Detection on exported features: Girshick, "Fast R-CNN", ICCV 2015.

The maps of a picture are computed once, by ONNX Runtime on a features graph. RoIAlign (He et al., "Mask R-CNN", 2017)
cuts a grid of a fixed size out of them for every proposed box; two fully connected layers tell its class, or that it is
no object, and how the box must move. The network below stays as it is; the head alone is trained. Proposals are squares
of four sizes in every place of a grid.

    python examples/fast_rcnn.py                                # the digits of scikit-learn
    python examples/fast_rcnn.py --data mnist:DIR               # MNIST: the folder of its four IDX files

Printed is the average precision of every class on pictures of test digits (IoU of 0.5, area under the whole curve of
precision and recall as in PASCAL VOC since 2010) and their mean, mAP, with the maps in FP32 and in INT8.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pasted_digits import MAPS, SIDE, STRIDES, Painter, Picture, compute_maps, features_graphs, fit
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou, roi_align

import edgecnn as ec

TRAINING, TEST, EPOCHS, STEP = 800, 300, 12, 2e-3
PROPOSED_SIDES, GRID = (16, 19, 22, 26), 4  # pixels; proposals lie GRID pixels apart
ROIS, FOREGROUND = 32, 0.25  # of a picture in training, and the share of those that are objects, as in the paper
CELLS, HIDDEN, BACKGROUND = 5, 128, 10
SCORE_MIN, NMS_IOU, MATCH_IOU = 0.05, 0.3, 0.5


class Head(nn.Module):
    """Logits [R, 11] and moves [R, 10, 4] of R boxes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(
            nn.Linear(channels * CELLS**2, HIDDEN), nn.ReLU(), nn.Dropout(0.3), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()
        )
        self.classes, self.moves = nn.Linear(HIDDEN, 11), nn.Linear(HIDDEN, 40)

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """For boxes [R_n, 4] of each picture n, in pixels."""
        cut = [
            roi_align(one, list(boxes), CELLS, 1 / stride, sampling_ratio=2, aligned=True)
            for one, stride in zip(maps, STRIDES, strict=True)
        ]
        found = self.shared(torch.cat(cut, 1).flatten(1))
        return self.classes(found), self.moves(found).view(-1, 10, 4)


def propose() -> Tensor:
    """Boxes [P, 4] that are the same for every picture."""
    boxes = [
        (left, top, left + side, top + side)
        for side in PROPOSED_SIDES
        for left in range(0, SIDE - side + 1, GRID)
        for top in range(0, SIDE - side + 1, GRID)
    ]
    return torch.tensor(boxes, dtype=torch.float32)


def moves_between(boxes: Tensor, targets: Tensor) -> Tensor:
    """What moves `boxes` onto `targets`, [R, 4] each: (x, y) in sides of the box, logarithms of the sides' ratios."""
    sides, wanted = boxes[:, 2:] - boxes[:, :2], targets[:, 2:] - targets[:, :2]
    centers = (targets[:, 2:] + targets[:, :2] - boxes[:, 2:] - boxes[:, :2]) / 2
    return torch.cat([centers / sides, torch.log(wanted / sides)], 1)


def moved(boxes: Tensor, moves: Tensor) -> Tensor:
    """`boxes` [R, 4] after `moves` [R, 4], within the picture."""
    sides = boxes[:, 2:] - boxes[:, :2]
    centers = (boxes[:, 2:] + boxes[:, :2]) / 2 + moves[:, :2] * sides
    half = sides * torch.exp(moves[:, 2:].clamp(max=1.0)) / 2
    return torch.cat([centers - half, centers + half], 1).clamp(0, SIDE)


class Sample(NamedTuple):
    """Boxes to learn from, their classes (BACKGROUND for none) and the objects that they stand for."""

    boxes: Tensor
    classes: Tensor
    targets: Tensor


def sample_boxes(picture: Picture, proposals: Tensor) -> Sample:
    """ROIS of the proposals, at most FOREGROUND of which overlap an object by MATCH_IOU or more."""
    objects = torch.from_numpy(picture.boxes)
    overlap, nearest = box_iou(proposals, objects).max(1)
    inside, outside = (torch.nonzero(chosen).flatten() for chosen in (overlap >= MATCH_IOU, overlap < MATCH_IOU))
    inside = inside[torch.randperm(len(inside))[: int(ROIS * FOREGROUND)]]
    hard = outside[overlap[outside] >= 0.1]  # as in the paper: what touches an object teaches more than the ground
    hard = hard[torch.randperm(len(hard))[: (ROIS - len(inside)) // 2]]
    outside = outside[torch.randperm(len(outside))[: ROIS - len(inside) - len(hard)]]
    chosen = torch.cat([inside, hard, outside])
    classes = torch.full((len(chosen),), BACKGROUND)
    classes[: len(inside)] = torch.from_numpy(picture.labels)[nearest[inside]]
    return Sample(proposals[chosen], classes, objects[nearest[chosen]])


def train_head(maps: Sequence[Tensor], pictures: Sequence[Picture]) -> Head:
    """A head for the maps of training pictures: cross-entropy, and smooth L1 of the moves of objects."""
    torch.manual_seed(0)
    head, proposals = Head(sum(one.shape[1] for one in maps)), propose()

    def loss_of(chosen: Tensor) -> Tensor:
        samples = [sample_boxes(pictures[k], proposals) for k in chosen.tolist()]
        boxes, classes, targets = (torch.cat(parts) for parts in zip(*samples, strict=True))
        logits, moves = head([one[chosen] for one in maps], [sample.boxes for sample in samples])
        objects = torch.nonzero(classes != BACKGROUND).flatten()
        wanted = moves_between(boxes[objects], targets[objects])
        by_class = moves[objects, classes[objects]]
        return nn.functional.cross_entropy(logits, classes) + 2 * nn.functional.smooth_l1_loss(
            by_class, wanted, beta=0.1
        )

    fit(head, len(pictures), EPOCHS, loss_of, STEP)
    return head.eval()


class Detections(NamedTuple):
    """What was found in a picture: boxes [D, 4], classes [D], scores [D]."""

    boxes: Tensor
    classes: Tensor
    scores: Tensor


@torch.no_grad()
def detect(head: Head, maps: Sequence[Tensor]) -> list[Detections]:
    """Detections in every picture whose maps these are."""
    proposals, found = propose(), []
    for k in range(len(maps[0])):
        logits, moves = head([one[k : k + 1] for one in maps], [proposals])
        scores = logits.softmax(1)[:, :BACKGROUND]
        rows, classes = torch.nonzero(scores > SCORE_MIN, as_tuple=True)
        boxes, sure = moved(proposals[rows], moves[rows, classes]), scores[rows, classes]
        kept = batched_nms(boxes, sure, classes, NMS_IOU)
        found.append(Detections(boxes[kept], classes[kept], sure[kept]))
    return found


def average_precision(matches: npt.NDArray[np.bool_], objects: int) -> float:
    """The area under precision over recall of detections in the order of falling score; precision is made monotonic."""
    true = np.cumsum(matches)
    precision = true / np.arange(1, len(matches) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(precision[matches].sum() / objects)


def score_classes(found: Sequence[Detections], pictures: Sequence[Picture]) -> list[float]:
    """The average precision of each class; NaN for one without objects. An object is found once."""
    result = []
    for label in range(10):
        rows = list[tuple[float, bool]]()
        for detections, picture in zip(found, pictures, strict=True):
            objects = torch.from_numpy(picture.boxes[picture.labels == label])
            taken, mine = set[int](), detections.classes == label
            scores = detections.scores[mine]
            for k in torch.argsort(scores, descending=True).tolist():
                overlaps = box_iou(detections.boxes[mine][k : k + 1], objects)[0]
                best = int(overlaps.argmax()) if len(objects) else -1
                hit = best >= 0 and best not in taken and float(overlaps[best]) >= MATCH_IOU
                taken |= {best} if hit else set()
                rows.append((float(scores[k]), hit))
        rows.sort(key=lambda row: -row[0])
        count = sum(int((picture.labels == label).sum()) for picture in pictures)
        matches = np.array([hit for _, hit in rows], bool)
        result.append(average_precision(matches, count) if count else float("nan"))
    return result


def main() -> None:
    """The command line of this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, or mnist:DIR [digits]")
    parser.add_argument("--out", type=Path, default=Path("build/pasted_digits"), help="folder for weights and graphs")
    given = parser.parse_args()
    fp32, int8 = features_graphs(given.data, given.out)
    training = Painter(given.data, "train", seed=2).pictures(TRAINING)
    pictures = Painter(given.data, "test", seed=3).pictures(TEST)
    head = train_head(compute_maps(fp32, training), training)
    objects = sum(len(picture.labels) for picture in pictures)
    print(f"{objects} digits on {TEST} pictures; maps {', '.join(MAPS)}; AP at IoU {MATCH_IOU} in %")
    print("maps   mAP   " + "".join(f"{label:6}" for label in range(10)))
    for name, graph in (("FP32", fp32), ("INT8", int8)):
        precisions = score_classes(detect(head, compute_maps(graph, pictures)), pictures)
        print(f"{name} {100 * np.nanmean(precisions):6.2f}  " + "".join(f"{100 * ap:6.1f}" for ap in precisions))


if __name__ == "__main__":
    try:
        main()
    except ec.EdgecnnError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
