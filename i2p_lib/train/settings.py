"""How something is trained, as strict data: what every task shares, and what each adds."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args, get_type_hints

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from i2p_lib.data import PAPER_AUGMENT, Augment


@dataclass(frozen=True)
class Protocol:
    """What a protocol decides; by default what should be done.

    voxel        "mean" of a voxel's points (the paper's text) or its "first" point (its code)
    grid         where voxels lie: "floor" counts from the origin; "round" to the nearest, from the
                 lowest of each cloud; of a U-Net's scenes it is all of `ReleasedVoxels`
    cap          a U-Net trains on at most so many "points" of a scene or, where grid is "round",
                 "voxels"
    labels       of a U-Net's scenes: those of the "set", or of the "released" code (stairs are
                 trained, and test ends at the cube, see `load_scenes`)
    absent       a class without points is "skipped" in a U-Net's mIoU, or "perfect": its IoU is 1
    init         what scratch starts from: "he", or torchsparse's rule; see `initialize`
    decay        weight decay on the "weights" alone, or on "everything" that is trained
    end          poly and warmup_cosine end with the "run" or "later", see `learning_rate`
    draws        few-shot clouds and the order of an epoch come from a "generator" of the run, or as
                 in the original, from "numpy" and the epoch alone
    teacher      its logits are "exact" and its norms in eval mode, or as in the original "cut" to
                 integers and never in eval mode, see `teacher_answers`
    taps         the order in which PointContrast's kernels are copied, see `load_pointcontrast`
    train_on     the split that is trained on; "trainval" has nothing held out
    validate_on  the split whose scores are the history's val_...
    test         when the test split is read: "once" at the end, "every epoch", or "never"
    checkpoint   the reported epoch: the "last", or the one that is "best on test"
    """

    voxel: Literal["mean", "first"] = "mean"
    grid: Literal["floor", "round"] = "floor"
    cap: Literal["points", "voxels"] = "points"
    labels: Literal["set", "released"] = "set"
    absent: Literal["skipped", "perfect"] = "skipped"
    init: Literal["he", "torchsparse"] = "he"
    decay: Literal["weights", "everything"] = "weights"
    end: Literal["run", "later"] = "run"
    draws: Literal["generator", "numpy"] = "generator"
    teacher: Literal["exact", "cut"] = "exact"
    taps: Literal["minkowski", "released"] = "minkowski"
    train_on: Literal["train", "trainval"] = "train"
    validate_on: Literal["val", "test"] = "val"
    test: Literal["once", "every epoch", "never"] = "once"
    checkpoint: Literal["last", "best on test"] = "last"

    def splits(self) -> dict[str, str]:
        """Return {what a split is used as: the split of the files}, without test if never read."""
        used = {"train": self.train_on, "val": self.validate_on, "test": "test"}
        return {name: file for name, file in used.items() if name != "test" or self.test != "never"}


_CHOICES = {name: get_args(kind) for name, kind in get_type_hints(Protocol).items()}
PROTOCOLS: Mapping[str, Protocol] = {
    "clean": Protocol(),
    "released": Protocol(
        voxel="first", grid="round", cap="voxels", labels="released", absent="perfect",
        init="torchsparse", decay="everything", end="later", draws="numpy", teacher="cut",
        taps="released", train_on="trainval", validate_on="test", test="every epoch",
        checkpoint="best on test",
    ),
    "tuning": Protocol(test="never"),
}  # fmt: skip
"""clean: as it should be done; released: as the original code does it (it validates on the test
split and keeps the epoch that is best there); tuning: clean, but blind to the test split."""

AUGMENT_PRESETS = {
    "none": Augment(),
    "paper": PAPER_AUGMENT,
    "upright": Augment(scale=(0.8, 1.25), rotate="z", jitter=0.02),  # for sets with z up
}
KEY = "key"
Schedule = Literal["one_cycle", "cosine", "cosine_per_iteration", "poly", "warmup_cosine"]


def _to_augment(value: Any) -> Any:
    """Turn a preset's name or a mapping of settings into an `Augment`."""
    if isinstance(value, Augment):
        return value
    if isinstance(value, str):
        _refuse_unknown([value], AUGMENT_PRESETS, "augmentation")
        return AUGMENT_PRESETS[value]
    if isinstance(value, dict):
        _refuse_unknown(value, Augment.__dataclass_fields__, "augmentation setting")
        try:
            return Augment(**value)
        except ValidationError as error:
            raise ValueError(explain(error)) from error
    known = ", ".join(AUGMENT_PRESETS)
    raise ValueError(f"expected one of {known} or a mapping of settings, got {value!r}")


def _refuse_unknown(values: Iterable[Any], known: Iterable[str], what: str) -> None:
    for key in values:
        if key not in known:
            raise ValueError(unknown_key(str(key), tuple(known), what))


def _to_changes(value: Any, info: ValidationInfo) -> Any:
    """Check a mapping of decisions; those that the protocol decides alike are left out."""
    try:
        changes = dict(value)
    except (TypeError, ValueError):
        raise ValueError("expected a mapping, such as {grid: floor}") from None
    _refuse_unknown(changes, _CHOICES, "decision of a protocol")
    for name, chosen in changes.items():
        _refuse_unknown([chosen], _CHOICES[name], f"value of {name}")
    usual = PROTOCOLS.get(info.data.get("protocol", ""))
    return tuple(sorted((k, v) for k, v in changes.items() if getattr(usual, k, None) != v))


class Settings(BaseModel):
    """How a network is trained, whatever the task; frozen.

    Unknown keys, wrong types and values out of range raise pydantic's ValidationError,
    a ValueError.  `settings.model_copy(update=...)` does not validate, so build a variant with
    `settings.but(lr=0.01)`.

    protocol                   "clean", "released" (the original code) or "tuning", see `PROTOCOLS`
    changes                    {decision: value} in which this training differs from its protocol
    batch_size                 clouds or scenes of one step
    nesterov                   SGD's momentum of 0.9 looks ahead; read by sgd alone
    schedule, warmup           see `learning_rate`; the share of steps in which one_cycle rises
    warmup_steps               steps in which warmup_cosine rises
    validate_every             epochs between two measurements; the last one is always measured
    train_limit, test_limit    at most so many items to train on, and to measure val and test on
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)

    protocol: Literal["clean", "released", "tuning"] = "clean"
    changes: Annotated[
        tuple[tuple[str, str], ...], BeforeValidator(_to_changes), PlainSerializer(dict)
    ] = ()
    epochs: int = Field(10, ge=1, le=10_000)
    batch_size: int = Field(16, ge=1, le=4096)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    nesterov: bool = False
    lr: float = Field(1e-3, gt=0, le=10)
    weight_decay: float = Field(1e-2, ge=0, le=1)
    schedule: Schedule = "one_cycle"
    warmup: float = Field(0.3, ge=0, lt=1)
    warmup_steps: int = Field(0, ge=0)
    validate_every: int = Field(1, ge=1)
    train_limit: int | None = Field(None, ge=1)
    test_limit: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            _refuse_unknown(values, cls.model_fields, "setting")
        return values

    @model_validator(mode="after")
    def _training_fits_together(self) -> Self:
        if self.nesterov and self.optimizer != "sgd":
            raise ValueError(f"nesterov is read by sgd alone, not by {self.optimizer}")
        if self.schedule != "one_cycle" and self.warmup != 0.3:
            raise ValueError(f"warmup is read by the one_cycle schedule only, not {self.schedule}")
        if (self.warmup_steps > 0) != (self.schedule == "warmup_cosine"):
            raise ValueError("warmup_steps belongs to the schedule warmup_cosine: set both")
        on_test = self.rules.validate_on == "test"
        if on_test != (self.rules.test == "every epoch"):
            raise ValueError("validate_on: test and test: every epoch belong together: change both")
        if self.rules.checkpoint == "best on test" and not on_test:
            raise ValueError("checkpoint: best on test needs validate_on: test")
        return self

    @property
    def rules(self) -> Protocol:
        """What the protocol decides, with this training's changes."""
        plain = PROTOCOLS[self.protocol]
        return dataclasses.replace(plain, **dict(self.changes)) if self.changes else plain

    def validated(self, epoch: int) -> bool:
        """Tell whether scores are measured after an epoch (from 1)."""
        return epoch % self.validate_every == 0 or epoch == self.epochs

    def but(self, **changes: Any) -> Self:
        """Return a validated copy with some settings changed."""
        return type(self)(**(dict(self) | changes))

    def key_fields(self) -> str:
        """Return the canonical JSON of all settings: the same text for equal ones.

        What serialises for a key otherwise than for a file is told so by the context `KEY`.
        """
        values = self.model_dump(mode="json", context=KEY)
        return json.dumps(values, sort_keys=True, separators=(",", ":"))


class ClassifySettings(Settings):
    """How a classifier of clouds is trained.

    voxel_size                 edge of a voxel in the cloud's unit
    amp                        "bf16": features and products in bfloat16
    augment                    "none", "paper", "upright", or a mapping of `Augment` settings
    probe_epochs               epochs after which stages are probed (0: before training)
    distill, temperature       "hard": the teacher's most likely class; "soft": its probabilities
                               at that temperature (configs/modelnet/34_distill.yaml: 0.8)
    """

    batch_size: int = Field(16, ge=2, le=4096)
    voxel_size: float = Field(0.05, gt=0, le=1e6)
    amp: Literal["off", "bf16"] = "off"
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    augment: Annotated[Augment, BeforeValidator(_to_augment)] = "upright"
    probe_epochs: Annotated[tuple[int, ...], Field(strict=False)] = ()
    distill: Literal["hard", "soft"] | None = None
    temperature: float | None = Field(None, gt=0, le=100)
    train_limit: int | None = Field(None, ge=2)

    @model_validator(mode="after")
    def _classifying_fits_together(self) -> Self:
        wrong = [epoch for epoch in self.probe_epochs if not 0 <= epoch <= self.epochs]
        if wrong:
            raise ValueError(f"probe_epochs must lie in 0..{self.epochs} (epochs), got {wrong}")
        if self.rules.test == "never" and self.probe_epochs:
            raise ValueError("probes look at the test split, tuning never does: leave one out")
        if list(self.probe_epochs) != sorted(set(self.probe_epochs)):
            raise ValueError(f"probe_epochs must rise, each once, got {list(self.probe_epochs)}")
        if (self.distill == "soft") != (self.temperature is not None):
            raise ValueError("temperature belongs to distill: soft, and to nothing else")
        return self

    def augment_name(self) -> str:
        """Return the preset's name, or the settings as JSON where no preset is equal."""
        names = {preset: name for name, preset in AUGMENT_PRESETS.items()}
        own = json.dumps(dataclasses.asdict(self.augment), sort_keys=True)
        return names.get(self.augment, own)


class SegmentSettings(Settings):
    """How a segmentation network is trained.

    augment                    "paper": the transforms of the paper's recipe for such scenes
    """

    batch_size: int = Field(1, ge=1, le=256)
    augment: Literal["none", "paper"] = "paper"


def unknown_key(key: str, allowed: Iterable[str], what: str) -> str:
    """Return the sentence for a key that does not exist, with the nearest one that does."""
    close = difflib.get_close_matches(key, allowed, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(allowed)}."
    return f"unknown {what} {key!r}; {hint}"


def explain(error: ValidationError) -> str:
    """Return pydantic's complaint as short lines: setting, what is wrong, what was given."""
    lines = []
    for item in error.errors():
        name = ".".join(map(str, item["loc"]))
        text = item["msg"].removeprefix("Value error, ")
        lines.append(f"{name}: {text} (got {item['input']!r})" if name else text)
    return "; ".join(lines)
