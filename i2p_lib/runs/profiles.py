"""Profiles: YAML files that say which runs each experiment needs, and which chapters show them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from i2p_lib.runs.spec import AnySpec, RunSpec, SegmentSpec, kind_of, spec_from
from i2p_lib.runs.store import key_of, project_root
from i2p_lib.train.settings import explain, unknown_key
from i2p_lib.weights.paths import placed

LISTS = ("probe_epochs", "weights_except")
KINDS = {RunSpec: "defaults", SegmentSpec: "scene_defaults"}
"""Kind of run -> the key of a profile that holds what its blocks need not say."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
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


def read_yaml(text: str) -> Any:
    """Return what YAML text says, as people write it; raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


class Profile(BaseModel):
    """A profile's file, checked; its `experiments` are the runs that its blocks stand for.

    extends: another profile's name, or its path from the profile's own folder; what this one says
    is added to that, or replaces it key by key.
    chapters: notebook stem -> experiment names.  device and workers say how to train and are no
    part of any spec.  images is a folder of photographs for chapter 5, in the file a path from the
    profile's own folder, as a path of weights is; None: those that the book's dependencies bring.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    path: Path
    extends: str | None = None
    description: str = ""
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    workers: int | None = Field(None, ge=1)
    images: Annotated[Path | None, Field(strict=False)] = None
    defaults: dict[str, Any] = {}
    scene_defaults: dict[str, Any] = {}
    blocks: Annotated[
        dict[str, Annotated[list[dict[str, Any]], Field(min_length=1)]], Field(alias="experiments")
    ]
    chapters: dict[str, list[str]] = {}

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.path.stem

    @cached_property
    def experiments(self) -> dict[str, tuple[AnySpec, ...]]:
        """The specs of each experiment, in the file's order."""
        return {name: _experiment(self, name) for name in self.blocks}

    @property
    def address(self) -> str:
        """What finds this profile again: its name where it is one of the book's, else its path."""
        own = (profiles_folder() / self.path.name).resolve() == self.path
        return self.name if own else str(self.path)

    @property
    def folder(self) -> str:
        """The name of the folder of its chapters, which no other profile has."""
        if self.address == self.name:
            return self.name
        return f"{self.name}-{key_of(self.address)[:8]}"

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
        return list(dict.fromkeys(spec for name in names for spec in self.experiments[name]))

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
        profile = Profile.model_validate(_content(path) | {"path": path})
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    except ValidationError as error:
        raise ValueError(f"{path}: {explain(error)}") from error
    for kind, name in KINDS.items():
        _refuse_unknown(getattr(profile, name), kind.model_fields, "setting", f"{path}: {name}")
    experiments = profile.experiments  # built now, so that each mistake is said before any work
    for stem, names in profile.chapters.items():
        if odd := [name for name in names if name not in experiments]:
            wrong = unknown_key(odd[0], experiments, "experiment")
            raise ValueError(f"{path}: chapters.{stem}: {wrong}")
    folder = profile.images and path.parent / profile.images.expanduser()
    if folder and not folder.is_dir():
        raise ValueError(f"{path}: images must be a folder of photographs, got '{profile.images}'")
    return profile.model_copy(update={"images": folder})


def grid(block: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the settings of a block's cartesian product; the last key varies fastest.

    A list is a set of choices.  Settings that are lists themselves (`LISTS`) are one value as a
    flat list, and choices as a list of lists.  `trial` is no setting: trial n is episode n
    with seed n.

    >>> grid({"regime": ["io", "all"], "seed": [0, 1]})[1]
    {'regime': 'io', 'seed': 1}
    """
    choices = []
    for key, value in block.items():
        one = not isinstance(value, list)
        if key in LISTS and not one:
            one = not (value and isinstance(value[0], list))
        choices.append([value] if one else value)
    rows = [dict(zip(block, chosen, strict=True)) for chosen in itertools.product(*choices)]
    return [row if (trial := row.pop("trial", None)) is None else
            row | {"episode": trial, "seed": trial} for row in rows]  # fmt: skip


def _content(path: Path, extended: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return what a file says, laid over the profile that it extends."""
    content = read_yaml(path.read_text(encoding="utf-8")) or {}
    fields = Profile.model_fields.items()
    known = [field.alias or name for name, field in fields if name != "path"]
    _refuse_unknown(content, known, "key", str(path))
    if path in extended:
        raise ValueError(f"{path} extends itself: leave the key extends out of one of the files")
    if not (name := content.get("extends")):
        return content
    base = _content(_find(name, path.parent), (*extended, path))
    both = {key: base[key] | content[key] for key in base.keys() & content.keys()
            if isinstance(base[key], dict) and isinstance(content[key], dict)}  # fmt: skip
    return base | content | both


def _find(name_or_path: str | Path, home: Path = Path()) -> Path:
    path = home / name_or_path
    if path.suffix not in (".yml", ".yaml"):
        path = profiles_folder() / f"{name_or_path}.yml"
    if not path.is_file():
        if path.parent != profiles_folder():
            raise FileNotFoundError(f"{path}: no such file")
        raise FileNotFoundError(f"{path}: {unknown_key(path.stem, profile_names(), 'profile')}")
    return path.resolve()


def _experiment(profile: Profile, name: str) -> tuple[AnySpec, ...]:
    """Return the specs of an experiment; a block that names `scenes` is one of segmentations."""
    specs = []
    for number, block in enumerate(profile.blocks[name], start=1):
        place, kind = f"{profile.path}: experiments.{name}, block {number}", kind_of(block)
        if empty := [key for key, value in block.items() if value == []]:
            raise ValueError(f"{place}: {empty[0]} is an empty list, so the block has no runs")
        if "trial" in block and (both := {"seed", "episode"} & block.keys()):
            raise ValueError(f"{place}: trial sets {min(both)}, so leave one of them out")
        for settings in grid(block):
            whole = getattr(profile, KINDS[kind]) | settings
            whole |= {key: placed(whole[key], profile.path.parent)
                      for key in ("weights", "norms") if key in whole}  # fmt: skip
            specs.append(spec_from(_with_teacher(whole, f"{place}: teacher"), place))
    return tuple(dict.fromkeys(specs))


def _with_teacher(settings: dict, place: str) -> dict:
    """Fill in a teacher, which is written as what it does otherwise than its student."""
    if settings.get("teacher") is None:
        return settings
    students = ("teacher", "distill", "temperature", "probe_epochs")
    shared = {key: value for key, value in settings.items() if key not in students}
    return settings | {"teacher": spec_from(shared | settings["teacher"], place)}


def _refuse_unknown(given: Iterable[Any], known: Iterable[str], what: str, where: str) -> None:
    for key in given:
        if key not in known:
            raise ValueError(f"{where}: {unknown_key(str(key), known, what)}")
