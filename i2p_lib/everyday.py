"""The everyday commands: train one thing, evaluate it, ask it, compare, export, watch."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2p_lib.files import write_text

if TYPE_CHECKING:
    import pandas as pd

    from i2p_lib.analysis.answers import Answers
    from i2p_lib.runs import RunResult

TRAIN_EXAMPLES = """examples:
  i2p train --data my_clouds --model resnet18 --weights imagenet1k --regime io+bn --out runs/mine
  i2p train --data my_clouds --weights random --regime all --out runs/scratch
  i2p train --data home_objects --epochs 2 --points 512 --voxel-size 0.1
  i2p train --config mine.yml --lr 0.01 --out runs/other     keys as below, with _ or -
  i2p train --scenes my_rooms --model unet:resnet18 --out runs/rooms

DATA is a set of the book (i2p data list), or a folder with one folder of files for each class.
An interrupted training goes on with the same command, and a finished one is found.
"""
RUN_EXAMPLES = """examples:
  i2p evaluate runs/mine
  i2p evaluate runs/mine --split val --json val.json
  i2p evaluate runs/mine --data other_clouds             all clouds of another folder
  i2p predict runs/mine chair.ply scans/*.pcd
  i2p predict runs/mine chair.ply --format json
  i2p predict runs/rooms office.ply --output labelled    a labelled .ply of each room
  i2p compare runs/mine runs/scratch
  i2p export runs/mine net.safetensors
  i2p tensorboard runs/mine runs/scratch
"""
OWN = {"up": "z", "keep_units": False, "skip_bad": False}
"""How a folder of your own is read, and the defaults."""


def add_commands(command: Callable[..., argparse.ArgumentParser], settings: bool) -> None:
    """Add the everyday commands to a parser; `command` adds one, as in `cli.build_parser`.

    settings: whether `train` gets an option for each setting, which loads torch.
    """
    as_typed = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    train = command("train", train_one, "train one network on one set", epilog=TRAIN_EXAMPLES,
                    **as_typed)  # fmt: skip
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
    evaluate = command("evaluate", evaluate_run, "say how good a run is, class by class",
                       epilog=RUN_EXAMPLES, **as_typed)  # fmt: skip
    evaluate.add_argument("--data", metavar="DATA", help="another set or folder (default: its own)")
    evaluate.add_argument("--split", choices=("train", "val", "test", "all"),
                          help="default: test; of a folder all")
    evaluate.add_argument("--json", metavar="FILE", help="write all of it as JSON (-: print it)")
    predict = command("predict", predict_files, "name clouds, or label the points of rooms",
                      epilog=RUN_EXAMPLES, **as_typed)  # fmt: skip
    predict.add_argument("files", nargs="+", metavar="FILE")
    predict.add_argument("--format", choices=("table", "json", "csv"), default="table")
    predict.add_argument("-o", "--output", type=Path, metavar="PATH",
                         help="file (of rooms: folder) to write instead of printing")
    compare = command("compare", compare_runs, "compare two runs on the same test clouds",
                      epilog=RUN_EXAMPLES, **as_typed)  # fmt: skip
    export = command("export", export_run, "write a network as one file, with its card",
                     epilog=RUN_EXAMPLES, **as_typed)  # fmt: skip
    watch = command("tensorboard", watch_runs, "show runs in TensorBoard, finished or in training",
                    epilog=RUN_EXAMPLES, **as_typed)  # fmt: skip
    for sub in (evaluate, predict, export):
        sub.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
        sub.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    predict._actions.sort(key=lambda action: action.dest == "files")  # RUN comes first
    compare.add_argument("run", type=Path, metavar="A")
    compare.add_argument("other", type=Path, metavar="B")
    export.add_argument("file", type=Path, metavar="FILE", help="NAME.safetensors")
    watch.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    watch.add_argument("--port", type=int, default=6006)
    watch.add_argument("--write-only", action="store_true",
                       help="write the event files and start no server")


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


def train_one(options: argparse.Namespace) -> None:
    """Train what the options say, or find it, and say how good it is."""
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
        print(report(result.answers(), spec, "test"))
    print(f"next: i2p evaluate {_typed(result.folder)}, i2p predict {_typed(result.folder)} FILE")


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
    from i2p_lib.data.own import PointClouds

    path = Path(data).expanduser()
    if data in dataset_names() or not path.exists():
        return data
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


def evaluate_run(options: argparse.Namespace) -> None:
    """Say how good a run is on a split of its data, or on other data."""
    result = opened(options.run)
    if "scenes" in type(result.spec).model_fields:
        if options.data or options.split not in (None, "test"):
            raise ValueError("a run on scenes is evaluated on its own test split")
        print(scene_report(result))
        return
    split = options.split or ("all" if options.data and Path(options.data).exists() else "test")
    answers = answers_about(result, options.data, split, options.device)
    record = {"run": str(result.folder), "data": options.data or result.spec.data, "split": split}
    text = json.dumps(record | answers.record(), indent=1, ensure_ascii=False) + "\n"
    if options.json == "-":
        print(text, end="")
        return
    if options.json:
        write_text(options.json, text)
    print(report(answers, result.spec, split))


def answers_about(result: RunResult, data: str | None, split: str, device: str) -> Answers:
    """Return what a run's network answers about a split of its data, or of others.

    Other data must have some of the classes that the run knows, by their names.
    """
    import torch

    from i2p_lib.data.registry import cloud_names, dataset_card, load_dataset
    from i2p_lib.runs.execute import resolve_device
    from i2p_lib.train.clouds import Split

    net = result.net.to(resolve_device(device))
    reads, name = net.i2p_reads, result.spec.data
    if data is not None:
        card = reads.card
        own = {"up": card.source_up or "z", "skip_bad": True, "keep_units": False}
        how = ("points", "center", "unit_sphere", "features")
        name = own_clouds(data, own, **{key: getattr(card, key) for key in how})
    files = [one for one in ("train", "val", "test") if split in (one, "all")]
    files = [one for one in files if dataset_card(name).splits.get(one, 1) or one == split]
    parts = [load_dataset(name, one) for one in files]
    if odd := set(parts[0].class_names) - set(reads.class_names):
        raise ValueError(f"{name}: expected the classes {', '.join(reads.class_names)}, or some of "
                         f"them, got {', '.join(sorted(odd))} as well")  # fmt: skip
    numbers = torch.tensor([reads.class_names.index(one) for one in parts[0].class_names])
    points = torch.cat([torch.tensor(part.points[:, : reads.points]) for part in parts])
    labels = torch.cat([numbers[torch.tensor(part.labels)] for part in parts])
    names = [one for file in files for one in cloud_names(name, file)]
    return reads.answers(net, Split(points.to(next(net.parameters()).device), labels), names)


def predict_files(options: argparse.Namespace) -> None:
    """Name clouds or, with a run on scenes, write their points with labels."""
    from i2p_lib.train.reading import predict

    result = opened(options.run)
    if "scenes" in type(result.spec).model_fields:
        from i2p_lib.train.labelling import label_files

        for path, counts in label_files(result.net, options.files, options.output or Path(".")):
            shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in counts.items())
            print(f"{path}: {shares}", flush=True)
        return
    from i2p_lib.runs.execute import resolve_device

    net = result.net.to(resolve_device(options.device))
    table = predict(net, options.files, progress=len(options.files) > 20)
    if options.format == "json":
        text = table.to_json(orient="records", indent=1, force_ascii=False) + "\n"
    elif options.format == "csv":
        text = table.to_csv(index=False)
    else:
        text = table.to_string(index=False, float_format="{:.3f}".format) + "\n"
    print(text, end="") if options.output is None else write_text(options.output, text)


def compare_runs(options: argparse.Namespace) -> None:
    """Say which of two runs is better on the test clouds that both were asked about."""
    from i2p_lib.analysis.answers import compared

    one, other = (opened(folder) for folder in (options.run, options.other))
    for result in (one, other):
        if "scenes" in type(result.spec).model_fields:
            raise ValueError(f"{result.folder}: expected a run on clouds, got one on scenes, whose "
                             "few scenes tell two networks apart by luck: use i2p evaluate")
    gap, chance, counts = compared(one.answers(), other.answers())
    for name, result in (("A", one), ("B", other)):
        share = result.answers().accuracy()
        print(f"{name}  {result.folder}\n   {result.spec.label()}\n   {_share(share)}; "
              f"{result.metrics['parameters_trained']:,} of {result.metrics['parameters']:,} "
              f"parameters trained in {result.metrics['seconds_training']:.0f} s")  # fmt: skip
    print(f"A - B: {100 * gap.value:+.1f} points ({100 * gap.low:+.1f} to {100 * gap.high:+.1f}, "
          f"95 %), on {counts.sum()} clouds\n"
          f"both right {counts[0, 0]}, A alone {counts[0, 1]}, B alone {counts[1, 0]}, neither "
          f"{counts[1, 1]}; McNemar's exact p = {chance:.3g}\n"
          "This is about these two networks; other seeds may differ.")  # fmt: skip


def export_run(options: argparse.Namespace) -> None:
    """Write the whole network of a run, with a card beside it."""
    from i2p_lib.runs.export import export

    print("\n".join(map(str, export(opened(options.run), options.file))))


def watch_runs(options: argparse.Namespace) -> None:
    """Write the event files of runs and serve them until interrupted."""
    from i2p_lib.show.events import serve, write_events

    if options.write_only:
        for folder in options.runs:
            print(write_events(folder))
    else:
        serve(options.runs, options.port)


def opened(folder: Path) -> RunResult:
    """Open the run of a folder."""
    from i2p_lib.runs import load_run

    return load_run(folder)


def report(answers: Answers, spec: Any, split: str) -> str:
    """Return accuracy, classes and confusions as text."""
    share, table = answers.accuracy(), answers.per_class()
    lines = [f"{split}: {_share(share)}", "", _classes(table)]
    if len(answers.class_names) <= 20:
        counts = answers.confusion()
        short = [name[:10] for name in answers.class_names]
        lines += ["", "labels in rows, answers in columns:",
                  counts.set_axis(short, axis=1).to_string()]  # fmt: skip
    return "\n".join(lines)


def scene_report(result: RunResult) -> str:
    """Return mIoU, accuracy and the IoU of each class as text."""
    import numpy as np

    counts = result.confusion().to_numpy()
    union = counts.sum(0) + counts.sum(1) - np.diag(counts)
    metrics = result.metrics
    lines = [f"test: mIoU {100 * metrics['miou']:.1f} %, points named rightly "
             f"{100 * metrics['accuracy']:.1f} %, on {metrics['n_test']} scenes"]  # fmt: skip
    for name, hit, either in zip(result.class_names, np.diag(counts), union, strict=False):
        share = f"{100 * hit / either:5.1f} %" if either else "      -"
        lines.append(f"  {name:<20} IoU {share}")
    return "\n".join(lines)


def _classes(table: pd.DataFrame) -> str:
    lines = []
    for row in table.itertuples():
        low, high = 100 * row.low, 100 * row.high
        share = f"{100 * row.accuracy:5.1f} % ({low:.0f} to {high:.0f})" if row.clouds else "-"
        other = f", else mostly {row.taken_for}" if row.taken_for else ""
        lines.append(f"  {row[1]:<20} {row.right:>4} of {row.clouds:<4} {share}{other}")
    return "\n".join(lines)


def _share(share: Any) -> str:
    return (f"{100 * share.value:.1f} % of clouds named rightly ({100 * share.low:.1f} to "
            f"{100 * share.high:.1f}, 95 %)")  # fmt: skip


def _typed(path: Path) -> str:
    """A path as one types it from here."""
    short = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"'{short}'" if " " in str(short) else str(short)
