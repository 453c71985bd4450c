"""What every named run says: a network, its weights, and what its result rests on."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializationInfo,
    field_serializer,
    model_validator,
)

from i2p_lib.data import dataset_card
from i2p_lib.data.scenes import scene_card
from i2p_lib.inflation import AXES
from i2p_lib.inflation.regimes import REGIMES
from i2p_lib.models import image_name, is_point_model, modules_of, point_models
from i2p_lib.train.settings import KEY, Settings
from i2p_lib.weights import weights_hash
from i2p_lib.weights.cards import is_random
from i2p_lib.weights.paths import is_path, placed

WeightsName = Annotated[str, BeforeValidator(placed)]
"""A name of weights, or the path of a file of them, which becomes absolute."""


def _weights_digest(model: str, weights: str) -> str:
    """Hash a weight file once a process, and a file of one's own again when it has changed."""
    file = Path(weights)
    stat = file.stat() if is_path(weights) and file.is_file() else None
    return _hashed(model, weights, stat and (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=64)
def _hashed(model: str, weights: str, stamp: tuple[int, int] | None) -> str:
    """Hash a weight file; loading it checks it again."""
    if model in point_models() and is_random(weights):
        return "random"
    return weights_hash(image_name(model), weights)


KINDS = {"data": "data set", "scenes": "scenes"}  # what people call the setting `Named.DATA`


class Named(Settings):
    """What every named run adds to its task's settings: a network, its image weights, its data.

    model, weights             names, see `image_model`; "random": no weights; weights may be the
                               path of a file, whose content, not its name, is part of the key
    weights_except             of an inflated network: parts such as [layer4] (beginnings of the
                               image network's names) that are not loaded from the weights and
                               start at random (the original's load_exclude)
    regime                     what is trained, a name in `REGIMES` (io, io+ms, io+bn, all)
    axis, normalize            how weights are inflated, see `inflate`
    init                       of random weights, what scratch starts from: "torchsparse", "he" (see
                               `initialize`) or "inflated", a random image network; None: the
                               protocol's.  A random frozen backbone (the other regimes) is
                               inflated whatever the protocol, since it is the control of that
    norms                      of an inflated network whose layers all train: the size that its
                               kernels are scaled to, see `match_norms`: the name of weights, or
                               "torchsparse", as that rule draws them; None: they stay

    TASK names the module that builds the task and the network of such a run (`task_of`,
    `build_network`); its import closure is part of the run's key.  DATA names the setting that
    says on what it is trained.
    """

    TASK: ClassVar[str]
    DATA: ClassVar[str]

    model: str
    weights: WeightsName
    weights_except: Annotated[
        tuple[str, ...], Field(strict=False), AfterValidator(lambda parts: tuple(sorted({*parts})))
    ] = ()
    regime: Literal[*REGIMES] = "all"
    axis: Literal[*AXES] = "z"
    normalize: bool = True
    init: Literal["torchsparse", "he", "inflated"] | None = None
    norms: WeightsName | None = None

    @model_validator(mode="after")
    def _init_is_read(self) -> Self:
        if self.init is not None and not (is_random(self.weights) and self.inflated):
            raise ValueError(
                f"init is of inflated networks with weights random, not of {self.model} with "
                f"{self.weights}: leave it out"
            )
        if self.init not in (None, "inflated") and self.regime != "all":
            raise ValueError(f"the random frozen backbone of {self.regime} is inflated: no init")
        if self.weights_except and (is_random(self.weights) or not self.inflated):
            raise ValueError(
                "weights_except is of inflated networks with image weights, not of "
                f"{self.model} with {self.weights}: leave it out"
            )
        if self.norms is not None and (not self.inflated or self.regime != "all"):
            raise ValueError(
                f"norms is of inflated networks whose layers all train, not of {self.model} with "
                f"regime {self.regime}: leave it out"
            )
        return self

    @field_serializer("weights", "norms")
    def _by_content(self, value: str | None, info: SerializationInfo) -> str | None:
        """A file of weights counts in a key by its content, wherever it lies."""
        in_key = info.context == KEY and is_path(value)
        return _weights_digest(self.image_model, value) if in_key else value

    @property
    def inflated(self) -> bool:
        """Whether the network is an inflated image network."""
        return not is_point_model(self.model)

    @property
    def drawn(self) -> Literal["torchsparse", "he"] | None:
        """The rule by which all weights are drawn anew; None where they stay as inflated."""
        scratch = is_random(self.weights) and self.inflated and self.regime == "all"
        init = self.init or self.rules.init
        return init if scratch and init != "inflated" else None

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
        """The name of the clouds or scenes that the run is trained on."""
        return getattr(self, self.DATA)

    @property
    def image_model(self) -> str:
        """The model under whose name the weights are carded."""
        return self.model

    def inputs(self) -> dict[str, tuple[str, Callable[[], str]]]:
        """Return {key part: (name for people, how to hash it)} of the run's data and weights.

        Hashing raises FileNotFoundError for what is not here, ValueError for what is unknown.
        """
        model, weights = self.image_model, self.weights
        parts = {
            "data": (f"{KINDS[self.DATA]} {self.on}", self.data_digest),
            "weights": (f"{weights} weights of {model}", lambda: _weights_digest(model, weights)),
        }
        if self.norms not in (None, "torchsparse"):
            size = lambda: _weights_digest(model, self.norms)  # noqa: E731
            parts["norms"] = f"{self.norms} weights of {model}", size
        return parts

    def reading(self, task: Any) -> dict[str, Any]:
        """Return what a finished run says of how it read its data."""
        card = dataset_card(self.on) if self.DATA == "data" else scene_card(self.on)
        return {"class_names": list(task.class_names), "card": card.model_dump(mode="json")}

    def chain(self) -> list[Self]:
        """Return the runs that this one needs, teachers first, itself last."""
        return [*(self.teacher.chain() if self.teacher else []), self]

    def row(self) -> dict[str, Any]:
        """Return the settings as one flat table row."""
        return dict(self) | {
            "changes": self._changed(),
            "weights_except": ",".join(self.weights_except),
        }

    def label(self) -> str:
        """Return a short text for people; it does not name every setting."""
        plain = "" if self.protocol == "clean" else f", {self.protocol} protocol"
        if self.changes:
            plain = f", {self.protocol} protocol but {self._changed()}"
        weights = Path(self.weights).name if is_path(self.weights) else self.weights
        weights += f" except {', '.join(self.weights_except)}" if self.weights_except else ""
        init = "" if self.init is None else f" ({self.init})"
        init += "" if self.norms is None else f", norms of {self.norms}"
        axis = "" if self.axis == "z" else f", axis {self.axis}"
        scale = "" if self.normalize else ", not divided by k"
        return (
            f"{self.model} {weights}{init} {self.regime} on {self.on}{self._extra()}{plain}"
            f"{axis}{scale}, {self.epochs} epochs, seed {self.seed}"
        )

    def _changed(self) -> str:
        return ", ".join(f"{name}: {value}" for name, value in self.changes)

    def _extra(self) -> str:
        return ""
