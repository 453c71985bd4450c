"""Augmentation of point clouds: one frozen setting, one pure function over a batch."""

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

AXES = {"x": 0, "y": 1, "z": 2}


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if not 0 < pair[0] <= pair[1] < math.inf:
        raise ValueError("expected 0 < low <= high")
    return pair


Scale = Annotated[tuple[float, float], Field(strict=False), AfterValidator(_rising)]
Probability = Annotated[float, Field(ge=0, le=1)]
Length = Annotated[float, Field(ge=0, lt=math.inf)]


STRICT = {"extra": "forbid", "strict": True}


@dataclass(frozen=True, config=STRICT)
class Augment:
    """What `augment` does; the defaults do nothing.

    scale: lowest and highest factor, drawn for each axis of each cloud
    shift: largest displacement, drawn for each axis of each cloud
    jitter: width w of the noise w * (u - 0.5) of every coordinate, u uniform in [0, 1)
    jitter_clip: largest noise kept
    rotate: "none", or the axis "x", "y" or "z" of a rotation by any angle
    shuffle: whether the order of the points of each cloud is drawn anew
    *_p: the probability that a cloud gets that change at all

    Raises pydantic's ValidationError, a ValueError, for a setting that is unknown or out of range.
    """

    scale: Scale = (1.0, 1.0)
    scale_p: Probability = 1.0
    shift: Length = 0.0
    shift_p: Probability = 1.0
    jitter: Length = 0.0
    jitter_clip: float = Field(math.inf, ge=0)
    jitter_p: Probability = 1.0
    rotate: Literal["none", "x", "y", "z"] = "none"
    shuffle: bool = False


# The released code's augmentation on ModelNet40.  Its noise never reaches its clip.
PAPER_AUGMENT = Augment(scale=(0.9, 1.1), scale_p=0.9, shift=0.2, shift_p=0.9, jitter=0.025,
                        jitter_clip=0.05, jitter_p=0.7, shuffle=True)


def augment(points: Tensor, generator: torch.Generator, settings: Augment) -> Tensor:
    """Return changed copies of clouds [B, P, 3 + F]; `points` itself is never written to.

    The first three columns are x, y and z; others follow their point and stay as they are.
    The order is shuffle, rotate, scale, shift, jitter.  All randomness comes from `generator`,
    whose device may differ from that of `points`.  Each cloud is drawn on its own.

    Raises ValueError unless `points` is [B, P, 3 or more] of a floating dtype.
    """
    if points.ndim != 3 or points.shape[2] < 3 or not points.is_floating_point():
        raise ValueError(f"points: expected [B, P, 3 or more] floating, got {list(points.shape)} "
                         f"{points.dtype}")
    batch, uniform = len(points), draws(generator, points)

    def where(probability: float) -> Tensor:
        return (uniform(batch, 1, 1) < probability).to(points.dtype)

    changed = points.clone()
    if settings.shuffle:
        order = uniform(batch, points.shape[1]).argsort(dim=1, stable=True)
        changed = changed.gather(1, order[..., None].expand_as(changed))
    changed, others = changed[..., :3], changed[..., 3:]
    if settings.rotate != "none":
        changed = changed @ _rotation(uniform(batch) * 2 * math.pi, AXES[settings.rotate])
    if settings.scale != (1.0, 1.0):
        low, high = settings.scale
        factor = low + (high - low) * uniform(batch, 1, 3)
        changed = changed * (1 + (factor - 1) * where(settings.scale_p))
    if settings.shift:
        offset = settings.shift * (2 * uniform(batch, 1, 3) - 1)
        changed = changed + offset * where(settings.shift_p)
    if settings.jitter:
        noise = settings.jitter * (uniform(*changed.shape) - 0.5)
        noise = noise.clamp(-settings.jitter_clip, settings.jitter_clip)
        changed = changed + noise * where(settings.jitter_p)
    return torch.cat([changed, others], 2) if others.shape[2] else changed


def draws(generator: torch.Generator, like: Tensor) -> Callable[..., Tensor]:
    """Return what draws tensors of a shape from [0, 1), of the dtype and device of `like`."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device).to(like)

    return uniform


def _rotation(angle: Tensor, axis: int) -> Tensor:
    """Return matrices [B, 3, 3] that turn row vectors by `angle` [B] about one axis."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = torch.zeros(len(angle), 3, 3, dtype=angle.dtype, device=angle.device)
    matrix[:, axis, axis] = 1
    matrix[:, first, first] = matrix[:, second, second] = angle.cos()
    matrix[:, first, second] = angle.sin()
    matrix[:, second, first] = -angle.sin()
    return matrix
