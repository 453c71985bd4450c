"""The command `i2p`: reading what people type, and saying in one message what went wrong."""

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from i2p_lib.commands.asking import add_asking
from i2p_lib.commands.inputs import add_inputs
from i2p_lib.commands.training import add_train

EXAMPLES = """examples:
  i2p train --data my_clouds --weights imagenet1k --regime io+bn --out runs/mine
  i2p book                               execute what is missing (demo) and build the pages
  i2p run 03_few_shot --profile smoke    one chapter, in seconds
  i2p status --profile demo              what is done, stale (and why), missing or failed
  i2p results --profile demo -o demo.csv the finished runs as a tidy table
  i2p data list                          the data sets, their licences, where they are looked for
  i2p weights get resnet50               fetch image weights, check their hash
  i2p run --profile paper --experiment rooms   one experiment, such as Table 2 on S3DIS
  i2p run --scheduler tcp://host:8786    train on the workers of a Dask cluster
  i2p doctor                             what this machine has and lacks
  i2p check                              read all that is stored again, list what is damaged
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 where it failed, 2 for wrong words, 130 when stopped."""
    words = sys.argv[1:] if arguments is None else arguments
    parser = build_parser(settings="train" in words)
    options = parser.parse_args(words)
    if "act" not in options:
        parser.print_help()
        return 2
    with suppress(ValueError):  # only the main thread may say what a signal does
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return options.act(options) or 0
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        where = traceback.format_exc() if options.debug else "(--debug shows where)"
        print(f"i2p: {error}\n{where}", file=sys.stderr)
        return 1


def build_parser(settings: bool = True) -> argparse.ArgumentParser:
    """Return the parser of all commands; settings: see `add_commands`."""
    about = "Image2Point, reproduced: train, execute the chapters, build the book."
    as_typed = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser("i2p", description=about, epilog=EXAMPLES, **as_typed)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, act: Callable, text: str, more: str = "") -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, parents=[common],
                                  epilog=more, **as_typed)
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
    book.set_defaults(force=False)
    status = command("status", _status, "say which runs and chapters are done, and why not")
    results = command("results", _results, "write the finished runs of a profile as a CSV table")
    results.add_argument("-o", "--output", type=Path, help="file (default: print)")
    for sub in (run, book, status, results):
        sub.add_argument("--profile", default="demo", help="smoke, demo, gpu, paper ...")
    for sub in (run, book):
        sub.add_argument("--workers", type=_count, help="runs, or chapters, at once")
        sub.add_argument("--scheduler", metavar="ADDRESS", help="train on a Dask cluster")
        sub.add_argument("--timeout", type=int, default=3600, help="seconds for one cell")
    add_inputs(command, _count)
    add_train(command, settings)
    add_asking(command)
    command("doctor", _doctor, "say what this machine has and what is missing")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, got {text!r}")
    return int(text)


def _opened(options: argparse.Namespace):  # noqa: ANN202
    from i2p_lib.book.chapters import Project
    from i2p_lib.runs.profiles import load_profile

    return Project.default(), load_profile(options.profile)


def _run(options: argparse.Namespace) -> None:
    project, profile = _opened(options)
    chapters = project.chapters(options.chapters)
    if options.dry_run:
        from i2p_lib.runs.cost import CostModel
        from i2p_lib.runs.needs import missing_text, plan, plan_text

        print(f"{missing_text(profile)}\n\nmeasuring steps of training ...\n", flush=True)
        costs = CostModel.of(profile.device)
        print(plan_text(profile, plan(profile, costs), costs))
    elif not options.experiment:
        _execute(project, profile, chapters, options)
    elif options.chapters:
        raise ValueError("--experiment executes no chapter: leave one of them out")
    else:
        _train(profile.experiment(options.experiment), profile, options, {})


def _book(options: argparse.Namespace) -> None:
    from i2p_lib.book.build import alone, build_book

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("i2p book is one process: train with torchrun ... run, then call it alone")
    project, profile = _opened(options)
    with alone(project):
        times = _execute(project, profile, project.chapters(), options)
        began = time.perf_counter()
        index, built = build_book(project, profile)
    times["build the pages" if built else "pages unchanged"] = time.perf_counter() - began
    lines = (f"  {name:<28} {seconds:8.1f} s" for name, seconds in times.items())
    print("\nwhere the time went:", *lines, f"\nopen {index}", sep="\n")


def _execute(project, profile, chapters, options) -> dict[str, float]:  # noqa: ANN001
    """Train the runs of chapters, then execute those of whole runs; return times by step."""
    from i2p_lib.book.chapters import Chapter, chapter_state
    from i2p_lib.runs import RunError

    times: dict[str, float] = {}
    found, specs = [], profile.all_specs()  # of a profile of runs alone, such as study
    if profile.chapters:
        found = [Chapter(project, name, profile) for name in chapters]
        specs = [spec for chapter in found for spec in chapter.specs()]
    failed, stale = None, []
    try:
        if not _train(specs, profile, options, times):
            return times
    except RunError as error:
        failed = error
    for chapter in found:
        if why := chapter.lacks():
            print(f"{chapter.name}: not executed, {why}", flush=True)
        elif not options.force and chapter_state(chapter)[0] == "done":
            print(f"{chapter.name}: up to date", flush=True)
        elif failed and {spec for spec, _ in failed.failures} & set(chapter.specs()):
            print(f"{chapter.name}: not executed, a run of it failed", flush=True)
        else:
            stale.append(chapter)
    if stale:
        from i2p_lib.book.notebooks import execute_all

        print(f"chapters: executing {len(stale)} ...", flush=True)
        began = time.perf_counter()
        execute_all(stale, options.timeout, options.workers or profile.workers, lambda one: print(
            f"{one['chapter']}: executed in {one['seconds']:.0f} s", flush=True))
        times[f"execute {len(stale)} chapters"] = time.perf_counter() - began
    if failed:
        raise failed
    return times


def _train(specs, profile, options, times: dict[str, float]) -> bool:  # noqa: ANN001
    """Make simulated scenes, train what is missing, note the times; tell the main process."""
    from i2p_lib.runs import cluster, train_missing
    from i2p_lib.runs.needs import available, prepare, skipped_text
    from i2p_lib.runs.training import undone
    from i2p_lib.train import team

    if options.scheduler:  # one that does not answer is said before any work
        with cluster.connected(options.scheduler):
            pass
    began = time.perf_counter()
    prepare(specs)
    times["simulated scenes"] = time.perf_counter() - began
    began = time.perf_counter()
    entries, skipped = available(dict.fromkeys(specs))
    missing = len(undone(entries)[0])
    with team.joined(profile.device):
        workers = options.workers or profile.workers
        train_missing(entries, workers, True, profile.device, options.scheduler)
        if team.rank() > 0:
            return False
    times[f"train {missing} of {len(entries)} runs"] = time.perf_counter() - began
    print(f"runs: {len(entries) - missing} found, {missing} trained", flush=True)
    if skipped:
        print(skipped_text(skipped), flush=True)
    return True


def _status(options: argparse.Namespace) -> None:
    from i2p_lib import runs
    from i2p_lib.book.chapters import Chapter, chapter_state

    project, profile = _opened(options)
    print(f"profile {profile.name}: {profile.description}")
    table = runs.status(profile.all_specs())
    counts = table["state"].value_counts().to_dict()
    print("runs: " + (", ".join(f"{n} {state}" for state, n in counts.items()) or "none"))
    for (state, why), rows in table.groupby(["state", "why"], sort=False):
        print(f"  {state}" + (f", {why}:" if why else ":"))
        print("".join(f"    {run}\n" for run in rows["run"]), end="")
    print("chapters:")
    for name in project.chapters():
        state, why = chapter_state(Chapter(project, name, profile))
        print(f"  {state:<8} {name}" + (f"   ({why})" if why else ""))


def _results(options: argparse.Namespace) -> None:
    from i2p_lib.runs import finished
    from i2p_lib.runs.store import write_csv

    _, profile = _opened(options)
    specs = profile.all_specs()
    table = finished(specs)
    print(f"{len(table)} of {len(specs)} runs of {profile.name} are done", file=sys.stderr)
    if options.output is None:
        print(table.to_csv(index=False), end="")
    else:
        write_csv(options.output, table)


def _doctor(options: argparse.Namespace) -> int:
    from i2p_lib.doctor import examine

    findings = examine(Path.cwd())
    for mark, what, text in findings:
        print(f"{mark:<5} {what:<16} {text}")
    return int(any(mark == "bad" for mark, _, _ in findings))


if __name__ == "__main__":
    sys.exit(main())
