"""What every named run has: a network, its image weights, a regime, and data that it names."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator

from i2p_lib.inflation.regimes import REGIMES
from i2p_lib.models import image_name, modules_of, point_models
from i2p_lib.train.settings import Settings
from i2p_lib.weights import weights_hash
from i2p_lib.weights.cards import is_random

Input = tuple[str, Callable[[], str]]


@lru_cache(maxsize=64)
def weights_digest(model: str, weights: str) -> str:
    """Hash a weight file once a process; loading it checks it again."""
    if model in point_models() and is_random(weights):
        return "random"
    return weights_hash(image_name(model), weights)


def _known_regime(name: str) -> str:
    if name not in REGIMES:
        known = ", ".join(map(repr, REGIMES))
        raise ValueError(f"expected one of {known}")
    return name


class Named(Settings):
    """What every named run adds to its task's settings: a network, its image weights, a regime.

    model, weights             names, see `image_model`; "random": no weights
    regime                     what is trained, a name in `REGIMES` (io, io+ms, io+bn, all)
    axis, normalize            how weights are inflated, see `inflate`

    TASK names the module that builds the task and the network of such a run (`task_of`,
    `build_network`); its import closure is part of the run's key.  TEAMS tells whether several
    processes can train it together.
    """

    TASK: ClassVar[str]
    TEAMS: ClassVar[bool] = True

    model: str
    weights: str
    regime: Annotated[str, AfterValidator(_known_regime)] = "all"
    axis: Literal["x", "y", "z"] = "z"
    normalize: bool = True

    @property
    def module(self) -> ModuleType:
        """The module that TASK names."""
        return import_module(self.TASK)

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules on whose import closure the run's result rests."""
        return (self.TASK, "i2p_lib.train.loop", *modules_of(self.model))

    @property
    def on(self) -> str:
        """What the run is trained on, by name."""
        raise NotImplementedError

    @property
    def image_model(self) -> str:
        """The model under whose name the weights are carded."""
        return self.model

    def data_input(self) -> Input:
        """Return the data's name for people, and how to hash them (see `inputs`)."""
        raise NotImplementedError

    def inputs(self) -> dict[str, Input]:
        """Return {key part: (name for people, how to hash it)} of the run's data and weights.

        Hashing raises FileNotFoundError for what is not here, ValueError for what is unknown.
        """
        model, weights = self.image_model, self.weights
        digest = f"{weights} weights of {model}", lambda: weights_digest(model, weights)
        return {"data": self.data_input(), "weights": digest}

    def chain(self) -> list[Self]:
        """Return the runs that this one needs, teachers first, itself last."""
        return [self]

    def row(self) -> dict[str, Any]:
        """Return the settings as one flat table row."""
        return dict(self)

    def label(self) -> str:
        """Return a short text for people; it does not name every setting."""
        plain = "" if self.protocol == "clean" else f", {self.protocol} protocol"
        axis = "" if self.axis == "z" else f", axis {self.axis}"
        scale = "" if self.normalize else ", not divided by k"
        return (
            f"{self.model} {self.weights} {self.regime} on {self.on}{self._extra()}{plain}{axis}"
            f"{scale}, {self.epochs} epochs, seed {self.seed}"
        )

    def _extra(self) -> str:
        return ""
