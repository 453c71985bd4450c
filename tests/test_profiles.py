"""Specs and profiles: every mistake in a file is named, and grids unfold in order."""

import pytest
from pydantic import ValidationError

from i2p_lib import runs
from i2p_lib.runs import profiles
from i2p_lib.runs.lab import open_lab
from i2p_lib.runs.spec import RunSpec, spec_from

GOOD = """
description: two small experiments
defaults: {epochs: 3, batch_size: 8, lr: 1e-3, weights: random}
experiments:
  regimes:
    - {regime: [io, all], seed: [0, 1]}
    - {regime: all, recipe: paper, probe_epochs: [0, 3]}
  few_shot:
    - {shots: [1, 2], episode: [0, 1]}
    - {regime: [all], seed: [1]}
chapters:
  01_transfer: [regimes]
  03_few_shot: [few_shot, regimes]
"""


@pytest.fixture
def write(tmp_path):
    def make(text):
        path = tmp_path / "tiny.yml"
        path.write_text(text)
        return path

    return make


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epoch": 3}, "unknown setting 'epoch'; did you mean 'epochs'"),
        ({"epochs": "3"}, "epochs.*integer.*got '3'"),
        ({"epochs": True}, "epochs.*integer"),
        ({"epochs": 0}, "epochs.*greater than or equal to 1.*got 0"),
        ({"lr": -1.0}, "lr.*greater than 0"),
        ({"lr": float("nan")}, "lr"),
        ({"regime": "io+nb"}, "regime.*'io\\+bn'"),
        ({"shots": 5}, "shots and episode belong together"),
        ({"shots": 5, "episode": 0, "train_limit": 9}, "leave train_limit out"),
        ({"augment": "uprigth"}, "did you mean 'upright'"),
        ({"augment": {"scail": [1, 2]}}, "unknown augmentation setting 'scail'"),
        ({"augment": 3}, "augment.*expected one of"),
        ({"epochs": 5, "probe_epochs": [0, 6]}, "must lie in 0..5"),
        ({"probe_epochs": [2, 1]}, "must rise"),
        ({"schedule": "cosine", "warmup": 0.1}, "warmup is read by the one_cycle"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_given(setting, message):
    with pytest.raises(ValueError, match=message) as error:
        spec_from(setting, "my.yml")
    assert str(error.value).startswith("my.yml: ")
    with pytest.raises(ValidationError):
        RunSpec(**setting)


def test_a_spec_cannot_be_changed_and_a_variant_is_checked():
    spec = RunSpec()
    with pytest.raises(ValidationError):
        spec.lr = 0.1
    assert spec.but(lr=0.1).lr == 0.1
    with pytest.raises(ValidationError):
        spec.but(lr=-0.1)


def test_equal_specs_have_equal_keys_however_they_were_written():
    a = RunSpec(lr=1, probe_epochs=[0, 1], augment="paper")
    b = RunSpec(augment=a.augment, probe_epochs=(0, 1), lr=1.0)
    assert a == b and a.key_fields() == b.key_fields()
    assert RunSpec(**a.model_dump(mode="json")) == a


def test_a_grid_unfolds_in_the_order_of_the_file(write):
    profile = profiles.load_profile(write(GOOD))
    specs = profile.experiment("regimes")
    wanted = [("io", 0), ("io", 1), ("all", 0), ("all", 1), ("all", 0)]
    assert [(s.regime, s.seed) for s in specs] == wanted
    assert specs[-1].probe_epochs == (0, 3) and specs[-1].recipe == "paper"
    assert all(s.lr == 0.001 and s.epochs == 3 for s in specs)


def test_a_trial_is_an_episode_with_its_own_seed(write):
    text = GOOD.replace("{shots: [1, 2], episode: [0, 1]}", "{trial: [0, 3], shots: [1, 2]}")
    specs = profiles.load_profile(write(text)).experiment("few_shot")[:-1]
    assert [(s.episode, s.seed, s.shots) for s in specs] == [
        (0, 0, 1), (0, 0, 2), (3, 3, 1), (3, 3, 2)]  # fmt: skip


def test_specs_shared_by_experiments_are_counted_once(write):
    profile = profiles.load_profile(write(GOOD))
    assert len(profile.experiment("few_shot")) == 5
    assert len(profile.all_specs()) == len(profile.all_specs("03_few_shot")) == 9
    assert len(profile.all_specs("01_transfer")) == 5


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs: 3", "epoch: 3", "defaults: unknown setting 'epoch'; did you mean 'epochs'"),
        ("regime: [io, all]", "regim: io", "experiments.regimes, block 1: unknown setting 'regim'"),
        ("regime: [io, all]", "regime: [io, al]", "block 1: regime: .*got 'al'"),
        ("regime: [io, all]", "regime: []", "block 1: regime is an empty list"),
        ("seed: [0, 1]", "trial: 1, seed: 1", "trial sets seed, so leave one of them out"),
        ("seed: [0, 1]", "regime: io", "the key 'regime' is given twice"),
        ("chapters:", "chapter:", "unknown key 'chapter'; did you mean 'chapters'"),
        ("[regimes]", "[regime]", "chapters.01_transfer: unknown experiment 'regime'"),
        ("[regimes]", "regimes", "chapters.01_transfer: .*valid list .got 'regimes'"),
        ("description: two", "device: tpu #", "device: .*'cpu', 'cuda' or 'auto' .got 'tpu'"),
        ("description: two", "workers: many #", "workers: .*valid integer .got 'many'"),
        ("description: two", "workers: -2 #", "workers: .*greater than or equal to 1 .got -2"),
        ("experiments:", "experiments: [", "not valid YAML"),
    ],
)
def test_a_mistake_in_a_profile_is_named_with_file_and_key(write, old, new, message):
    path = write(GOOD.replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as error:
        profiles.load_profile(path)
    assert str(path) in str(error.value)


def test_asking_for_an_unknown_name_gives_the_nearest(write):
    profile = profiles.load_profile(write(GOOD))
    with pytest.raises(ValueError, match="did you mean 'few_shot'"):
        profile.experiment("fewshot")
    with pytest.raises(ValueError, match="did you mean '01_transfer'"):
        profile.all_specs("1_transfer")
    with pytest.raises(FileNotFoundError, match="unknown profile 'nowhere'"):
        profiles.load_profile("nowhere")


def test_every_profile_of_the_book_is_valid():
    for name in profiles.profile_names():
        assert profiles.load_profile(name).all_specs()


def test_the_evenings_image_sources_take_the_rate_of_their_method_and_equal_epochs():
    """Promise: what the grid did not cover is not tuned; no source gets more training."""
    demo = profiles.load_profile("evening")
    rates = {(s.regime, s.weights == "random"): s.lr for s in demo.experiment("regimes")}
    sources = demo.experiment("sources")
    assert {s.weights for s in sources} == {"fractal", "random"} and len(sources) == 18
    assert all(s.lr == rates[s.regime, s.weights == "random"] for s in sources)
    assert len({s.epochs for s in sources}) == 1
    for regime in ("io", "io+bn", "all"):
        for weights in ("fractal", "random"):
            mine = [s.seed for s in sources if (s.regime, s.weights) == (regime, weights)]
            assert mine == [0, 1, 2]


def test_a_profile_adds_to_the_one_that_it_extends(write, tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "profiles_folder", lambda: tmp_path)
    (tmp_path / "base.yml").write_text(
        "defaults: {epochs: 2, lr: 1e-2}\nexperiments: {a: [{seed: 0}], b: [{seed: 1}]}\n"
        "chapters: {one: [a], two: [b]}\n"
    )
    path = write("extends: base\ndefaults: {epochs: 3}\n"
                 "experiments: {b: [{seed: 2}], c: [{seed: 3}]}\n"
                 "chapters: {two: [b, c]}\n")  # fmt: skip
    profile = profiles.load_profile(path)
    assert [(s.seed, s.epochs, s.lr) for s in profile.all_specs()] == [
        (0, 3, 1e-2), (2, 3, 1e-2), (3, 3, 1e-2)]  # fmt: skip
    assert profile.chapters == {"one": ["a"], "two": ["b", "c"]}
    (tmp_path / "base.yml").write_text("extends: base\nexperiments: {a: [{seed: 0}]}\n")
    with pytest.raises(ValueError, match="extends itself"):
        profiles.load_profile("base")
    with pytest.raises(FileNotFoundError, match="unknown profile 'nothing'"):
        profiles.load_profile(write("extends: nothing\nexperiments: {a: [{seed: 0}]}\n"))


def test_a_profile_of_ones_own_is_one_profile_from_wherever_it_is_asked_for(
    tmp_path, monkeypatch
):
    """Promise: its path, which may have blanks, finds it and what it extends from any folder."""
    folder = tmp_path / "my own"
    folder.mkdir()
    (folder / "base.yml").write_text("experiments: {a: [{seed: 7}]}\n")
    (folder / "smoke.yml").write_text("extends: base.yml\n")
    monkeypatch.chdir(folder)
    here = profiles.load_profile("smoke.yml")
    monkeypatch.chdir(tmp_path)
    again = profiles.load_profile(here.address)
    assert again == here and [spec.seed for spec in again.experiment("a")] == [7]
    assert again.folder == here.folder != profiles.load_profile("smoke").folder == "smoke"


def test_the_lab_trains_once_and_says_so(write, tmp_path, capsys, monkeypatch):
    small = "epochs: 1, points: 128, train_limit: 32, test_limit: 32"
    path = write(
        f"defaults: {{batch_size: 8, {small}}}\n"
        "experiments: {only: [{weights: random, probe_epochs: [1]}]}\n"
    )
    lab = open_lab(path, store=tmp_path / "runs", progress=False)
    table = lab.run("only")
    assert "only: 0 runs found, 1 trained" in capsys.readouterr().out
    assert len(table) == 1 and 0 <= table["top1"][0] <= 1 and table["weights"][0] == "random"
    assert list(lab.histories("only")["epoch"]) == [1]
    assert set(lab.probes("only")["split"]) == {"train", "test"}
    assert list(lab.status()["state"]) == ["done"]
    assert capsys.readouterr().out == ""

    monkeypatch.setattr(runs.pool, "work", None)  # nothing may train any more
    again = open_lab(path, store=tmp_path / "runs", progress=False)
    assert again.run("only").equals(table)
    assert "only: 1 runs found, 0 trained" in capsys.readouterr().out


def test_runs_without_their_weights_are_left_out_and_said(write, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("I2P_WEIGHTS", str(tmp_path / "no weights"))
    small = "epochs: 1, points: 128, train_limit: 32, test_limit: 32, batch_size: 8"
    path = write(
        f"defaults: {{{small}}}\n"
        "experiments:\n"
        "  some: [{weights: random}, {model: resnet152, weights: imagenet1k}]\n"
        "  none: [{model: resnet152, weights: imagenet1k}]\n"
    )
    lab = open_lab(path, store=tmp_path / "runs", progress=False)
    assert list(lab.run("some")["weights"]) == ["random"]
    assert "1 skipped: needs imagenet1k weights of resnet152" in capsys.readouterr().out
    nothing = lab.run("none")
    assert nothing.empty and {"model", "regime", "key"} <= set(nothing.columns)
    assert list(lab.any_of("some", "none", "of another profile")["weights"]) == ["random"]


def test_a_folder_of_photographs_is_found_beside_its_profile_or_refused(write, tmp_path):
    """Promise: `images` is a folder that exists, before anything is trained."""
    with pytest.raises(ValueError, match="images must be a folder of photographs, got 'mine'"):
        profiles.load_profile(write("images: mine\n" + GOOD))
    (tmp_path / "mine").mkdir()
    loaded = profiles.load_profile(write("images: mine\n" + GOOD))
    assert loaded.images == tmp_path / "mine"
    assert profiles.load_profile(write(GOOD)).images is None


def test_a_profile_given_by_its_path_is_found_again_by_it_and_not_by_its_name(tmp_path):
    """Promise: one profile throughout: a chapter opens the file whose runs were trained."""
    for name in ("smoke.yml", "my own.yml"):
        (tmp_path / name).write_text(GOOD)
        mine = profiles.load_profile(tmp_path / name)
        assert profiles.load_profile(mine.address) == mine
    assert profiles.load_profile("smoke").address == "smoke"
