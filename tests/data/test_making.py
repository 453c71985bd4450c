"""Sets made by a script: whole or absent, made once, made anew where what they rest on changed."""

import json
import sys
import threading

import pytest

from i2p_lib.data import making

SCRIPT = """
import sys
from pathlib import Path
from parts.words import WORD
output = Path(sys.argv[-1])
output.mkdir(exist_ok=True)
with open(output.parent.parent / "calls", "a") as calls:
    calls.write(f"{len(list(output.iterdir()))} ")
(output / "first").write_text(WORD)
print("half done", file=sys.stderr)
if (output.parent.parent / "stop").exists():
    sys.exit("error: there is no paper")
(output / "word.txt").write_text(WORD + " ".join(sys.argv[1:-2]))
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    scripts = tmp_path / "data_scripts"
    (scripts / "parts").mkdir(parents=True)
    (scripts / "write.py").write_text(SCRIPT)
    (scripts / "parts" / "words.py").write_text("WORD = 'one'")
    (scripts / "other.py").write_text("")
    monkeypatch.setattr(making, "project_root", lambda: tmp_path)
    monkeypatch.setenv("I2P_DATA", str(tmp_path / "data"))
    return tmp_path


def make(command="data_scripts/write.py", *inputs):
    return making.made("words", command, inputs, progress=False)


def contents_of(folder) -> tuple:
    return tuple(f.read_text() for f in sorted(folder.iterdir()) if f.name != making.NOTE)


def calls(project) -> int:
    return len((project / "calls").read_text().split())


def test_a_set_is_made_once_and_says_what_it_rests_on(project):
    folder = make()
    assert folder == make() == project / "data" / "words" and calls(project) == 1
    assert (folder / "word.txt").read_text() == "one"
    note = json.loads((folder / making.NOTE).read_text())
    assert note["command"] == "data_scripts/write.py" and len(note["sources"]) == 64
    assert {f.name for f in folder.parent.iterdir()} == {"words", ".words.lock"}


def test_a_set_is_made_anew_where_script_settings_or_inputs_changed(project):
    """Promise: what the script imports counts, and nothing else in its folder."""
    contents = [contents_of(make())]
    (project / "data_scripts" / "other.py").write_text("changed")
    make()
    assert calls(project) == 1
    (project / "data_scripts" / "parts" / "words.py").write_text("WORD = 'two'")
    contents.append(contents_of(make()))
    contents.append(contents_of(make("data_scripts/write.py --seed 5")))
    assert (make("data_scripts/write.py --seed 5") / "word.txt").read_text() == "two--seed 5"
    assert calls(project) == 3 and len(set(contents)) == 3
    make("data_scripts/write.py --seed 5", "another hash")
    assert calls(project) == 4


def test_an_interrupted_making_leaves_no_set_and_goes_on(project):
    """Promise: the message is the script's own; the next call finds what was done."""
    (project / "stop").touch()
    with pytest.raises(RuntimeError, match="^there is no paper$"):
        make()
    assert not (project / "data" / "words").exists()
    (project / "stop").unlink()
    make()
    assert (project / "calls").read_text().split() == ["0", "1"]
    assert not list((project / "data").glob(".words-*"))


def test_the_old_set_stays_until_the_new_one_is_whole(project):
    folder = make()
    (project / "data_scripts" / "parts" / "words.py").write_text("WORD = 'two'")
    (project / "stop").touch()
    with pytest.raises(RuntimeError):
        make()
    assert (folder / "word.txt").read_text() == "one"


def test_of_two_that_ask_at_once_one_works(project):
    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls(project) == 1 and make().is_dir()


def test_without_a_checkout_a_made_set_is_taken_and_an_absent_one_says_what_to_do(project):
    folder = make()
    (project / "data_scripts" / "write.py").unlink()
    assert make() == folder
    with pytest.raises(FileNotFoundError, match="write.py is not there.*checkout of the book"):
        making.made("others", "data_scripts/write.py")


def test_progress_is_passed_through(project, capsys):
    making.made("words", "data_scripts/write.py")
    assert "half done" in capsys.readouterr().err


def test_the_script_runs_in_this_python_from_the_root(project):
    (project / "data_scripts" / "write.py").write_text(
        "import os, sys; from pathlib import Path; output = Path(sys.argv[-1]);"
        "output.mkdir(); (output / 'where').write_text(f'{sys.executable} {os.getcwd()}')")
    assert (make() / "where").read_text() == f"{sys.executable} {project}"
