"""Commands on finished runs: evaluate, predict, compare, export, tensorboard."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from i2p_lib.commands.reports import report, scene_report, share_text
from i2p_lib.commands.training import own_clouds
from i2p_lib.files import write_text

if TYPE_CHECKING:
    from i2p_lib.analysis.answers import Answers
    from i2p_lib.runs import RunResult

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


def add_asking(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands to a parser; `command` adds one, as in `cli.build_parser`."""
    evaluate = command("evaluate", evaluate_run, "say how good a run is, class by class",
                       RUN_EXAMPLES)  # fmt: skip
    evaluate.add_argument("--data", metavar="DATA", help="another set or folder (default: its own)")
    evaluate.add_argument("--split", choices=("train", "val", "test", "all"),
                          help="default: test; of a folder all")
    evaluate.add_argument("--json", metavar="FILE", help="write all of it as JSON (-: print it)")
    predict = command("predict", predict_files, "name clouds, or label the points of rooms",
                      RUN_EXAMPLES)  # fmt: skip
    predict.add_argument("files", nargs="+", metavar="FILE")
    predict.add_argument("--format", choices=("table", "json", "csv"), default="table")
    predict.add_argument("-o", "--output", type=Path, metavar="PATH",
                         help="file (of rooms: folder) to write instead of printing")
    compare = command("compare", compare_runs, "compare two runs on the same test clouds",
                      RUN_EXAMPLES)  # fmt: skip
    export = command("export", export_run, "write a network as one file, with its card",
                     RUN_EXAMPLES)  # fmt: skip
    watch = command("tensorboard", watch_runs, "show runs in TensorBoard, finished or in training",
                    RUN_EXAMPLES)  # fmt: skip
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
    gap, chance, counts = compared(one.answers, other.answers)
    for name, result in (("A", one), ("B", other)):
        share = result.answers.accuracy()
        print(f"{name}  {result.folder}\n   {result.spec.label()}\n   {share_text(share)}; "
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
