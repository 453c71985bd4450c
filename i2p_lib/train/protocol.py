"""What every description of a run shares: strict settings, protocols, and messages on mistakes."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator


@dataclass(frozen=True)
class Protocol:
    """What a protocol decides: which clouds are read when, and which epoch is reported.

    voxel        "mean" of a voxel's points (the paper's text) or its "first" point (its code)
    train_on     the split that is trained on; "trainval" has no clouds held out
    validate_on  the split whose accuracy is the history's val_top1
    test         when the test split is read: "once" at the end, "every epoch", or "never"
    checkpoint   the reported epoch: the "last", or the one that is "best on test"
    """

    voxel: Literal["mean", "first"]
    train_on: Literal["train", "trainval"]
    validate_on: Literal["val", "test"]
    test: Literal["once", "every epoch", "never"]
    checkpoint: Literal["last", "best on test"]


PROTOCOLS: Mapping[str, Protocol] = {
    "clean": Protocol("mean", "train", "val", "once", "last"),
    "released": Protocol("first", "trainval", "test", "every epoch", "best on test"),
    "tuning": Protocol("mean", "train", "val", "never", "last"),
}
"""clean: as it should be done; released: as the original code does it (it validates on the test
split and keeps the epoch that is best there); tuning: clean, but blind to the test split."""


class Spec(BaseModel):
    """A frozen description of a run, of whichever kind; a kind names its own settings.

    Unknown keys, wrong types and values out of range raise pydantic's ValidationError,
    a ValueError.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(unknown_key(str(key), tuple(cls.model_fields), "setting"))
        return values

    @property
    def rules(self) -> Protocol:
        """What this run's protocol decides."""
        return PROTOCOLS[self.protocol]

    def but(self, **changes: Any) -> Self:
        """Return a validated copy with some settings changed."""
        return type(self)(**(dict(self) | changes))

    def key_fields(self) -> str:
        """Return the canonical JSON of all settings: the same text for equal specs."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def unknown_key(key: str, allowed: list[str] | tuple[str, ...], what: str) -> str:
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
