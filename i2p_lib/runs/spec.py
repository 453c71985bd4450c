"""The description of one training run: what may be set, within which limits, and its defaults."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from i2p_lib.data import PAPER_AUGMENT, Augment
from i2p_lib.runs.segment_spec import SegmentSpec
from i2p_lib.train.protocol import Spec, explain, unknown_key

AUGMENT_PRESETS = {
    "none": Augment(),
    "paper": PAPER_AUGMENT,
    "upright": Augment(scale=(0.8, 1.25), rotate="z", jitter=0.02),  # for sets with z up
}
Regime = Literal["io", "io+ms", "io+bn", "all"]
Schedule = Literal["one_cycle", "cosine", "cosine_per_iteration"]


def _to_augment(value: Any) -> Any:
    """Turn a preset's name or a mapping of settings into an `Augment`."""
    if isinstance(value, Augment):
        return value
    if isinstance(value, str):
        if value not in AUGMENT_PRESETS:
            raise ValueError(unknown_key(value, tuple(AUGMENT_PRESETS), "augmentation"))
        return AUGMENT_PRESETS[value]
    if not isinstance(value, dict):
        raise ValueError(
            f"expected one of {', '.join(AUGMENT_PRESETS)} or a mapping of settings, got {value!r}"
        )
    names = tuple(field.name for field in dataclasses.fields(Augment))
    for key in value:
        if key not in names:
            raise ValueError(unknown_key(str(key), names, "augmentation setting"))
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
    try:
        return Augment(**plain)
    except TypeError as error:
        raise ValueError(f"these augmentation settings do not fit: {error}") from error


def _to_spec(value: Any) -> Any:
    """A mapping becomes a spec, so that YAML and JSON can write a teacher."""
    return RunSpec(**value) if isinstance(value, dict) else value


def _to_tuple(value: Any) -> Any:
    """Lists become tuples, so that YAML and JSON can write them."""
    return tuple(value) if isinstance(value, list) else value


class RunSpec(Spec):
    """Everything that decides the result of one training run (device and paths do not).

    Unknown keys, wrong types and values out of range raise pydantic's ValidationError,
    a ValueError.  Specs are frozen; `spec.model_copy(update=...)` does not validate, so build
    a variant with `spec.but(lr=0.01)`.

    data, model, weights       names, see `dataset_names` and `image_model`; "random": no weights
    regime                     what is trained: io, io+ms, io+bn or all (paper, section 3.3)
    axis, normalize, recipe    how weights are inflated, see `inflate`
    protocol                   "clean", "released" (the original code) or "tuning", see `PROTOCOLS`
    voxel_size, points         edge of a voxel in the cloud's unit; points used of each cloud
    schedule, warmup           see `train.learning_rate`; the share of steps in which it rises
    augment                    "none", "paper", "upright", or a mapping of `Augment` settings
    shots, episode             clouds per class, and which draw of them; both or neither
    probe_epochs               epochs after which stages are probed (0: before training)
    teacher                    another run: the student starts from its network and learns from
                               its answers instead of labels, see `distill`
    distill, temperature       "hard": the teacher's most likely class; "soft": its probabilities
                               at that temperature (paper notes 3.3: 0.8)
    train_limit, test_limit    at most so many clouds to train on, and to measure val and test on

    >>> RunSpec(regime="io+bn", lr=0.003).label()
    'efficientnet_lite0 imagenet1k io+bn on home_objects, 10 epochs, seed 0'
    """

    data: str = "home_objects"
    model: str = "efficientnet_lite0"
    weights: str = "imagenet1k"
    regime: Regime = "all"
    axis: Literal["x", "y", "z"] = "z"
    normalize: bool = True
    recipe: Literal["paper"] | None = None
    protocol: Literal["clean", "released", "tuning"] = "clean"
    voxel_size: float = Field(0.05, gt=0, le=1)
    points: int = Field(2048, ge=1)
    epochs: int = Field(10, ge=1, le=10_000)
    batch_size: int = Field(16, ge=2, le=4096)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    amp: Literal["off", "bf16"] = "off"
    lr: float = Field(1e-3, gt=0, le=10)
    weight_decay: float = Field(1e-2, ge=0, le=1)
    schedule: Schedule = "one_cycle"
    warmup: float = Field(0.3, ge=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    augment: Annotated[Augment, BeforeValidator(_to_augment)] = "upright"
    shots: int | None = Field(None, ge=1)
    episode: int | None = Field(None, ge=0)
    probe_epochs: Annotated[tuple[int, ...], BeforeValidator(_to_tuple)] = ()
    train_limit: int | None = Field(None, ge=2)
    test_limit: int | None = Field(None, ge=1)
    teacher: Annotated[RunSpec | None, BeforeValidator(_to_spec)] = None
    distill: Literal["hard", "soft"] | None = None
    temperature: float | None = Field(None, gt=0, le=100)
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _fits_together(self) -> RunSpec:
        if (self.shots is None) != (self.episode is None):
            raise ValueError("shots and episode belong together: set both (few-shot) or neither")
        if self.shots is not None and self.train_limit is not None:
            raise ValueError("shots already limits the training set: leave train_limit out")
        if self.schedule != "one_cycle" and self.warmup != 0.3:
            raise ValueError(f"warmup is read by the one_cycle schedule only, not {self.schedule}")
        wrong = [epoch for epoch in self.probe_epochs if not 0 <= epoch <= self.epochs]
        if wrong:
            raise ValueError(f"probe_epochs must lie in 0..{self.epochs} (epochs), got {wrong}")
        if self.rules.test == "never" and self.probe_epochs:
            raise ValueError("probes look at the test split, tuning never does: leave one out")
        if list(self.probe_epochs) != sorted(set(self.probe_epochs)):
            raise ValueError(f"probe_epochs must rise, each once, got {list(self.probe_epochs)}")
        self._check_teacher()
        return self

    def _check_teacher(self) -> None:
        """Refuse a student that could not take over its teacher's network."""
        if (self.teacher is None) != (self.distill is None):
            raise ValueError("teacher and distill belong together: set both or neither")
        if (self.distill == "soft") != (self.temperature is not None):
            raise ValueError("temperature belongs to distill: soft, and to nothing else")
        if self.teacher is None:
            return
        same = ("data", "model", "weights", "recipe", "axis", "normalize")
        other = [name for name in same if getattr(self, name) != getattr(self.teacher, name)]
        if other:
            raise ValueError(f"a student has its teacher's network; they differ in {other}")
        if self.regime != "all" or self.shots is not None or self.label_smoothing:
            raise ValueError(
                "a student trains all layers on all clouds without labels: regime all, no shots, "
                "no label_smoothing"
            )

    def chain(self) -> list[RunSpec]:
        """Return the runs that this one needs, teachers first, itself last."""
        return [*(self.teacher.chain() if self.teacher else []), self]

    def augment_name(self) -> str:
        """Return the preset's name, or the settings as JSON where no preset is equal."""
        for name, preset in AUGMENT_PRESETS.items():
            if preset == self.augment:
                return name
        return json.dumps(dataclasses.asdict(self.augment), sort_keys=True)

    def row(self) -> dict[str, Any]:
        """Return the settings as one flat table row."""
        return dict(self) | {
            "augment": self.augment_name(),
            "probe_epochs": ",".join(map(str, self.probe_epochs)),
            "teacher": self.teacher.label() if self.teacher else None,
        }

    def label(self) -> str:
        """Return a short text for people; it does not name every setting."""
        few = "" if self.shots is None else f" {self.shots}-shot (episode {self.episode})"
        plain = "" if self.protocol == "clean" else f", {self.protocol} protocol"
        axis = "" if self.axis == "z" else f", axis {self.axis}"
        scale = "" if self.normalize else ", not divided by k"
        if self.distill:
            heat = "" if self.temperature is None else f" at T = {self.temperature:g}"
            few = f", {self.distill} distillation{heat} from {self.teacher.shots or 'all'} shots"
        return (
            f"{self.model} {self.weights} {self.regime} on {self.data}{few}{plain}{axis}{scale}, "
            f"{self.epochs} epochs, seed {self.seed}"
        )


AnySpec = RunSpec | SegmentSpec


def kind_of(settings: Mapping[str, Any]) -> type[RunSpec] | type[SegmentSpec]:
    """Return the kind of run that settings describe: those with `scenes` segment them."""
    return SegmentSpec if "scenes" in settings else RunSpec


def spec_from(settings: Mapping[str, Any], where: str) -> AnySpec:
    """Build a spec, and say `where` (a file, an experiment) when a setting is wrong.

    Raises ValueError with one line per wrong setting.
    """
    try:
        return kind_of(settings)(**settings)
    except ValidationError as error:
        raise ValueError(f"{where}: {explain(error)}") from error
