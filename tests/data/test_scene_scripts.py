"""The three scripts and `i2p data get`: one command from the official layout to checked scenes."""

import json
import shutil

import pytest
from scene_folders import make_archive, make_kitti, make_s3dis

from i2p_lib import cli
from i2p_lib.data import semantic_kitti
from i2p_lib.data.scenes import load_scenes

MADE = {"s3dis": make_s3dis, "semantic_kitti": make_kitti}


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("I2P_DATA", str(tmp_path / "data"))


@pytest.mark.parametrize("name", MADE)
def test_a_script_converts_a_part_and_says_what_it_found(data_script, name, tmp_path, capsys):
    """Promise: from an archive of the official layout to scenes; twice is no harm."""
    MADE[name](tmp_path / "official")
    packed = shutil.make_archive(tmp_path / "official", "zip", tmp_path / "official")
    shutil.unpack_archive(packed, tmp_path / "unpacked")
    words = [str(tmp_path / "unpacked"), "--output", str(tmp_path / "set"), "--part"]
    script = data_script(f"build_{name}")
    assert script.main(words) == script.main(words) == 0
    text = capsys.readouterr().out
    assert "test: 3 scenes" in text and "labelled points: " in text and "sha256 " in text
    assert len(load_scenes(name, "test", tmp_path / "set")) == 3


@pytest.mark.parametrize(("name", "expected"), [("s3dis", "272"), ("semantic_kitti", "23,201")])
def test_a_script_without_part_wants_the_whole_set(data_script, name, expected, tmp_path, capsys):
    words = [str(MADE[name](tmp_path / "official")), "--output", str(tmp_path / "set")]
    assert data_script(f"build_{name}").main(words) == 1
    assert f"error: {tmp_path}/official: expected {expected}" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("name", ["build_s3dis", "build_semantic_kitti", "get_modelnet40"])
def test_help_has_examples(data_script, name, capsys):
    with pytest.raises(SystemExit) as stop:
        data_script(name).main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"examples:\n  python data_scripts/{name}.py" in text and "--part" in text


def test_being_stopped_is_no_error_message(data_script, monkeypatch, tmp_path, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    script = data_script("build_s3dis")
    monkeypatch.setattr(script, "convert", interrupted)
    assert script.main([str(tmp_path)]) == 130
    assert "goes on from here" in capsys.readouterr().err


def test_modelnet40_comes_from_an_archive_by_script_and_by_command(
    data_script, tmp_path, capsys
):
    archive = make_archive(tmp_path / "a.zip")
    script = data_script("get_modelnet40")
    words = [str(archive), "--output", str(tmp_path / "set")]
    assert script.main(words) == 1
    assert "is not the published file: expected MD5" in capsys.readouterr().err
    assert script.main([*words, "--part"]) == 0
    assert cli.main(["data", "get", "modelnet40", "--from", str(archive), "--part"]) == 0
    assert cli.main(["data", "check", "modelnet40"]) == 0
    assert capsys.readouterr().out.count("sha256") == 3


@pytest.mark.parametrize("name", MADE)
def test_one_command_brings_a_set_and_another_checks_it(name, tmp_path, capsys):
    source = MADE[name](tmp_path / "official")
    assert cli.main(["data", "get", name]) == 1
    assert f"i2p data get {name} --from FOLDER" in capsys.readouterr().err
    assert cli.main(["data", "get", name, "--from", str(source), "--part"]) == 0
    assert cli.main(["data", "check", name]) == 0
    assert cli.main(["data", "list"]) == 0
    text = capsys.readouterr().out
    assert text.count(f"{name}: good") == 2 and "test: 3 scenes" in text
    assert f"{name}: " in text and text.count("[present]") == 2  # and the embedded set


def test_a_simulated_set_takes_no_folder(tmp_path, capsys):
    assert cli.main(["data", "get", "simulated_rooms", "--from", str(tmp_path)]) == 1
    assert "it is generated" in capsys.readouterr().err


def test_scenes_that_need_no_conversion_are_indexed_where_they_lie(
    data_script, tmp_path, monkeypatch
):
    """Promise: the manifest is that of the set's own script; scenes of wrong labels are named."""
    official = make_kitti(tmp_path / "official")
    own = data_script("build_semantic_kitti")
    own.convert(official, tmp_path / "a", part=True, progress=False)
    monkeypatch.setattr(semantic_kitti, "find_scenes", own.find_scenes, raising=False)
    script = data_script("index_scenes")
    words = ["semantic_kitti", str(official), "--output"]
    assert script.main([*words, str(tmp_path / "b")]) == 0
    manifests = [json.loads((tmp_path / one / "manifest.json").read_text()) for one in "ab"]
    assert manifests[0] == manifests[1]
    (tmp_path / "empty").mkdir()
    words = ["semantic_kitti", str(tmp_path / "empty"), "--output", str(tmp_path / "c")]
    assert script.main(words) == 1 and not (tmp_path / "c").exists()
