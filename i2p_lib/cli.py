"""The command `i2p`: reading what people type, and saying in one message what went wrong."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

EXAMPLES = """examples:
  i2p book                               execute what is missing (demo) and build the pages
  i2p run 03_few_shot --profile smoke    one chapter, in seconds
  i2p status --profile demo              what is done, stale (and why), missing or failed
  i2p results --profile demo -o demo.csv the finished runs as a tidy table
  i2p data list                          the data sets, their licences, where they are looked for
  i2p weights get resnet50               fetch image weights, check their hash
  i2p run --profile paper --experiment rooms   one experiment, such as Table 2 on S3DIS
  i2p run --scheduler tcp://host:8786    train on the workers of a Dask cluster
  i2p doctor                             what this machine has and lacks
"""
DATA_EXAMPLES = """examples:
  i2p data list                          each set: source, licence, size, whether it is here
  i2p data check home_objects            its hash
  i2p data get simulated_rooms           generate rooms in S3DIS's form, about a minute
  i2p data get modelnet40                fetch 435 MB; an interrupted download goes on
  i2p data get s3dis --from FOLDER       convert the official folder, with 4 processes:
                         --workers 4

Sets go to $I2P_DATA, else to data_cache in the project.
"""
WEIGHT_EXAMPLES = """examples:
  i2p weights list                       each file: present, absent or never released; licence
  i2p weights get resnet50               its ImageNet-1k weights; an interrupted download goes on
  i2p weights get resnet50:imagenet21k   other weights of the same model
  i2p weights check efficientnet_lite0   its hash, and whether every tensor fits the model

Files go to $I2P_WEIGHTS, else to torch hub's checkpoint folder.
"""


class Complaint(Exception):
    """What the reader must know and can mend; shown without a traceback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 where it failed, 2 for wrong words, 130 when interrupted."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if "act" not in options:
        parser.print_help()
        return 2
    try:
        return options.act(options)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Complaint, ValueError, OSError, RuntimeError, ImportError) as error:
        if options.debug:
            traceback.print_exc()
        print(f"i2p: {error}", file=sys.stderr)
        if not options.debug:
            print("(--debug shows where)", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="i2p",
        description="Image2Point, reproduced: train, execute the chapters, build the book.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(debug=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, act: Callable, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, parents=[common])
        sub.set_defaults(act=act)
        return sub

    run = command("run", _run, "train what is missing, then execute chapters")
    run.add_argument("chapters", nargs="*", metavar="CHAPTER", help="such as 03_few_shot, or 3")
    run.add_argument("--force", action="store_true", help="execute what is up to date as well")
    run.add_argument("--experiment", metavar="NAME",
                     help="train this experiment of the profile alone, execute no chapter")
    run.add_argument("--dry-run", action="store_true",
                     help="print the plan of the whole profile: runs, what they lack, their cost")
    book = command("book", _book, "execute what is missing or stale, and build the HTML")
    status = command("status", _status, "say which runs and chapters are done, and why not")
    results = command("results", _results, "write the finished runs of a profile as a CSV table")
    results.add_argument("-o", "--output", type=Path, help="file (default: print)")
    for sub in (run, book, status, results):
        sub.add_argument("--profile", default="demo", help="smoke, demo, gpu, paper, tuning ...")
    for sub in (run, book):
        sub.add_argument("--workers", type=int, help="training processes (default: by profile)")
        sub.add_argument("--scheduler", metavar="ADDRESS", help="train on a Dask cluster")
        sub.add_argument("--timeout", type=int, default=3600, help="seconds for one cell")
    data = command("data", _data, "data sets: list, get, check")
    _store_parser(data, "a data set", "NAME", DATA_EXAMPLES)
    data.add_argument("--from", dest="source", type=Path, metavar="PATH",
                      help="get: the official folder of s3dis and semantic_kitti, or the zip file "
                      "of modelnet40")
    data.add_argument("--part", action="store_true",
                      help="get: take a part of the set, or others in its layout")
    data.add_argument("--workers", type=int, default=1, help="get: processes (default: 1)")
    weights = command("weights", _weights, "image weights: list, get, check")
    _store_parser(weights, "an image model and its weights", "MODEL[:WEIGHTS]", WEIGHT_EXAMPLES)
    command("doctor", _doctor, "say what this machine has and what is missing")
    return parser


def _store_parser(
    parser: argparse.ArgumentParser, what: str, metavar: str, examples: str
) -> None:
    parser.add_argument("action", choices=("list", "get", "check"))
    parser.add_argument("name", nargs="?", metavar=metavar, help=f"{what}, for get and check")
    parser.epilog = examples
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def _run(options: argparse.Namespace) -> int:
    from i2p_lib.book.chapters import Project

    project = Project.default()
    profile = project.profile(options.profile)
    chapters = project.chapters(options.chapters)
    if options.dry_run:
        return _dry_run(profile)
    if options.experiment:
        if options.chapters:
            raise Complaint("--experiment executes no chapter: leave one of them out")
        _train(profile.experiment(options.experiment), profile, options, {})
        return 0
    _execute(project, profile, chapters, options, options.force)
    return 0


def _dry_run(profile) -> int:  # noqa: ANN001
    from i2p_lib.runs.cost import CostModel
    from i2p_lib.runs.plan import plan, plan_text

    costs = CostModel.of(profile.device)
    print(plan_text(profile, plan(profile, costs), costs))
    return 0


def _book(options: argparse.Namespace) -> int:
    from i2p_lib.book.build import build_book
    from i2p_lib.book.chapters import Project

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise Complaint("i2p book is one process: train with torchrun ... run, then call it alone")
    project = Project.default()
    profile = project.profile(options.profile)
    times = _execute(project, profile, project.chapters(), options, force=False)
    began = time.perf_counter()
    index, built = build_book(project, profile)
    times["build the pages" if built else "pages unchanged"] = time.perf_counter() - began
    print("\nwhere the time went:")
    for name, seconds in times.items():
        print(f"  {name:<28} {seconds:8.1f} s")
    print(f"\nopen {index}")
    return 0


def _execute(project, profile, chapters, options, force: bool) -> dict[str, float]:  # noqa: ANN001
    """Train the runs of the chapters, then execute them; return the seconds of each step.

    Of processes that train together, the main one alone executes.
    """
    from i2p_lib.book.chapters import Chapter, chapter_state
    from i2p_lib.book.notebooks import execute

    parameters = {"profile": profile.name}
    times = {}
    if profile.chapters:
        found = [Chapter.of(project, name, profile) for name in chapters]
        specs = [spec for chapter in found for spec in chapter.specs()]
    else:  # a profile of runs alone, such as tuning
        found, specs = [], profile.all_specs()
    if not _train(specs, profile, options, times):
        return times
    for chapter in found:
        if why := chapter.lacks():
            print(f"{chapter.name}: not executed, {why}", flush=True)
            continue
        if not force and chapter_state(chapter, parameters)[0] == "done":
            print(f"{chapter.name}: up to date", flush=True)
            continue
        print(f"{chapter.name}: executing ...", flush=True)
        record = execute(chapter, parameters, project.root, options.timeout)
        times[chapter.name] = record["seconds"]
        print(f"{chapter.name}: executed in {record['seconds']:.0f} s", flush=True)
    return times


def _train(specs, profile, options, times: dict[str, float]) -> bool:  # noqa: ANN001
    """Make simulated scenes, train what is missing, and note the times; tell the main process."""
    from i2p_lib import runs
    from i2p_lib.runs.needs import available, prepare, skipped_text
    from i2p_lib.train import team as distributed

    began = time.perf_counter()
    prepare(specs)
    times["simulated scenes"] = time.perf_counter() - began
    began = time.perf_counter()
    entries, skipped = available(list({spec.key_fields(): spec for spec in specs}.values()))
    workers = options.workers or profile.workers
    missing = sum(not entry.done() for entry in entries)
    with distributed.joined(profile.device):
        runs.train_missing(entries, workers, True, profile.device, options.scheduler)
        others = distributed.rank() > 0
    if others:
        return False
    times[f"train {missing} of {len(entries)} runs"] = time.perf_counter() - began
    print(f"runs: {len(entries) - missing} found, {missing} trained", flush=True)
    if skipped:
        print(skipped_text(skipped), flush=True)
    return True


def _status(options: argparse.Namespace) -> int:
    from i2p_lib import runs
    from i2p_lib.book.chapters import Chapter, Project, chapter_state

    project = Project.default()
    profile = project.profile(options.profile)
    print(f"profile {profile.name}: {profile.description}")
    table = runs.status(profile.all_specs())
    counts = table["state"].value_counts().to_dict()
    print("runs: " + (", ".join(f"{n} {state}" for state, n in counts.items()) or "none"))
    for (state, why), rows in table.groupby(["state", "why"], sort=False):
        print(f"  {state}" + (f", {why}:" if why else ":"))
        print("".join(f"    {run}\n" for run in rows["run"]), end="")
    print("chapters:")
    for name in project.chapters():
        chapter = Chapter.of(project, name, profile)
        state, why = chapter_state(chapter, {"profile": profile.name})
        print(f"  {state:<8} {name}" + (f"   ({why})" if why else ""))
    return 0


def _results(options: argparse.Namespace) -> int:
    from i2p_lib import runs
    from i2p_lib.book.chapters import Project
    from i2p_lib.files import atomic_write
    from i2p_lib.runs.store import Entry

    profile = Project.default().profile(options.profile)
    specs = profile.all_specs()
    table = runs.status(specs)
    entries = [
        Entry.of(spec)
        for spec, state in zip(specs, table["state"], strict=True)
        if state == "done"
    ]
    print(f"{len(entries)} of {len(specs)} runs of {profile.name} are done", file=sys.stderr)
    table = runs.results([runs.RunResult.load(entry) for entry in entries])
    states = [entry.state() for entry in entries]
    table["hardware"] = [_hardware(state) for state in states]
    table["backend"] = [state.get("backend", "torch") for state in states]
    table["torch"] = [state["versions"]["torch"] for state in states]
    table["finished"] = [state["finished"][:10] for state in states]
    text = table.to_csv(index=False)
    if options.output is None:
        print(text, end="")
        return 0
    with atomic_write(options.output) as temp:
        temp.write_text(text, encoding="utf-8")
    return 0


def _hardware(state: dict) -> str:
    """Return what a run was trained on, as its record says; older records say less."""
    machine = state["machine"]
    name = machine.get("gpu" if state["device"] == "cuda" else "processor", "")
    processes = state.get("processes", 1)
    together = "" if processes == 1 else f"{processes} processes, the first on "
    return f"{together}{name or state['device']}, {machine['cores']} cores"


def _data(options: argparse.Namespace) -> int:
    from i2p_lib.data import dataset_hash, dataset_names, dataset_root
    from i2p_lib.data.scenes import describe_scenes, scene_hash, scene_names, scene_root

    if options.action == "list":
        print("\n".join(_data_lines()))
        return 0
    name = _known(options, (*dataset_names(), *scene_names()), "data set")
    if options.action == "get":
        _get_data(name, options)
    if name in scene_names():
        print(f"{name}: good, {scene_root(name)}\n  sha256 {scene_hash(name)}")
        print(textwrap.indent(describe_scenes(name), "  "))
    else:
        print(f"{name}: good, {dataset_root(name)}\n  sha256 {dataset_hash(name)}")
    return 0


def _data_lines() -> Iterator[str]:
    from i2p_lib.data import dataset_card, dataset_names, dataset_root
    from i2p_lib.data.scenes import scene_card, scene_names, scene_root

    for name in dataset_names():
        card = dataset_card(name)
        there = "present" if dataset_root(name).is_dir() else "absent"
        yield f"{name}: {card.title} [{there}]"
        yield f"  {card.classes} classes, {card.splits}, {card.size_mb:g} MB"
        yield f"  source: {card.source}\n  licence: {card.licence}"
    for name in scene_names():
        card = scene_card(name)
        there = "present" if (scene_root(name) / "manifest.json").is_file() else "absent"
        yield f"{name}: {card.title} [{there}]"
        yield f"  {len(card.class_names)} classes, {1000 * card.size_gb:g} MB; to get it: " + (
            card.how_to_get
        )
        yield "".join(f"  {split}: {what}\n" for split, what in card.splits.items()) + (
            f"  source: {card.source}\n  licence: {card.licence}"
        )


def _get_data(name: str, options: argparse.Namespace) -> None:
    """Fetch, generate or convert a data set, or say what to do."""
    from i2p_lib.data.get import get_data

    get_data(name, options.source, options.part, options.workers)


def _weights(options: argparse.Namespace) -> int:
    from i2p_lib import weights

    if options.action == "list":
        for card in weights.weight_cards():
            how = f"i2p weights get {card.label}" if card.url else card.how_to_get
            print(f"{card.label} [{weight_presence(card.model, card.weights)}]")
            print(f"  {card.pretraining}; size: {card.size_text}; licence: {card.licence}")
            print(f"  source: {card.source}\n  to get it: {how}")
        return 0
    if not options.name:
        raise Complaint(
            f"i2p weights {options.action}: name an image model, such as resnet50, "
            "or resnet50:fractaldb1k; i2p weights list shows all"
        )
    model, _, name = options.name.partition(":")
    card = weights.weight_card(model, name or "imagenet1k")
    act = weights.fetch_weights if options.action == "get" else weights.check_weights
    path = act(card.model, card.weights)
    tensors = ""
    if card.network == "image":
        report = weights.image_model(card.model, card.weights).i2p_transfer
        counts = report.table["state"].value_counts().to_dict()
        tensors = "\n  tensors: " + ", ".join(f"{n} {state}" for state, n in counts.items())
    print(f"{card.label}: good, {path}")
    digest = weights.weights_hash(card.model, card.weights)
    print(f"  sha256 {digest} (published: {card.hash_text}){tensors}")
    return 0


def weight_presence(model: str, weights: str = "imagenet1k") -> str:
    """Return "present", "absent", "never released", or what is wrong with the file."""
    from i2p_lib.weights import check_weights, weight_card

    try:
        check_weights(model, weights)
    except FileNotFoundError:
        return "absent" if weight_card(model, weights).released else "never released"
    except ValueError as error:
        return f"damaged: {error}"
    return "present"


def _known(options: argparse.Namespace, known: Sequence[str], what: str) -> str:
    from i2p_lib.train.settings import unknown_key

    if not options.name:
        raise Complaint(f"i2p {options.action}: name a {what}; known are {', '.join(known)}")
    if options.name not in known:
        raise Complaint(unknown_key(options.name, tuple(known), what))
    return options.name


def _doctor(options: argparse.Namespace) -> int:
    from i2p_lib.doctor import examine

    findings = examine(Path.cwd())
    for finding in findings:
        print(f"{finding.mark:<5} {finding.what:<16} {finding.text}")
    return 1 if any(finding.mark == "bad" for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
