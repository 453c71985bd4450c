"""A spec says what may be set: changes of a protocol, and what scratch starts from."""

import dataclasses

import pytest

from i2p_lib.runs.spec import RunSpec, SegmentSpec
from i2p_lib.runs.store import key_of, key_parts

RELEASED = RunSpec(protocol="released", changes={"grid": "floor", "decay": "weights"})


def test_changes_replace_decisions_of_the_protocol_and_are_part_of_the_key():
    plain = RELEASED.but(changes={})
    assert RELEASED.rules.grid == "floor" and plain.rules.grid == "round"
    assert RELEASED.rules.voxel == plain.rules.voxel == "first"
    assert key_of(key_parts(RELEASED)) != key_of(key_parts(plain))
    assert "released protocol but decay: weights, grid: floor" in RELEASED.label()


def test_changes_survive_json_and_are_hashable_whatever_their_order():
    again = RunSpec(**RELEASED.model_dump(mode="json"))
    turned = RELEASED.but(changes={"decay": "weights", "grid": "floor"})
    assert hash(again) == hash(turned) == hash(RELEASED) and again == turned == RELEASED


def test_with_every_decision_changed_the_released_protocol_is_the_clean_one():
    clean = RunSpec().rules
    assert RELEASED.but(changes=dataclasses.asdict(clean)).rules == clean


def test_what_the_protocol_decides_alike_is_no_change():
    assert RELEASED.but(changes={"grid": "round"}) == RELEASED.but(changes={})
    assert RELEASED.but(protocol="clean").changes == ()


@pytest.mark.parametrize(("changes", "says"), [
    ({"gird": "floor"}, "unknown decision of a protocol 'gird'; did you mean 'grid'"),
    ({"grid": "flor"}, "unknown value of grid 'flor'; did you mean 'floor'"),
    ({"test": "every epoch"}, "belong together"),
    ({"checkpoint": "best on test"}, "needs validate_on: test"),
    ("floor", "expected a mapping, such as {grid: floor}"),
])  # fmt: skip
def test_changes_that_do_not_exist_or_fit_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        RunSpec(changes=changes)


def test_scratch_starts_as_the_protocol_or_the_spec_says():
    scratch = RunSpec(weights="random")
    drawn = {name: scratch.but(protocol=name).drawn for name in ("clean", "released", "tuning")}
    assert drawn == {"clean": "he", "released": "torchsparse", "tuning": "he"}
    assert scratch.but(init="torchsparse").drawn == "torchsparse"
    assert scratch.but(init="inflated").drawn is None
    assert SegmentSpec().drawn == "he"


def test_random_frozen_backbones_and_networks_on_points_are_not_drawn_anew():
    for regime in ("io", "io+ms", "io+bn"):
        assert RunSpec(weights="random", regime=regime, protocol="released").drawn is None
    assert RunSpec(weights="random", model="pointnet2_ssg").drawn is None
    assert RunSpec().drawn is None


@pytest.mark.parametrize("settings", [
    {}, {"weights": "random", "model": "simpleview"}, {"weights": "random", "regime": "io"},
])  # fmt: skip
def test_init_is_refused_where_it_is_not_read(settings):
    with pytest.raises(ValueError, match="init"):
        RunSpec(init="he", **settings)


def test_a_student_has_its_teachers_init():
    teacher = {"weights": "random", "init": "he", "shots": 1, "episode": 0}
    student = {"weights": "random", "distill": "hard", "teacher": teacher}
    assert RunSpec(init="he", **student).teacher.init == "he"
    with pytest.raises(ValueError, match="they differ in"):
        RunSpec(**student)
