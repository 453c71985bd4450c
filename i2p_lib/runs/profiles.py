"""Profiles: YAML files that say which runs each experiment needs, and which chapters show them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from i2p_lib.runs.spec import AnySpec, RunSpec, SegmentSpec, distinct, kind_of, spec_from
from i2p_lib.runs.store import project_root
from i2p_lib.train.settings import explain, unknown_key

KINDS = {RunSpec: "defaults", SegmentSpec: "scene_defaults"}
"""Kind of run -> the key of a profile that holds what its blocks need not say."""


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-3 is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


class _File(BaseModel):
    """What a profile's file may say; the settings of its runs are checked where runs are built."""

    model_config = ConfigDict(strict=True)

    description: str = ""
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    workers: int | None = Field(None, ge=1)
    images: str | None = None
    defaults: dict[str, Any] = {}
    scene_defaults: dict[str, Any] = {}
    experiments: dict[str, Annotated[list[dict[str, Any]], Field(min_length=1)]]
    chapters: dict[str, list[str]] = {}


@dataclass(frozen=True)
class Profile:
    """A validated profile.

    experiments: name -> specs, in the file's order.  chapters: notebook stem -> experiment names.
    device and workers say how to train and are no part of any spec.  images is a folder of
    photographs for chapter 5, a relative path from the profile's own folder; None: those that the
    book's dependencies bring.
    """

    name: str
    path: Path
    description: str
    experiments: Mapping[str, tuple[AnySpec, ...]]
    chapters: Mapping[str, tuple[str, ...]]
    device: str = "cpu"
    workers: int | None = None
    images: Path | None = None

    @property
    def address(self) -> str:
        """What finds this profile again: its name where it is one of the book's, else its path."""
        own = (profiles_folder() / self.path.name).resolve() == self.path
        return self.name if own else str(self.path)

    def experiment(self, name: str) -> list[AnySpec]:
        """Return the specs of one experiment; raises ValueError where there is no such one."""
        return list(self._pick(self.experiments, name, "experiment"))

    def all_specs(self, chapter: str | None = None) -> list[AnySpec]:
        """Return the specs of one chapter or of the whole profile, each once.

        Raises ValueError for a chapter that the profile does not name.
        """
        names = self.experiments
        if chapter is not None:
            names = self._pick(self.chapters, chapter, "chapter")
        return distinct(spec for name in names for spec in self.experiments[name])

    def _pick(self, known: Mapping[str, tuple], name: str, what: str) -> tuple:
        if name not in known:
            raise ValueError(f"{self.path}: {unknown_key(name, tuple(known), what)}")
        return known[name]


def profiles_folder() -> Path:
    """Return the folder of the profiles that come with the book."""
    return project_root() / "notebooks" / "profiles"


def profile_names() -> tuple[str, ...]:
    """Return the names of the profiles that come with the book."""
    return tuple(sorted(path.stem for path in profiles_folder().glob("*.yml")))


def load_profile(name_or_path: str | Path) -> Profile:
    """Read and check a profile: a name such as "demo", or the path of a YAML file.

    Raises FileNotFoundError where there is none, and ValueError with file, experiment and key for
    anything that is unknown, of the wrong type or out of range.
    """
    path = _find(name_or_path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        _refuse_unknown(content or {}, _File, "key", str(path))
        file = _File.model_validate(content)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    except ValidationError as error:
        raise ValueError(f"{path}: {explain(error)}") from error
    for kind, name in KINDS.items():
        _refuse_unknown(getattr(file, name), kind, "setting", f"{path}: {name}")
    experiments = {
        name: _experiment(blocks, file, f"{path}: experiments.{name}")
        for name, blocks in file.experiments.items()
    }
    for stem, names in file.chapters.items():
        if odd := [name for name in names if name not in experiments]:
            wrong = unknown_key(odd[0], experiments, "experiment")
            raise ValueError(f"{path}: chapters.{stem}: {wrong}")
    folder = None if file.images is None else path.parent / Path(file.images).expanduser()
    if folder is not None and not folder.is_dir():
        raise ValueError(f"{path}: images must be a folder of photographs, got {file.images!r}")
    chapters = {stem: tuple(names) for stem, names in file.chapters.items()}
    return Profile(path.stem, path, file.description, experiments, chapters, file.device,
                   file.workers, folder)  # fmt: skip


def grid(block: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the settings of a block's cartesian product; the last key varies fastest.

    A list is a set of choices.  Settings that are lists themselves (probe_epochs) are one value
    as a flat list, and choices as a list of lists.

    >>> grid({"regime": ["io", "all"], "seed": [0, 1]})[1]
    {'regime': 'io', 'seed': 1}
    """
    choices = []
    for key, value in block.items():
        one = not isinstance(value, list)
        if key == "probe_epochs" and not one:
            one = not (value and isinstance(value[0], list))
        choices.append([value] if one else value)
    return [dict(zip(block, chosen, strict=True)) for chosen in itertools.product(*choices)]


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix not in (".yml", ".yaml"):
        path = profiles_folder() / f"{name_or_path}.yml"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {unknown_key(path.stem, profile_names(), 'profile')}")
    return path.resolve()


def _experiment(blocks: list[dict[str, Any]], file: _File, where: str) -> tuple[AnySpec, ...]:
    """Return the specs of an experiment; a block that names `scenes` is one of segmentations."""
    specs = []
    for number, block in enumerate(blocks, start=1):
        place, kind = f"{where}, block {number}", kind_of(block)
        _refuse_unknown(block, kind, "setting", place)
        for key in (key for key, value in block.items() if value == []):
            raise ValueError(f"{place}: {key} is an empty list, so the block has no runs")
        for settings in grid(block):
            whole = getattr(file, KINDS[kind]) | settings
            specs.append(spec_from(_with_teacher(whole, f"{place}: teacher"), place))
    return tuple(distinct(specs))


def _with_teacher(settings: dict, place: str) -> dict:
    """Fill in a teacher, which is written as what it does otherwise than its student."""
    if settings.get("teacher") is None:
        return settings
    students = ("teacher", "distill", "temperature", "probe_epochs")
    shared = {key: value for key, value in settings.items() if key not in students}
    return settings | {"teacher": spec_from(shared | settings["teacher"], place)}


def _refuse_unknown(given: Mapping, known: type[BaseModel], what: str, where: str) -> None:
    for key in given:
        if key not in known.model_fields:
            raise ValueError(f"{where}: {unknown_key(str(key), known.model_fields, what)}")
