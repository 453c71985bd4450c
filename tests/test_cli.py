"""`i2p` says in one readable message what went wrong, and its exit code tells scripts."""

import subprocess
import sys
from pathlib import Path

import pytest

from i2p_lib import cli
from i2p_lib.book.chapters import Chapter


def test_help_lists_every_command_with_examples(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for command in ("run", "book", "status", "data", "weights", "doctor"):
        assert f"\n    {command} " in text
    assert "examples:" in text


def test_no_command_is_answered_with_the_help(capsys: pytest.CaptureFixture) -> None:
    assert cli.main([]) == 2
    assert "commands" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["status", "--profile", "smok"], "did you mean 'smoke'"),
        (["run", "03_fewshot", "--profile", "smoke"], "did you mean '03_few_shot'"),
        (["data", "check", "modelnet4"], "did you mean 'modelnet40'"),
        (["data", "check"], "known are home_objects"),
        (["weights", "check", "resnet5"], "resnet50"),
        (["weights", "get"], "name an image model"),
        (["data", "get", "kicad_parts"], "build_kicad_parts.py"),
        (["data", "check", "s3dis"], "i2p data get s3dis --from FOLDER"),
        (["data", "get", "modelnet40", "--from", "no.zip"], "no.zip: expected a file"),
    ],
)
def test_an_error_is_one_message_without_a_traceback(
    words: list[str], message: str, capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("I2P_DATA", str(tmp_path))
    assert cli.main(words) == 1
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["status", "--profile", "smok", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_unknown_command_is_refused() -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["rnu"])
    assert stop.value.code == 2


@pytest.mark.parametrize("words", [["run"], ["book"], ["data", "get", "home_objects"]])
@pytest.mark.parametrize("number", ["-3", "0", "many"])
def test_a_number_of_workers_below_one_is_refused(
    words: list[str], number: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, f"--workers={number}"])
    assert stop.value.code == 2
    assert f"expected a number of 1 or more, got '{number}'" in capsys.readouterr().err


def test_a_chapter_is_executed_with_the_profile_whose_runs_were_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: a profile given by its path is not the book's profile of that name."""
    given: list[dict] = []

    def execute(chapter: Chapter, *_: object) -> dict:
        given.append(chapter.parameters)
        return {"chapter": chapter.name, "seconds": 0.0}

    monkeypatch.setenv("I2P_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr("i2p_lib.book.notebooks.execute", execute)
    path = tmp_path / "smoke.yml"
    path.write_text("experiments: {}\nchapters: {00_method: []}\n")
    assert cli.main(["run", "0", "--profile", str(path)]) == 0
    assert given == [{"profile": str(path)}]


def test_being_stopped_by_hand_is_no_error_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_doctor", interrupted)
    assert cli.main(["doctor"]) == 130
    assert "goes on from here" in capsys.readouterr().err


def test_status_says_what_is_missing(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("I2P_BUILD", str(tmp_path))
    monkeypatch.setenv("I2P_RUNS", str(tmp_path / "runs"))
    assert cli.main(["status", "--profile", "smoke"]) == 0
    text = capsys.readouterr().out
    assert "missing  03_few_shot   (never executed)" in text
    assert "missing, never run:" in text


def test_the_embedded_data_and_weights_are_good(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["data", "check", "home_objects"]) == 0
    assert cli.main(["weights", "check", "efficientnet_lite0"]) == 0
    assert cli.main(["data", "list"]) == 0
    text = capsys.readouterr().out
    assert text.count("good") == 2 and "licence: CC0-1.0" in text


def test_doctor_names_everything_and_finds_nothing_bad_here(
    capsys: pytest.CaptureFixture,
) -> None:
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    for word in ("python", "torch", "torchvision", "processor", "memory", "GPU", "home_objects"):
        assert word in text


def test_the_command_starts_quickly_without_torch() -> None:
    code = "import sys, i2p_lib.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
