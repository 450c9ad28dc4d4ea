"""Training throughput beside a plain torchvision-style loop, and what bounds the loader.

    python benchmarks/train_speed.py [--threads N] [--rounds N] [--cifar DIR] [--jpegs DIR]

Both sides train the same network with the same settings on the same images, one epoch of each in turn; the first round
warms up and is dropped. The figure is the median of the rounds' ratios. On a GPU both sides use AMP (bf16) and
channels_last. The plain loop is the one of PyTorch's examples: an image data set, torchvision transforms in DataLoader
workers, SGD, `loss.item()` for the running mean. Without --cifar or --jpegs (a folder of class folders) the images are
smooth noise, encoded once as JPEG for the second.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from _result import Recorder
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms

from edgecnn.pytorch.models import build_model
from edgecnn.pytorch.training.loader import ImageLoader
from edgecnn.pytorch.training.loop import make_trainer, training_device
from edgecnn.pytorch.training.process_group import ProcessGroup
from edgecnn.pytorch.training.progress import Silent
from edgecnn.recipe.load import recipe_from_mapping
from edgecnn.recipe.schema import Recipe

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cifar", type=Path, help="the folder of the CIFAR-10 binary version")
    parser.add_argument("--jpegs", type=Path, help="a folder of class folders of JPEGs")
    parser.add_argument("--cifar-images", type=int, default=2560)
    parser.add_argument("--jpeg-images", type=int, default=128)
    parser.add_argument("--cifar-batch", type=int, default=128)
    parser.add_argument("--jpeg-batch", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = ("threads", "rounds", "cifar_images", "jpeg_images", "cifar_batch", "jpeg_batch")
    words = [f"--{name.replace('_', '-')} {getattr(options, name)}" for name in sizes]
    words += [f"--{name} DIR" for name in ("cifar", "jpegs") if getattr(options, name)]
    command = " ".join(["python benchmarks/train_speed.py", *words])
    recorder = Recorder("train_speed", command, tools=("torch", "torchvision"))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as scratch:
        for measure in (resnet20, resnet18):
            row = measure(options, Path(scratch))
            size = {key: row[key] for key in ("name", "batch", "images_per_round")}
            recorder.add({**size, "device": device, "threads": options.threads}, row)


def resnet20(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """ResNet-20 on 32-pixel images: crops of the padded image, mirrored."""
    folder = scratch / "cifar"
    folder.mkdir()
    if options.cifar:
        table = np.fromfile(sorted(options.cifar.rglob("data_batch_*.bin"))[0], np.uint8).reshape(-1, 3073)
        table = table[: options.cifar_images]
    else:
        table = np.random.default_rng(0).integers(0, 256, (options.cifar_images, 3073), dtype=np.uint8)
        table[:, 0] %= 10
    for name in ("data_batch_1.bin", "test_batch.bin"):
        (folder / name).write_bytes(table.tobytes())
    images = [Image.fromarray(row[1:].reshape(3, 32, 32).transpose(1, 2, 0)) for row in table]

    class Cifar(Dataset[Any]):
        transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, k: int) -> tuple[torch.Tensor, int]:
            return self.transform(images[k]), int(table[k, 0])

    ours = settings("resnet20_cifar", f"cifar10:{folder}", options.cifar_batch, {"mirror": True, "pad": 4})
    return compare("resnet20_cifar", ours, Cifar(), 10, options)


def resnet18(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """ResNet-18 on 224-pixel crops of JPEGs, random resized and mirrored; with the loader and the model alone."""
    folder = scratch / "jpegs"
    files = sorted(options.jpegs.rglob("*.jpg")) if options.jpegs else list(noise(scratch / "noise"))
    for k, path in zip(range(options.jpeg_images), itertools.cycle(files), strict=False):
        link = folder / f"class{k % 4}" / f"{k}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    crop = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    augment = {"mirror": True, "area": [0.08, 1.0]}
    ours = settings("resnet18", str(folder), options.jpeg_batch, augment)
    row = compare("resnet18", ours, torchvision.datasets.ImageFolder(str(folder), crop), 4, options)
    trainer = make_trainer(ours, world(ours), False, Silent())
    source = trainer.splits.train
    assert isinstance(source, ImageLoader)
    order = [source.readable[k::4] for k in range(4)]

    def loader_alone(epoch: int) -> int:
        return sum(len(source.inputs(b, epoch)) for b in source.batches(order, epoch))

    def decoder_alone(epoch: int) -> int:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(source.workers) as pool:
            return sum(1 for _ in pool.map(source.image, range(len(source))))

    batch = next(iter(source.batches([source.readable[: options.jpeg_batch]])))

    def model_alone(epoch: int) -> int:
        steps = max(1, len(source) // options.jpeg_batch // 2)
        for step in range(steps):
            trainer._step(batch, step, epoch)
        synchronise()
        return steps * options.jpeg_batch

    parts = {"loader": loader_alone, "decoder": decoder_alone, "model": model_alone}
    for name, action in parts.items():
        row[f"{name}_alone_images_per_s"] = statistics.median(speed(action, k) for k in range(3))
    row["bound_by"] = min(("loader", "model"), key=lambda part: row[f"{part}_alone_images_per_s"])
    return row


def settings(name: str, source: str, batch: int, augment: dict[str, Any]) -> Recipe:
    gpu = torch.cuda.is_available()
    train = {"epochs": 1000, "batch": batch, "learning_rate": 0.01, "lr_schedule": "constant", "validation": 0}
    if gpu:
        train |= {"amp": "bf16", "channels_last": True}
    content = {"model": {"name": name}, "data": {"source": source}, "train": {**train, "augment": augment}}
    return recipe_from_mapping(content, Path(f"{name}.toml"))


def world(recipe: Recipe) -> ProcessGroup:
    return ProcessGroup(0, 1, training_device(recipe.train))


def compare(name: str, ours: Recipe, images: Dataset[Any], classes: int, options: argparse.Namespace) -> dict[str, Any]:
    """One epoch of each in turn."""
    trainer = make_trainer(ours, world(ours), False, Silent())
    count = trainer.steps * ours.train.batch
    loader = DataLoader(
        Subset(images, range(count)),
        batch_size=ours.train.batch,
        shuffle=True,
        num_workers=options.threads,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=True,
        drop_last=True,
    )
    device = trainer.processes.device
    network = build_model(name, classes).to(device)
    if device.type == "cuda":
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()

    def plain(epoch: int) -> int:
        network.train()
        total = 0.0
        for x, label in loader:
            x, label = x.to(device, non_blocking=True), label.to(device, non_blocking=True)
            if device.type == "cuda":
                x = x.to(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = criterion(network(x), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        synchronise()
        return count

    def edgecnn(epoch: int) -> int:
        trainer.train_epoch(epoch)
        synchronise()
        return count

    pairs = [(speed(edgecnn, k), speed(plain, k)) for k in range(options.rounds + 1)][1:]
    return {
        "name": name,
        "images_per_s": statistics.median(a for a, _ in pairs),
        "plain_images_per_s": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
        "ratio_range": [min(a / b for a, b in pairs), max(a / b for a, b in pairs)],
        "rounds": len(pairs),
        "images_per_round": count,
        "batch": ours.train.batch,
    }


def speed(action: Callable[[int], int], epoch: int) -> float:
    started = time.perf_counter()
    return action(epoch) / (time.perf_counter() - started)


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def noise(folder: Path) -> Iterator[Path]:
    """JPEGs of 500x375 pixels."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for k in range(64):
        coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{k}.jpg", quality=90)
        yield folder / f"{k}.jpg"


if __name__ == "__main__":
    main()
