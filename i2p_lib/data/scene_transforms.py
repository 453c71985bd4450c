"""Augmentation of scenes: one frozen setting, pure functions with a generator.

What the released code does is written in the cards of the sets (`SceneCard.augment`).
"""

import math

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from i2p_lib.data.transforms import STRICT, Probability, Scale, draws


@dataclass(frozen=True, config=STRICT)
class SceneAugment:
    """What `augment_scene` does; the defaults do nothing.

    clip           keep points closer than this to the centre of the box, in x, y and z [m]
    flip_p         probability that flips are drawn at all; then x and y each flip with 1/2
    rotate         whether the scene is turned about z by any angle
    scale          lowest and highest factor of all coordinates
    jitter         standard deviation of the noise of each colour of each point
    shift          largest displacement of each colour, drawn once a scene
    colour_p       probability of the jitter, and of the shift
    contrast_p     probability that colours are blended, half and half, with colours that are
                   stretched to the whole range
    most           keep at most so many points, drawn without replacement

    Raises pydantic's ValidationError, a ValueError, for a setting that is unknown or out of range.
    """

    clip: float = Field(math.inf, gt=0)
    flip_p: Probability = 0.0
    rotate: bool = False
    scale: Scale = (1.0, 1.0)
    jitter: float = Field(0.0, ge=0, le=1)
    shift: float = Field(0.0, ge=0, le=1)
    colour_p: Probability = 0.0
    contrast_p: Probability = 0.0
    most: int | None = Field(None, ge=1)


def augment_scene(points: Tensor, features: Tensor, generator: torch.Generator,
                  settings: SceneAugment) -> tuple[Tensor, Tensor, Tensor]:
    """Return changed points [M, 3] and features [M, F], and which points these are [M] int64.

    points [N, 3] in metres, features [N, F] in 0..1; neither is written to.  The order is flip,
    rotate, scale, jitter, shift, contrast, clip, cap.  Colours are changed where a setting says
    so, whatever F is, and stay in 0..1.

    Raises ValueError unless the tensors are of one length.
    """
    fits = points.ndim == features.ndim == 2 and points.shape[1] == 3
    if not fits or len(points) != len(features) or not len(points):
        raise ValueError("expected points [N, 3] and features [N, F], N at least 1, "
                         f"got {list(points.shape)} and {list(features.shape)}")
    uniform = draws(generator, points)
    drawn = uniform(3)
    if drawn[0] < settings.flip_p:
        points = points.clone()
        for axis in (0, 1):
            if drawn[1 + axis] < 0.5:  # in its own range
                points[:, axis] = points[:, axis].max() - points[:, axis]
    angle, place = uniform(2)
    if settings.rotate:
        angle = angle * 2 * math.pi
        cos, sin = angle.cos(), angle.sin()
        x, y, z = points.unbind(1)
        points = torch.stack([cos * x - sin * y, sin * x + cos * y, z], dim=1)
    low, high = settings.scale
    if settings.scale != (1.0, 1.0):
        points = points * (low + (high - low) * place)
    features = _recolour(features, settings, generator)
    kept = clip_to_cube(points, settings.clip)
    if settings.most is not None:
        kept = kept[at_most(len(kept), settings.most, generator).to(kept.device)]
    return points[kept], features[kept], kept


def clip_to_cube(points: Tensor, half: float) -> Tensor:
    """Return the indices [M] int64 of the points [N, 3] in a cube about the centre of their box.

    half: half of the cube's side.  A scene whose box is nowhere longer than `half` stays whole.
    Where at most one point is there (a ring, an L), the cube is about a point of the scene, the one
    than which half of the others are nearer to that centre.
    """
    low, high = points.amin(0), points.amax(0)
    if not (high - low).max() >= half:
        return torch.arange(len(points), device=points.device)
    offset = points - (low + high) / 2
    kept = ((offset >= -half) & (offset < half)).all(1).nonzero().squeeze(1)
    if len(kept) < 2:
        offset = points - points[offset.norm(dim=1).argsort(stable=True)[len(points) // 2]]
        kept = ((offset >= -half) & (offset < half)).all(1).nonzero().squeeze(1)
    return kept


def at_most(count: int, most: int, generator: torch.Generator) -> Tensor:
    """Return `most` of the numbers below `count`, rising, or all of them: [min(count, most)]."""
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=generator, device=generator.device)[:most].sort()[0]


def _recolour(features: Tensor, settings: SceneAugment, generator: torch.Generator) -> Tensor:
    uniform = draws(generator, features)
    drawn = uniform(3)
    if settings.jitter and drawn[0] < settings.colour_p:
        noise = torch.randn(features.shape, generator=generator, device=generator.device)
        features = (features + settings.jitter * noise.to(features)).clamp(0, 1)
    if settings.shift and drawn[1] < settings.colour_p:
        offset = 2 * uniform(features.shape[1]) - 1
        features = (features + settings.shift * offset).clamp(0, 1)
    if drawn[2] < settings.contrast_p:
        low, high = features.amin(0), features.amax(0)
        stretched = torch.where(high > low, (features - low) / (high - low), features)
        features = (features + stretched) / 2
    return features
