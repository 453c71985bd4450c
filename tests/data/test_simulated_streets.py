"""Simulated driving scenes: the official layout, one world for each sequence, whole or absent."""

import json

import numpy as np
import pytest
import simulate_streets as streets
from streets.lidar import cast_rays, elevations, enter_shape
from streets.world import SECOND, STRIDE, build_street

from i2p_lib.data.semantic_kitti import CLASS_NAMES, LEARNING_MAP

SMALL = {"scans": {"00": 2, "08": 1}, "beams": 16, "azimuth": 90, "progress": False}
MOVING = 252  # raw labels from here on are of what moves


def read(folder, sequence: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    place = folder / "sequences" / sequence
    points = np.fromfile(place / "velodyne" / f"{number:06d}.bin", "<f4").reshape(-1, 4)
    return points, np.fromfile(place / "labels" / f"{number:06d}.label", "<u4")


def contents(folder) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return streets.simulate_streets(tmp_path_factory.mktemp("streets"), **SMALL)


@pytest.fixture(scope="module")
def street():
    return build_street(np.random.default_rng([0, 8]), 4)


def test_the_layout_is_the_official_one(made):
    """Promise: a `.bin` and a `.label` for each scan, one label for each point, marked as made."""
    assert sorted(contents(made)) == sorted(
        f"sequences/{name}"
        for name in (
            "00/simulated.json", "00/velodyne/000000.bin", "00/velodyne/000001.bin",
            "00/labels/000000.label", "00/labels/000001.label",
            "08/simulated.json", "08/velodyne/000000.bin", "08/labels/000000.label",
        )
    )  # fmt: skip
    for sequence, count in SMALL["scans"].items():
        mark = json.loads((made / "sequences" / sequence / "simulated.json").read_text())
        assert mark["simulated"] is True and mark["scans"] == count
        for number in range(count):
            points, labels = read(made, sequence, number)
            assert len(points) == len(labels) and 700 < len(points) <= 16 * 90
            assert np.isfinite(points).all()
            assert 0 <= points[:, 3].min() and points[:, 3].max() <= 1
            assert set(np.unique(labels & 0xFFFF)) <= set(LEARNING_MAP)
            assert 0.8 < np.linalg.norm(points[:, :3], axis=1).min()
            assert np.linalg.norm(points[:, :3], axis=1).max() < 120.2


def test_points_go_ring_by_ring_each_one_turn(made):
    """Promise: as in the real set, the highest ring first, each counter-clockwise from forward."""
    points, _ = read(made, "00", 1)
    up = np.arcsin(points[:, 2] / np.linalg.norm(points[:, :3], axis=1))
    ring = np.abs(up[:, None] - elevations(16)).argmin(axis=1)
    assert np.abs(up - elevations(16)[ring]).max() < 1e-5
    assert (np.diff(ring) >= 0).all() and len(np.unique(ring)) >= 15
    column = np.rint(np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi / 90)) % 90
    assert (np.diff(column)[np.diff(ring) == 0] > 0).all()


def test_the_same_arguments_give_the_same_files(made, tmp_path):
    """Promise: byte for byte; another seed or another sequence is another street."""
    again = streets.simulate_streets(tmp_path / "again", **SMALL)
    assert contents(again) == contents(made)
    other = streets.simulate_streets(tmp_path / "other", **SMALL | {"scans": {"08": 1}}, seed=1)
    name = "sequences/08/velodyne/000000.bin"
    assert contents(other)[name] != contents(made)[name]
    assert read(made, "00", 0)[0].tobytes() != read(made, "08", 0)[0].tobytes()


def test_an_interrupted_call_goes_on(made, tmp_path, monkeypatch):
    """Promise: what is whole is kept, what is not leaves nothing, the result is the same."""
    scan, calls = streets.scan, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return scan(*arguments)

    monkeypatch.setattr(streets, "scan", interrupted)
    with pytest.raises(KeyboardInterrupt):
        streets.simulate_streets(tmp_path, **SMALL)
    assert [p.name for p in (tmp_path / "sequences").iterdir()] == ["00"]
    streets.simulate_streets(tmp_path, **SMALL)
    assert len(calls) == 4  # only the scan that was missing
    assert contents(tmp_path) == contents(made)


def test_other_settings_replace_a_simulated_sequence_but_nothing_else(tmp_path):
    """Promise: a stale sequence is made anew; the real one, or anything unknown, is left alone."""
    one = SMALL | {"scans": {"03": 1}}
    streets.simulate_streets(tmp_path, **one)
    before = read(tmp_path, "03", 0)[0]
    streets.simulate_streets(tmp_path, **one, seed=5)
    assert before.tobytes() != read(tmp_path, "03", 0)[0].tobytes()
    real = tmp_path / "sequences" / "04" / "velodyne"
    real.mkdir(parents=True)
    with pytest.raises(FileExistsError, match="not a simulated sequence.*another folder"):
        streets.simulate_streets(tmp_path, **one | {"scans": {"04": 1}})
    assert real.is_dir()


@pytest.mark.parametrize(
    "wrong",
    [{"scans": {}}, {"scans": {"8": 1}}, {"scans": {"08": 0}}, {"beams": 1}, {"azimuth": 0}],
)
def test_settings_out_of_range_are_refused_before_work_starts(wrong, tmp_path):
    """Promise: the message names what was expected; nothing is written."""
    with pytest.raises(ValueError, match="expected sequences of two digits"):
        streets.simulate_streets(tmp_path / "new", **SMALL | wrong)
    assert not (tmp_path / "new").exists()


def test_no_point_lies_behind_a_hard_surface(street):
    """Promise: the way to each point crosses no hard solid and stays above the ground."""
    solids, pose = street.solids_at(0.0), street.sensor(0)
    ranges, _, hits = cast_rays(solids, street.ground, pose, 12, 60)
    hard = np.flatnonzero(solids.density == 0)
    inverse = np.linalg.inv(solids.matrix)[:, :3]
    origin = inverse @ np.append(pose[:3, 3], 1.0)
    centre, radius = solids.matrix[:, :3, 3] - pose[:3, 3], solids.radius()
    assert (hits >= 0).sum() > 100
    for beam, column in np.ndindex(12, 60):
        angle, up = column * 2 * np.pi / 60, elevations(12)[beam]
        ray = pose[:3, :3] @ [np.cos(up) * np.cos(angle), np.cos(up) * np.sin(angle), np.sin(up)]
        near_ray = np.linalg.norm(np.cross(centre[hard], ray), axis=1) <= radius[hard]
        for i in hard[near_ray]:
            near, far, *_ = enter_shape(
                solids.shape[i], solids.taper[i], origin[i], inverse[i, :, :3] @ ray
            )
            assert not far > near > 0 or near > min(ranges[beam, column], 120.0) - 1e-6


def test_scans_of_a_sequence_share_one_world(street):
    """Promise: parked things stay where they are; what moves does so at its own speed."""
    first, second = street.solids_at(0.0), street.solids_at(SECOND)
    stays = (first.label & 0xFFFF) < MOVING
    assert (first.label == second.label).all()
    assert np.array_equal(first.matrix[stays], second.matrix[stays])
    moved = (second.matrix - first.matrix)[~stays, 0, 3]
    assert (np.abs(moved) > 0.5).mean() > 0.9 and np.abs(moved).max() < STRIDE * SECOND + 2
    way = street.sensor(1)[:3, 3] - street.sensor(0)[:3, 3]
    assert way[0] == pytest.approx(STRIDE) and abs(way[2]) < 1


def test_things_have_instances_and_stuff_has_none(street):
    """Promise: vehicles and people are told apart by the upper 16 bits, as in the real set."""
    label = street.solids_at(0.0).label
    raw, instance = label & 0xFFFF, label >> 16
    thing = np.isin(raw, [10, 11, 13, 15, 18, 20, 30]) | (raw >= MOVING)
    assert (instance[thing] > 0).all() and (instance[~thing] == 0).all()
    classes = {i: set(raw[instance == i]) for i in np.unique(instance[thing])}
    assert len(classes) > 60 and all(len(found) == 1 for found in classes.values())


def test_traffic_neither_meets_nor_hits_the_sensor(street):
    """Promise: what shares a lane keeps its distance at every scan."""
    vehicles = [m for m in street.movers if abs(m.speed) > 2]
    times = np.arange(4) * SECOND
    lane = -street.ground.half_road / 2
    for i, one in enumerate(vehicles):
        if abs(one.across - lane) < 1:
            assert (np.abs(one.at(times) - times * STRIDE / SECOND) > one.half + 3).all()
        for other in vehicles[:i]:
            if abs(one.across - other.across) < 1:
                gap = np.abs(one.at(times) - other.at(times))
                assert (gap > one.half + other.half).all()
    assert len(vehicles) >= 4


@pytest.mark.slow
def test_the_demo_has_all_classes_in_train_and_in_test(tmp_path):
    """Promise: 40 scans of about 30,000 points; each of the 19 classes on both sides."""
    streets.simulate_streets(tmp_path, progress=False)
    counts = np.zeros((2, len(CLASS_NAMES)), int)
    sizes = []
    for sequence, number in ((s, n) for s, c in streets.DEMO_SCANS.items() for n in range(c)):
        _, labels = read(tmp_path, sequence, number)
        sizes.append(len(labels))
        for raw, count in zip(*np.unique(labels & 0xFFFF, return_counts=True), strict=True):
            if LEARNING_MAP[int(raw)] >= 0:
                counts[int(sequence == "08"), LEARNING_MAP[int(raw)]] += count
    assert len(sizes) == 40 and np.mean(sizes) == pytest.approx(30_000, rel=0.1)
    missing = {CLASS_NAMES[i] for i in np.flatnonzero((counts < 20).any(axis=0))}
    assert not missing
