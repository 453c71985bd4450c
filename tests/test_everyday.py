"""The everyday commands and functions, as the README types them, and what they refuse."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
import yaml
from safetensors import safe_open
from torch import nn

import i2p_lib as i2p
from i2p_lib.analysis.answers import Answers, compared
from i2p_lib.cli import main
from i2p_lib.data.own import PointClouds
from i2p_lib.runs.spec import RunSpec, SegmentSpec
from i2p_lib.show.events import EVENTS, write_events

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ORIGINAL = (ROOT / "book" / "coming_from_the_original.md").read_text(encoding="utf-8")


def block(text: str, language: str, mark: str) -> str:
    """The code block of a language that has a mark in it."""
    blocks = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    return next(one for one in blocks if mark in one)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's lines were typed, with data and runs of its own."""
    folder = tmp_path_factory.mktemp("everyday")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("I2P_DATA", str(folder / "data"))
        patch.setenv("I2P_RUNS", str(folder / "store"))
        patch.chdir(folder)
        lines = block(README, "bash", "i2p train").strip().splitlines()
        for line in lines:
            program, *words = shlex.split(line)
            if program == "python":
                script, *words = words
                subprocess.run([sys.executable, ROOT / script, *words], check=True)
            else:
                assert program == "i2p" and main(words) == 0, line
        yield folder


def test_the_lines_of_the_readme_train_evaluate_compare_predict_and_export(
    place: Path, capfd: pytest.CaptureFixture
) -> None:
    for run in ("mine", "scratch"):
        found = i2p.load_run(place / "runs" / run)
        assert found.class_names == ("A", "B", "C") and len(found.history) == 3
        assert found.confusion().to_numpy().sum() == found.metrics["n_test"] == 12
        assert len(found.errors()) == 12 - found.answers.hits.sum()
    assert main(["evaluate", "runs/mine", "--json", "answers.json"]) == 0
    said = json.loads((place / "answers.json").read_text())
    assert said["accuracy"] == pytest.approx(i2p.load_run("runs/mine").metrics["top1"])
    assert {"low", "high", "per_class", "confusion", "errors"} <= said.keys()
    assert (place / "net.md").read_text().startswith("# net")


def test_the_python_of_the_readme_runs_as_it_stands(
    place: Path, capsys: pytest.CaptureFixture
) -> None:
    exec(block(README, "python", "i2p.fit"), {})
    assert "STIXGeneral.ply" in capsys.readouterr().out


def test_a_network_that_is_exported_answers_as_the_run_did(place: Path) -> None:
    result = i2p.load_run(place / "runs" / "mine")
    with safe_open(place / "net.safetensors", "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}
        note = json.loads(file.metadata()["note"])
    assert note["class_names"] == ["A", "B", "C"] and RunSpec(**note["spec"]) == result.spec
    net = result.network()
    for tensor in net.state_dict().values():
        tensor.zero_()
    net.load_state_dict(state)
    net.i2p_reads = result.net.i2p_reads
    files = sorted((place / "my_letters" / "test" / "B").iterdir())
    pd.testing.assert_frame_equal(i2p.predict(net, files), i2p.predict(result.net, files))


@pytest.mark.parametrize(("file", "why"), [("a.onnx", "ONNX has no operator"),
                                           ("a.pt", "TorchScript"), ("a.txt", "not known here")])
def test_what_cannot_be_exported_is_said_in_a_sentence(
    file: str, why: str, place: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["export", "runs/mine", file]) == 1
    assert why in capsys.readouterr().err


def test_a_finished_run_is_found_and_another_one_does_not_take_its_folder(
    place: Path, capsys: pytest.CaptureFixture
) -> None:
    train = shlex.split(block(README, "bash", "i2p train").splitlines()[1])[1:]
    before = (place / "runs" / "mine" / "state.json").read_bytes()
    assert main(train) == 0
    assert (place / "runs" / "mine" / "state.json").read_bytes() == before
    assert main([*train, "--lr", "0.01"]) == 1
    assert "holds another run (lr 0.03 there, 0.01 here)" in capsys.readouterr().err
    (place / "mine only").mkdir()
    (place / "mine only" / "notes.txt").write_text("x")
    assert main([*train[:-1], "mine only"]) == 1
    assert "got other files" in capsys.readouterr().err


def test_a_config_file_says_what_options_say(place: Path) -> None:
    train = shlex.split(block(README, "bash", "i2p train").splitlines()[1])[1:]
    (place / "mine.yml").write_text("data: my_letters\nskip-bad: true\nweights: imagenet1k\n"
                                    "regime: io+bn\nepochs: 9\n")  # fmt: skip
    assert main(["train", "--config", "mine.yml", "--epochs", "3", *train[-2:]]) == 0


def test_predictions_come_as_table_json_and_csv(
    place: Path, capsys: pytest.CaptureFixture
) -> None:
    files = ["my_letters/test/A/STIXGeneral.ply", "my_letters/test/B/STIXGeneral.ply"]
    assert main(["predict", "runs/mine", *files, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["cloud"] for row in rows] == files
    assert sum(rows[0][name] for name in "ABC") == pytest.approx(1, abs=1e-5)
    assert main(["predict", "runs/mine", *files, "--format", "csv", "-o", "named.csv"]) == 0
    assert pd.read_csv(place / "named.csv")["answer"].tolist() == [r["answer"] for r in rows]
    assert main(["predict", "runs/mine", "my_letters/train/A/cut short.off", "none.ply"]) == 1
    assert "none.ply: expected a file of a cloud" in capsys.readouterr().err


def test_other_clouds_are_evaluated_by_the_names_of_their_classes(
    place: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["evaluate", "runs/mine", "--data", "my_letters/test"]) == 0
    assert "all: " in (said := capsys.readouterr().out) and "4 of 4" in said or "of 4" in said
    (place / "others" / "Z").mkdir(parents=True)
    for letter in "AZ":
        (place / "others" / letter).mkdir(exist_ok=True)
        for number in range(3):
            points = np.random.default_rng([number, ord(letter)]).normal(size=(50, 3))
            np.save(place / "others" / letter / f"{number}.npy", points)
    assert main(["evaluate", "runs/mine", "--data", "others"]) == 1
    assert "expected the classes A, B, C, or some of them, got Z" in capsys.readouterr().err


def test_event_files_hold_the_history_the_classes_and_some_clouds(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # written anew, not twice
        write_events(place / "runs" / "mine")
    events = EventAccumulator(str(place / "runs" / "mine" / EVENTS)).Reload()
    result = i2p.load_run(place / "runs" / "mine")
    losses = [event.value for event in events.Scalars("train/loss")]
    np.testing.assert_allclose(losses, result.history["train_loss"], rtol=1e-6)
    assert events.Tags()["images"] == ["test clouds"]
    assert {tag.partition("/")[0] for tag in events.Tags()["tensors"]} == {"classes", "settings"}
    monkeypatch.setenv("I2P_DATA", str(place / "elsewhere"))  # the clouds are not here
    assert list(write_events(place / "runs" / "mine").glob("events.*"))


@pytest.mark.parametrize(("words", "status", "said"), [
    (["train", "--data", "nothing_here"], 1, "data set: expected one of"),
    (["train", "--regime", "half"], 2, "regime: Input should be 'io'"),
    (["train", "--data", "my_letters", "--epochs", "-1"], 2, "epochs: Input should be greater"),
    (["train", "--voxelsize", "1"], 2, "unrecognized arguments: --voxelsize"),
    (["evaluate", "no_such_run"], 1, "expected the folder of a run"),
    (["predict", "runs/mine"], 2, "required: FILE"),
])  # fmt: skip
def test_what_is_typed_wrongly_is_told_with_its_exit_status(
    words: list[str], status: int, said: str, place: Path, capsys: pytest.CaptureFixture
) -> None:
    try:
        got = main(words)
    except SystemExit as end:
        got = end.code
    assert got == status and said in capsys.readouterr().err


@pytest.mark.parametrize("make", ["checkpoint", "timm", "own"])
def test_fit_takes_a_tuned_checkpoint_a_timm_name_and_an_own_network(
    make: str, place: Path
) -> None:
    clouds = PointClouds.from_folder(place / "my_letters", points=64, skip_bad=True,
                                     progress=False)  # fmt: skip
    if make == "checkpoint":
        tuned = torchvision.models.resnet18(num_classes=7)
        torch.save({"model": tuned.state_dict(), "epoch": 3}, place / "tuned.pth")
        net2d = i2p.image_model("resnet18", weights=str(place / "tuned.pth"))
    elif make == "timm":
        net2d = i2p.image_model("mobilenetv3_small_050")
    else:
        net2d = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
                              nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    net = i2p.inflate(net2d, num_classes=clouds.classes)
    result = i2p.fit(net, clouds, regime="io+bn", epochs=1, progress=False)
    assert result.confusion().to_numpy().sum() == 12
    assert result.answers.clouds[0].startswith("test/")
    named = i2p.predict(result.net, place / "my_letters" / "test" / "C" / "STIXGeneral.ply")
    assert named["probability"].between(0, 1).all()


def test_fit_refuses_what_does_not_fit_before_it_trains(place: Path) -> None:
    clouds = PointClouds.from_folder(place / "my_letters", points=64, skip_bad=True,
                                     progress=False)  # fmt: skip
    with pytest.raises(ValueError, match="got an image network .its layer conv1"):
        i2p.fit(torchvision.models.resnet18(), clouds)
    small = i2p.inflate(torchvision.models.resnet18(), num_classes=2)
    with pytest.raises(ValueError, match=r"inflate\(..., num_classes=3\)"):
        i2p.fit(small, clouds)
    with pytest.raises(ValueError, match="expected a network from fit"):
        i2p.predict(small, place / "my_letters" / "test" / "C" / "STIXGeneral.ply")


def test_answers_are_counted_as_by_hand() -> None:
    logits = np.eye(3)[[0, 0, 1, 2, 2]] * 4
    answers = Answers(logits, np.array([0, 1, 1, 2, 0]), ("a", "b", "c"), tuple("vwxyz"))
    assert answers.confusion().to_numpy().tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 1]]
    assert answers.accuracy().value == 0.6
    assert answers.errors()["cloud"].tolist() == ["w", "z"]
    assert answers.per_class()["taken_for"].tolist() == ["c", "a", ""]
    better = Answers(np.eye(3)[answers.labels], answers.labels, ("a", "b", "c"))
    gap, chance, counts = compared(better, answers)
    assert gap.value == pytest.approx(0.4) and chance == 0.5  # two of two, exactly
    assert counts.tolist() == [[3, 2], [0, 0]]
    with pytest.raises(ValueError, match="about the same clouds"):
        compared(better, Answers(logits[:4], answers.labels[:4], ("a", "b", "c")))


def test_the_page_for_those_who_come_from_the_original_names_real_settings() -> None:
    config = yaml.safe_load(block(ORIGINAL, "yaml", "protocol: released"))
    config["weight_decay"] = float(config["weight_decay"])
    spec = RunSpec(**config)
    assert spec.rules.checkpoint == "best on test" and spec.model == "resnet18"
    rows = ORIGINAL.split("## Keys of a config")[1].split("## The same system")[0].splitlines()
    ours = " ".join(row.split("|")[2] for row in rows if row.count("|") >= 4)
    fields = RunSpec.model_fields | SegmentSpec.model_fields
    named = {name for code in re.findall(r"`([a-z_]+)(?::[^`]*)?`", ours)
             for name in [code] if "_" in name or name in fields}  # fmt: skip
    known = fields.keys() | {"cosine_per_iteration", "resnet18"}
    assert named and named <= known | {"most", "clip"}, named - known


def test_an_interrupted_training_goes_on_with_the_same_command(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from i2p_lib.runs import execute

    words = ["train", "--data", "my_letters", "--skip-bad", "--model", "mobilenetv3_small_050",
             "--weights", "random", "--points", "64", "--epochs", "3", "--out"]  # fmt: skip
    assert main([*words, "runs/whole"]) == 0
    write = execute.store.write_checkpoint

    def stopped(path: Path, state: object) -> None:
        write(path, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(execute.store, "write_checkpoint", stopped)
    assert main([*words, "runs/halted"]) == 130
    assert "goes on from here" in capsys.readouterr().err
    assert {"whole", "halted"} <= {f.name for f in (place / "runs").glob("[!.]*")}
    assert not list((place / "runs").glob("[!.]*.lock"))
    monkeypatch.setattr(execute.store, "write_checkpoint", write)
    assert main([*words, "runs/halted"]) == 0
    assert "go on after epoch 1" in (place / "runs" / "halted" / "log.txt").read_text()
    whole, halted = (i2p.load_run(place / "runs" / name) for name in ("whole", "halted"))
    scores = ["train_loss", "val_top1", "lr"]
    pd.testing.assert_frame_equal(whole.history[scores], halted.history[scores])


def test_a_room_is_learned_and_written_with_its_labels(
    place: Path, capsys: pytest.CaptureFixture
) -> None:
    (place / "my rooms").mkdir()
    random = np.random.default_rng(0)
    for number in range(3):
        points = random.uniform(0, 2, (400, 3)) + (0, 100, 0)
        np.save(place / "my rooms" / f"room {number}.npy",
                np.column_stack([points, points[:, 2] > 1]))  # fmt: skip
    (place / "my rooms" / "scenes.yml").write_text("classes: [low, high]\n")
    assert main(["train", "--scenes", "my rooms", "--decoder-width", "0.1", "--voxel-size", "0.2",
                 "--epochs", "1", "--out", "runs/rooms"]) == 0  # fmt: skip
    assert main(["evaluate", "runs/rooms"]) == 0
    assert "low                  IoU" in capsys.readouterr().out
    assert main(["predict", "runs/rooms", "my rooms/room 1.npy", "-o", "labelled"]) == 0
    import trimesh

    (place / "again").mkdir()
    shutil.copy(place / "my rooms" / "room 1.npy", place / "again")
    assert main(["predict", "runs/rooms", "my rooms/room 1.npy", "again/room 1.npy"]) == 1
    assert "expected files of different names" in capsys.readouterr().err
    found = trimesh.load_scene(place / "labelled" / "room 1_labelled.ply", process=False)
    (cloud,) = found.geometry.values()
    labels = cloud.metadata["_ply_raw"]["vertex"]["data"]["label"]
    written = np.load(place / "my rooms" / "room 1.npy")[:, :3]
    np.testing.assert_allclose(cloud.vertices, written, err_msg="points lie where they lay")
    assert len(labels) == 400 and set(np.unique(labels)) <= {0, 1}
    assert main(["compare", "runs/rooms", "runs/mine"]) == 1
    assert "expected a run on clouds" in capsys.readouterr().err
