"""Networks on points that no image library has, by name."""

import re
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from inspect import signature
from pathlib import Path

from torch import nn

VIEWS = "views:"
_IMAGE_MODELS = {"point_vit_b16": "vit_base_patch16_224", "point_vit_l16": "vit_large_patch16_224"}


def point_network(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Mark a function whose name is that of a network on points, see `point_models`.

    It takes num_classes, the keywords weights, seed, weights_dir and, where it looks at clouds,
    up (the axis that points up), and returns a network that maps points [B, P, 3] to logits,
    described by `i2p_lib.inflation.regimes.describe`.
    """
    return build


@cache
def point_models() -> dict[str, str]:
    """Return {name of a network on points: the module whose function of that name builds it}.

    They are the functions of this folder that `point_network` decorates, found without
    importing them.  "views:NAME", any image model on depth views, is a network on points as well.
    """
    marked = re.compile(r"^@point_network\ndef (\w+)", re.MULTILINE)
    return {name: f"{__name__}.{path.stem}"
            for path in sorted(Path(__file__).parent.glob("*.py"))
            for name in marked.findall(path.read_text(encoding="utf-8"))}  # fmt: skip


def is_point_model(name: str) -> bool:
    """Tell whether `name` is a network on points; image networks are inflated instead."""
    return name in point_models() or name.startswith(VIEWS)


def modules_of(name: str) -> tuple[str, ...]:
    """Return the modules that build a network on points; none for an image network."""
    if not is_point_model(name):
        return ()
    return (f"{__name__}.views" if name.startswith(VIEWS) else point_models()[name],)


def image_name(name: str) -> str:
    """Return the model under whose name the weights of a network are carded."""
    return _IMAGE_MODELS.get(name, name.removeprefix(VIEWS))


def point_model(name: str, num_classes: int, weights: str | Path = "random", seed: int = 0,
                weights_dir: str | Path | None = None, up: str = "z") -> nn.Module:  # fmt: skip
    """Return a network that maps points [B, P, 3] to logits [B, num_classes].

    up: the axis that points up in the clouds, for networks that look at them.
    Raises ValueError for an unknown name, and what `image_model` raises for its weights.
    """
    if not is_point_model(name):
        known = ", ".join(point_models())
        raise ValueError(f"network on points: expected {known} or {VIEWS}NAME, got {name!r}")
    module = import_module(modules_of(name)[0])
    if name.startswith(VIEWS):
        build = partial(module.image_on_views, image_name(name))
    else:
        build = getattr(module, name)
    looking = {"up": up} if "up" in signature(build).parameters else {}
    return build(num_classes, weights=weights, seed=seed, weights_dir=weights_dir, **looking)
