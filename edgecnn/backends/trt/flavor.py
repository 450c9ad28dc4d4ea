"""The two TensorRTs: the enterprise one, which builds on the GPU it builds for, and TensorRT-RTX, whose plans are built
on any machine and compiled by the desktop GPU that loads them (TensorRT-RTX documentation, "CPU-Only AOT").

All in which they differ stands here; a plan tells its flavor by its first four bytes, never by its name.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.targets import version_tuple


@dataclass(frozen=True)
class Flavor:
    """One TensorRT: the backend's name, the Python `module` with the `extra` that brings it and the `packages` in which
    it is installed, the `magic` of its plans, and which releases are supported.

    `needs_gpu` is about building; what needs none cannot time kernels, and keeps no timing cache. `compiles_at_load`
    says that the GPU which loads a plan compiles it: that has a time of its own, a cache of its own, and CUDA graphs
    that the runtime records. `gpus` are the compute capabilities that it runs on, and whatever is newer than the last.
    """

    backend: str
    product: str
    module: str
    extra: str
    packages: tuple[str, ...]
    magic: bytes
    suffixes: tuple[str, ...]
    default_target: str
    oldest: tuple[int, int]
    newest_major: int
    needs_gpu: bool
    compiles_at_load: bool
    gpus: tuple[str, ...] = ()

    def runs_on(self, capability: str) -> bool:
        """Whether it runs on GPUs of a compute capability at all; one that is unknown ("") is not refused."""
        newest = self.gpus[-1:] or ("0",)
        return capability in ("", *self.gpus) or version_tuple(capability) > version_tuple(newest[0])

    @property
    def supported(self) -> str:
        """The supported releases, in words."""
        return f"{'.'.join(map(str, self.oldest))} to {self.newest_major}.x"


TENSORRT = Flavor(
    backend="trt",
    product="TensorRT",
    module="tensorrt",
    extra="gpu",
    packages=("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings"),
    magic=b"ftrt",
    suffixes=(".plan", ".engine"),
    default_target="gpu",
    oldest=(10, 3),
    newest_major=11,
    needs_gpu=True,
    compiles_at_load=False,
)
RTX = Flavor(
    backend="trt-rtx",
    product="TensorRT-RTX",
    module="tensorrt_rtx",
    extra="rtx",
    packages=("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
    magic=b"vtrt",
    suffixes=(".rtx.plan", ".plan"),
    default_target="rtx",
    oldest=(1, 4),
    newest_major=1,
    needs_gpu=False,
    compiles_at_load=True,
    gpus=("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"),  # 1.7.1 on an H200: it "does not support" 9.0
)
FLAVORS = (TENSORRT, RTX)


def flavor_of(magic: bytes) -> Flavor | None:
    """The flavor whose plans start with these bytes."""
    return next((flavor for flavor in FLAVORS if magic.startswith(flavor.magic)), None)
