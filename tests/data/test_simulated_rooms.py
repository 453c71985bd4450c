"""Simulated rooms: nothing overlaps or floats, S3DIS's layout, no object in train and test."""

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import simulate_rooms as script
from rooms.furniture import KINDS, catalogue
from rooms.plan import Box, Item, Plan, apart, turn
from rooms.room import furnished_room
from simulate_rooms import room_names, simulate_rooms

from i2p_lib.data import load_dataset

S3DIS = {"ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair", "sofa",
         "bookcase", "board", "clutter"}  # fmt: skip


@pytest.fixture(scope="module")
def plans() -> dict[tuple[int, str], Plan]:
    """Return the rooms of three areas of the demo set, furnished but not scanned."""
    return {
        (area, name): furnished_room(kind, 0, area, number)[0]
        for area in (1, 4, 5)
        for number, (kind, name) in enumerate(room_names(script.ROOMS_PER_AREA))
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small set: five rooms of a train area and five of the test area."""
    folder = tmp_path_factory.mktemp("rooms")
    simulate_rooms(folder, areas=(1, 5), rooms_per_area=5, progress=False)
    return folder


def read(room: Path) -> dict[str, np.ndarray]:
    """Return the points and colours [N, 6] of each annotation of a room."""
    return {file.stem: np.loadtxt(file, ndmin=2) for file in (room / "Annotations").iterdir()}


def stands_on(upper: Item, lower: Item) -> bool:
    """Return whether a thing is right above points of another one."""
    inside = in_footprint(lower.points, upper.box, 0.05)
    gaps = upper.box.low - lower.points[inside, 2]
    return bool(len(gaps)) and 0 < gaps.min() < 0.02


def in_footprint(points: np.ndarray, box: Box, wider: float) -> np.ndarray:
    local = (points[:, :2] - [box.x, box.y]) @ turn(box.yaw)[:2, :2]
    return (np.abs(local) < np.array([box.half_x, box.half_y]) + wider).all(axis=1)


# --- the rooms --------------------------------------------------------------------------------

def test_no_thing_passes_through_another(plans):
    """Promise: surfaces stay apart, and none is inside another's box but a chair drawn up."""
    pairs = tucked = 0
    for where, plan in plans.items():
        for a, b in combinations(plan.items, 2):
            bounds = [(item.points.min(axis=0), item.points.max(axis=0)) for item in (a, b)]
            if (bounds[0][0] > bounds[1][1]).any() or (bounds[1][0] > bounds[0][1]).any():
                continue  # their bounding boxes are apart
            pairs += 1
            nearest = a.tree.query(b.points)[0].min()
            assert nearest > 0.0035, (where, a.name, b.name, nearest)
            inside = [
                (in_footprint(p.points, q.box, -0.02) & (p.points[:, 2] > q.box.low + 0.01)
                 & (p.points[:, 2] < q.box.high - 0.01)).any()
                for p, q in ((a, b), (b, a))
            ]  # fmt: skip
            if any(inside) and {a.label, b.label} == {"chair", "table"}:
                tucked += 1
            else:
                assert not any(inside) or a.box.low > 0 or b.box.low > 0, (where, a.name, b.name)
    assert pairs > 30 and tucked > 5


def test_every_thing_stands_on_the_floor_or_on_another(plans):
    """Promise: nothing floats or sinks in, and a thing's support is all below it."""
    on_top = 0
    for where, plan in plans.items():
        for item in plan.items:
            assert item.points[:, 2].min() == pytest.approx(item.box.low, abs=1e-6)
            if item.box.low > 0:
                below = [other for other in plan.items if stands_on(item, other)]
                assert below, (where, item.name)  # two where tables stand side by side
                under = np.concatenate([b.points[in_footprint(b.points, item.box, 0)]
                                        for b in below])  # fmt: skip
                assert (under[:, 2] < item.box.low).all()
                on_top += 1
    assert on_top > 100


def test_furniture_is_inside_and_leaves_the_doors_free(plans):
    """Promise: no thing reaches into a wall, a column, a beam or the floor before a door."""
    for where, plan in plans.items():
        own = {id(item.box) for item in plan.items}
        built_in = [box for box in plan.taken if id(box) not in own]
        assert len(built_in) >= plan.instances.count("door") + plan.instances.count("column")
        for item in plan.items:
            low, high = item.points.min(axis=0), item.points.max(axis=0)
            assert (low[:2] > 0).all() and (high < plan.size).all(), (where, item.name)
            assert high[2] < plan.size[2] - 0.4
            for box in built_in:
                meets = in_footprint(item.points, box, 0) & (item.points[:, 2] < box.high)
                assert not meets.any(), (where, item.name)


def test_boxes_are_apart_where_no_point_is_in_both():
    """Promise: the separating axes agree with a grid of points, for turned boxes as well."""
    generator, seen = np.random.default_rng(0), Counter()
    for _ in range(300):
        a, b = (Box(*generator.uniform(-0.8, 0.8, 2), *generator.uniform(0.1, 0.6, 2),
                    generator.uniform(0, 7), 0.0, 1.0) for _ in range(2))  # fmt: skip
        grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 60)] * 2), -1).reshape(-1, 2)
        points = grid * [a.half_x, a.half_y] @ turn(a.yaw)[:2, :2].T + [a.x, a.y]
        shared = in_footprint(points, b, 0).any()
        if apart(a, b):
            assert not shared
        else:
            assert in_footprint(points, b, 0.03).any()
        seen[bool(shared)] += 1
    assert min(seen.values()) > 50
    low, high = Box(0, 0, 1, 1, 0, 0, 0.7), Box(0, 0, 1, 1, 0, 0.7, 1)
    assert apart(low, high) and not apart(low, low)


def test_all_classes_occur_in_train_and_in_test(plans):
    """Promise: S3DIS's 13 classes and no other, in train areas and in Area 5."""
    for areas in ((1, 4), (5,)):
        found = {label for (area, _), plan in plans.items() if area in areas
                 for label in plan.instances}  # fmt: skip
        assert found == S3DIS


def test_no_object_is_in_train_and_in_test(plans):
    """Promise: Area 5 shows objects of the test split alone, the others those of train alone."""
    shown = {"train": set(), "test": set()}
    for (area, _), plan in plans.items():
        shown["test" if area == 5 else "train"] |= {
            item.name for item in plan.items if item.name != "block"}  # fmt: skip
    for split, names in shown.items():
        assert len(names) > 30 and all(name.startswith(f"{split}/") for name in names)
    for split in shown:
        whole = load_dataset("home_objects", split)
        for kind, objects in catalogue(split).items():
            for name, cloud in objects:
                index = int(name.split("/")[1].split()[0])
                assert np.array_equal(cloud, whole.points[index])
                assert whole.class_names[whole.labels[index]] == KINDS[kind].source


def test_things_have_their_true_size(plans):
    """Promise: metres; a table is as high as a table, and keeps its proportions."""
    heights = {kind: [] for kind in KINDS}
    of = {name: kind for split in ("train", "test") for kind, objects in catalogue(split).items()
          for name, _ in objects}  # fmt: skip
    for plan in plans.values():
        for item in plan.items:
            if item.name != "block":
                heights[of[item.name]].append(item.box.high - item.box.low)
                kind = KINDS[of[item.name]]
                assert item.label == kind.label
                assert 2 * max(item.box.half_x, item.box.half_y) < kind.widest + 1e-6
    for name, found in heights.items():
        low, high = KINDS[name].height
        assert max(found, default=0) <= high + 1e-6
        assert np.median(found) >= 0.8 * low, name  # wide ones are scaled down


# --- the files --------------------------------------------------------------------------------

def test_the_layout_is_the_official_one(folder):
    """Promise: Area_k/type_n/type_n.txt, Annotations/class_n.txt, six columns, in millimetres."""
    rooms = sorted(path for path in folder.glob("Area_*/*"))
    assert [str(path.relative_to(folder)) for path in rooms] == [
        f"Area_{area}/{name}" for area in (1, 5)
        for name in ("conferenceRoom_1", "hallway_1", "lounge_1", "office_1", "office_2")
    ]  # fmt: skip
    line = re.compile(rb"(-?\d+\.\d{3} ){3}\d{1,3} \d{1,3} \d{1,3}")
    for room in rooms:
        assert {p.name for p in room.iterdir()} == {"Annotations", f"{room.name}.txt"}
        count, lines = Counter(), []
        for file in sorted((room / "Annotations").iterdir()):
            label, number = re.fullmatch(r"([a-z]+)_(\d+)\.txt", file.name).groups()
            assert label in S3DIS and int(number) >= 1
            count[label] += 1
            lines += file.read_bytes().splitlines()
        numbers = {(room / "Annotations" / f"{label}_{k + 1}.txt").is_file()
                   for label in count for k in range(count[label])}  # fmt: skip
        assert numbers == {True}
        assert all(line.fullmatch(one) for one in lines)
        whole = (room / f"{room.name}.txt").read_bytes().splitlines()
        assert sorted(whole) == sorted(lines) and 25_000 < len(whole) <= 60_000
    assert json.loads((folder / "SIMULATED.json").read_text())["simulated"] is True


def test_a_room_is_closed_and_built_in_order(folder):
    """Promise: floor lowest, ceiling highest, doors, windows and boards in or on the walls."""
    for room in folder.glob("Area_*/*"):
        parts = read(room)
        floor, ceiling = parts["floor_1"][:, 2], parts["ceiling_1"][:, 2]
        assert abs(np.median(floor)) < 0.005 and 2.6 < np.median(ceiling) < 3.3
        walls = np.concatenate([rows for name, rows in parts.items() if name.startswith("wall")])
        west, south = np.quantile(walls[:, :2], 0.002, axis=0)
        east, north = np.quantile(walls[:, :2], 0.998, axis=0)
        for name, rows in parts.items():
            assert rows[:, 2].min() > -0.03 and rows[:, 2].max() < np.median(ceiling) + 0.03
            assert rows[:, 3:].min() >= 0 and rows[:, 3:].max() <= 255
            if name.split("_")[0] in ("door", "window", "board"):
                x, y = rows[:, 0], rows[:, 1]
                off = np.min(np.abs([x - west, x - east, y - south, y - north]), axis=0)
                assert off.max() < 0.15, (room, name)


def test_colours_are_those_of_things(folder):
    """Promise: colours differ between things and vary within one."""
    for room in folder.glob("Area_*/*"):
        parts = read(room)
        middles = np.array([rows[:, 3:].mean(axis=0) for rows in parts.values()])
        assert len(np.unique(middles.round(), axis=0)) > 0.8 * len(middles)
        assert all(rows[:, 3:].std(axis=0).max() > 1 for rows in parts.values() if len(rows) > 30)
        assert parts["ceiling_1"][:, 3:].mean() > parts["floor_1"][:, 3:].mean()


def test_a_seed_fixes_every_byte(folder, tmp_path):
    """Promise: a room depends on seed, area and number alone; the global generator stays."""
    before = np.random.get_state()[1].copy()
    (again,) = simulate_rooms(tmp_path / "again", (5,), 1, progress=False)
    (other,) = simulate_rooms(tmp_path / "other", (5,), 1, seed=1, progress=False)
    first = folder / "Area_5" / "office_1"
    files = sorted(path.relative_to(first) for path in first.rglob("*.txt"))
    assert files == sorted(path.relative_to(again) for path in again.rglob("*.txt"))
    assert all((first / file).read_bytes() == (again / file).read_bytes() for file in files)
    assert (first / "office_1.txt").read_bytes() != (other / "office_1.txt").read_bytes()
    assert np.array_equal(np.random.get_state()[1], before)


def test_an_interrupted_call_leaves_whole_rooms_and_goes_on(folder, tmp_path, monkeypatch):
    """Promise: nothing half written has a room's name; what was whole is not written again."""
    write = script.write_room

    def fails(home, *rest):
        write(home, *rest)
        if home.name == "hallway_1":
            (home / "hallway_1.txt").write_bytes(b"half")
            raise OSError(28, "No space left on device", str(home))

    monkeypatch.setattr(script, "write_room", fails)
    with pytest.raises(OSError, match="No space left"):
        simulate_rooms(tmp_path, (1,), 3, progress=False)
    assert [path.name for path in tmp_path.glob("Area_*/*")] == ["office_1"]
    assert {path.name for path in tmp_path.iterdir()} == {"Area_1", "SIMULATED.json"}
    monkeypatch.undo()
    written = (tmp_path / "Area_1/office_1/office_1.txt").stat().st_mtime_ns
    (tmp_path / ".unfinished/hallway_1/Annotations").mkdir(parents=True)  # as a killed call does
    rooms = simulate_rooms(tmp_path, (1,), 2, progress=False)
    assert [room.name for room in rooms] == ["office_1", "hallway_1"]
    assert (tmp_path / "Area_1/office_1/office_1.txt").stat().st_mtime_ns == written
    for room in rooms:
        for file in room.rglob("*.txt"):
            assert file.read_bytes() == (folder / file.relative_to(tmp_path)).read_bytes()


def test_lines_are_what_numpy_writes(tmp_path):
    """Promise: the fast writer rounds as `numpy.savetxt` does."""
    generator = np.random.default_rng(0)
    points = generator.normal(0, 20, (500, 3))
    colours = generator.integers(0, 256, (500, 3)).astype(np.uint8)
    np.savetxt(tmp_path / "numpy.txt", np.hstack([points, colours]), fmt="%.3f %.3f %.3f %d %d %d")
    assert script.lines(points, colours) == (tmp_path / "numpy.txt").read_bytes()


@pytest.mark.parametrize("settings, message", [
    ({"areas": (0, 1)}, r"expected different ones of \(1, 2, 3, 4, 5, 6\), got \(0, 1\)"),
    ({"areas": (1, 1)}, r"got \(1, 1\)"),
    ({"areas": ()}, r"got \(\)"),
    ({"rooms_per_area": 0}, "1 room or more"),
    ({"seed": -1}, "seed of 0 or more"),
])  # fmt: skip
def test_settings_without_sense_are_refused(tmp_path, settings, message):
    """Promise: before anything is written."""
    with pytest.raises(ValueError, match=message):
        simulate_rooms(tmp_path / "rooms", progress=False, **settings)
    assert not (tmp_path / "rooms").exists()


def test_a_folder_with_other_rooms_is_refused(tmp_path):
    """Promise: rooms of two seeds, or real ones, never mix."""
    (tmp_path / "real" / "Area_1" / "office_1").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds rooms but no SIMULATED\.json"):
        simulate_rooms(tmp_path / "real", (1,), 1, progress=False)
    note = tmp_path / "SIMULATED.json"
    note.write_text('{"simulated": true, "seed": 7}')
    with pytest.raises(ValueError, match="got .*7.*; remove"):
        simulate_rooms(tmp_path, (1,), 1, progress=False)
    note.write_text("{")
    with pytest.raises(ValueError, match="expected JSON"):
        simulate_rooms(tmp_path, (1,), 1, progress=False)
