"""Profiles: YAML files that say which runs each experiment needs, and which chapters show them."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from i2p_lib.runs.spec import AnySpec, RunSpec, SegmentSpec, distinct, kind_of, spec_from
from i2p_lib.runs.store import project_root
from i2p_lib.train.settings import unknown_key

DEFAULTS = {"defaults": RunSpec, "scene_defaults": SegmentSpec}
KEYS = ("description", "device", "workers", "images", *DEFAULTS, "experiments", "chapters")


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
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    _check_keys(content, KEYS, path, "key")
    defaults = {}
    for name, kind in DEFAULTS.items():
        defaults[kind] = content.get(name) or {}
        _check_keys(defaults[kind], tuple(kind.model_fields), f"{path}: {name}", "setting")
    experiments = {
        name: _experiment(grids, defaults, f"{path}: experiments.{name}")
        for name, grids in _mapping(content.get("experiments"), f"{path}: experiments").items()
    }
    chapters = _mapping(content.get("chapters") or {}, f"{path}: chapters")
    device, workers, images = (
        _typed(content, key, kind, path)
        for key, kind in (("device", str), ("workers", int), ("images", str))
    )
    if device not in (None, "cpu", "cuda", "auto"):
        raise ValueError(f"{path}: device must be cpu, cuda or auto, got {device!r}")
    if workers is not None and workers < 1:
        raise ValueError(f"{path}: workers must be 1 or more, got {workers}")
    folder = None if images is None else path.parent / Path(images).expanduser()
    if folder is not None and not folder.is_dir():
        raise ValueError(f"{path}: images must be a folder of photographs, got {images!r}")
    return Profile(
        name=path.stem,
        path=path,
        description=_typed(content, "description", str, path) or "",
        experiments=experiments,
        chapters={stem: _chapter(stem, c, experiments, path) for stem, c in chapters.items()},
        device=device or "cpu",
        workers=workers,
        images=folder,
    )


def grid(block: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the settings of a block's cartesian product; the last key varies fastest.

    A list is a set of choices.  Settings that are lists themselves (probe_epochs) are one value
    as a flat list, and choices as a list of lists.

    >>> grid({"regime": ["io", "all"], "seed": [0, 1]})[1]
    {'regime': 'io', 'seed': 1}
    """
    choices = []
    for key, value in block.items():
        if key == "probe_epochs":
            nested = isinstance(value, list) and value and isinstance(value[0], list)
            choices.append(value if nested else [value])
        else:
            choices.append(value if isinstance(value, list) else [value])
    return [dict(zip(block, chosen, strict=True)) for chosen in itertools.product(*choices)]


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix not in (".yml", ".yaml"):
        path = profiles_folder() / f"{name_or_path}.yml"
    if not path.is_file():
        known = profile_names()
        close = difflib.get_close_matches(path.stem, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        raise FileNotFoundError(f"no profile {name_or_path!s} ({path}); {hint}")
    return path.resolve()


def _experiment(grids: Any, defaults: dict, where: str) -> tuple[AnySpec, ...]:
    """Return the specs of an experiment; a block that names `scenes` is one of segmentations."""
    if not isinstance(grids, list) or not grids:
        raise ValueError(f"{where}: expected a list of blocks (- regime: ...), got {grids!r}")
    specs = []
    for number, block in enumerate(grids, start=1):
        place = f"{where}, block {number}"
        kind = kind_of(_mapping(block, place))
        _check_keys(block, tuple(kind.model_fields), place, "setting")
        for key, value in block.items():
            if value == []:
                raise ValueError(f"{place}: {key} is an empty list, so the block has no runs")
        for settings in grid(block):
            specs.append(spec_from(_with_teacher(defaults[kind] | settings, place), place))
    return tuple(distinct(specs))


def _with_teacher(settings: dict, place: str) -> dict:
    """Fill in a teacher, which is written as what it does otherwise than its student."""
    if settings.get("teacher") is None:
        return settings
    _check_keys(settings["teacher"], tuple(RunSpec.model_fields), f"{place}: teacher", "setting")
    students = ("teacher", "distill", "temperature", "probe_epochs")
    shared = {key: value for key, value in settings.items() if key not in students}
    return settings | {"teacher": spec_from(shared | settings["teacher"], f"{place}: teacher")}


def _chapter(stem: str, names: Any, experiments: Mapping, path: Path) -> tuple[str, ...]:
    where = f"{path}: chapters.{stem}"
    if not isinstance(names, list):
        raise ValueError(f"{where}: expected a list of experiments, got {names!r}")
    for name in names:
        if name not in experiments:
            raise ValueError(f"{where}: {unknown_key(str(name), tuple(experiments), 'experiment')}")
    return tuple(names)


def _mapping(value: Any, where: str) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a mapping (key: value lines), got {value!r}")
    return value


def _check_keys(value: Any, known: tuple[str, ...], where: str | Path, what: str) -> None:
    for key in _mapping(value, str(where)):
        if key not in known:
            raise ValueError(f"{where}: {unknown_key(str(key), known, what)}")


def _typed(content: dict, key: str, kind: type, path: Path) -> Any:
    """Return what a key says, None where it is not there; it must be of a type."""
    value = content.get(key)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise ValueError(f"{path}: {key} must be of type {kind.__name__}, got {value!r}")
    return value
