"""The command `train`: one network on one set, from the command line."""

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from i2p_lib.commands.reports import report, scene_report

TRAIN_EXAMPLES = """examples:
  i2p train --data my_clouds --model resnet18 --weights imagenet1k --regime io+bn --out runs/mine
  i2p train --data my_clouds --weights random --regime all --out runs/scratch
  i2p train --data home_objects --epochs 2 --points 512 --voxel-size 0.1
  i2p train --config mine.yml --lr 0.01 --out runs/other     keys as below, with _ or -
  i2p train --scenes my_rooms --model unet:resnet18 --out runs/rooms

DATA is a set of the book (i2p data list), or a folder with one folder of files for each class.
An interrupted training goes on with the same command, and a finished one is found.
"""
OWN = {"up": "z", "keep_units": False, "skip_bad": False}
"""How a folder of your own is read, and the defaults."""


def add_train(command: Callable[..., argparse.ArgumentParser], settings: bool) -> None:
    """Add the command to a parser; `command` adds one, as in `cli.build_parser`.

    settings: whether `train` gets an option for each setting, which loads torch.
    """
    train = command("train", train_one, "train one network on one set", TRAIN_EXAMPLES)
    train.add_argument("--out", type=Path, metavar="FOLDER",
                       help="folder of the run (default: a place in the store)")
    train.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings")
    train.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    train.add_argument("--up", choices=("x", "y", "z"), help="axis that is up in your files")
    train.add_argument("--keep-units", action="store_true", default=None,
                       help="leave your clouds where and as large as they are")
    train.add_argument("--skip-bad", action="store_true", default=None,
                       help="go on without files that cannot be used")
    group = train.add_argument_group("settings, as in RunSpec and SegmentSpec")
    for name, text in (settings_help() if settings else {}).items():
        group.add_argument(f"--{name.replace('_', '-')}", dest=f"set_{name}", metavar="VALUE",
                           help=text.replace("%", "%%"))  # fmt: skip


def settings_help() -> dict[str, str]:
    """Return {setting: what it is} of both kinds of runs, from the docstrings of their classes."""
    from i2p_lib.runs.named import Named
    from i2p_lib.runs.spec import RunSpec, SegmentSpec
    from i2p_lib.train.settings import ClassifySettings, SegmentSettings, Settings

    texts: dict[str, str] = {}
    for cls in (Settings, ClassifySettings, SegmentSettings, Named, RunSpec, SegmentSpec):
        for found in re.finditer(r"^ {4}(\w[\w, ]*?)  +(\S.*(?:\n {16,}\S.*)*)", cls.__doc__, re.M):
            for name in found[1].split(", "):
                texts.setdefault(name, " ".join(found[2].split()))
    fields = RunSpec.model_fields | SegmentSpec.model_fields
    return {name: texts.get(name, "") for name in fields if name != "teacher"}


def train_one(options: argparse.Namespace) -> int:
    """Train what the options say, or find it, and say how good it is; 2 for a wrong setting."""
    from i2p_lib.runs import run
    from i2p_lib.runs.profiles import read_yaml
    from i2p_lib.runs.spec import RunSpec, SegmentSpec, spec_from

    given: dict[str, Any] = {}
    if options.config:
        given = read_yaml(options.config.read_text(encoding="utf-8-sig")) or {}
        if not isinstance(given, dict):
            raise ValueError(f"{options.config}: expected settings, such as `lr: 0.01`, got "
                             f"{type(given).__name__}")  # fmt: skip
        given = {str(key).replace("-", "_"): value for key, value in given.items()
                 if value is not None}  # fmt: skip
    for name in RunSpec.model_fields | SegmentSpec.model_fields:
        if (text := getattr(options, f"set_{name}", None)) is not None:
            plain = name in ("data", "scenes", "model", "weights", "norms", "regime")
            given[name] = text if plain else read_yaml(text)
    own = {name: given.pop(name, default) if getattr(options, name) is None
           else getattr(options, name) for name, default in OWN.items()}  # fmt: skip
    where = str(options.config or "i2p train")
    try:
        spec_from(with_rate(given), where)  # before the data are read
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if "scenes" in given:
        given["scenes"] = own_scenes(given["scenes"], own)
    else:
        given = with_clouds(given, own)
    spec = spec_from(with_rate(given), where)
    print(f"{spec.label()}\n  learning rate {spec.lr:g}, batches of {spec.batch_size}, voxel size "
          f"{spec.voxel_size or 'of the encoding'}", flush=True)  # fmt: skip
    result = run(spec, device=options.device, folder=options.out)
    print(f"run: {result.folder}")
    if isinstance(spec, SegmentSpec):
        print(scene_report(result))
    else:
        print(report(result.answers, spec, "test"))
    print(f"next: i2p evaluate {_typed(result.folder)}, i2p predict {_typed(result.folder)} FILE")
    return 0


def with_rate(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the usual learning rate of their regime where they set none."""
    from i2p_lib.inflation.regimes import REGIMES

    regime = REGIMES.get(given.get("regime", "all"))
    return {"lr": regime.rate if regime else 1e-3} | dict(given)


def with_clouds(given: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run on clouds, a folder built into a set, its suggestions taken."""
    from i2p_lib.data import dataset_card
    from i2p_lib.models import is_point_model
    from i2p_lib.runs.spec import RunSpec

    model = given.get("model", RunSpec.model_fields["model"].default)
    recipe = {} if is_point_model(model) else {"recipe": "paper"}
    given = {"data": RunSpec.model_fields["data"].default} | recipe | dict(given)
    given["data"] = own_clouds(given["data"], own)
    card = dataset_card(given["data"])
    if card.voxel_size:
        given = {"voxel_size": card.voxel_size, "points": card.points} | given
    return given


def own_clouds(data: str, own: Mapping[str, Any], **more: Any) -> str:
    """Return the name of a set: `data` itself or, of a folder or an .h5 file, what it becomes."""
    from i2p_lib.data import dataset_names
    from i2p_lib.data.making import data_folder
    from i2p_lib.data.own import PointClouds
    from i2p_lib.data.registry import CARD

    path = Path(data).expanduser()
    if data in dataset_names() or (data_folder(data) / CARD).is_file():
        return data
    if not path.exists():
        raise ValueError(f"data set: expected one of {', '.join(dataset_names())}, or a folder or "
                         f".h5 file of your own; there is no {data!r} here")  # fmt: skip
    how = {"center": not own["keep_units"], "unit_sphere": not own["keep_units"],
           "up": own["up"], "skip_bad": own["skip_bad"]} | more  # fmt: skip
    clouds = PointClouds.from_folder(path, **how)
    print(clouds, flush=True)
    return clouds.name


def own_scenes(data: str, own: Mapping[str, Any]) -> str:
    """Return the name of a set of scenes: `data` itself or what a folder of rooms becomes."""
    from i2p_lib.data.own_scenes import Scenes
    from i2p_lib.data.scenes import scene_names

    if data in scene_names() or not Path(data).expanduser().exists():
        return data
    scenes = Scenes.from_folder(data, skip_bad=own["skip_bad"])
    print(scenes, flush=True)
    return scenes.name


def _typed(path: Path) -> str:
    """A path as one types it from here."""
    short = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"'{short}'" if " " in str(short) else str(short)
