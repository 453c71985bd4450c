"""KiCad's parts: VRML is read rightly or refused, and no family of parts is in two splits."""

import csv
import io
import itertools
import json
import tarfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import trimesh

from i2p_lib.data import dataset_card, load_dataset
from i2p_lib.data.modelnet import load_folder

NOTICE = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Comment: words
 and more of them

Files: *
Copyright: 2018, Everyone
License: CC-BY-SA-4.0-with-exception

Files: Odd.3dshapes/*
 Box_1.00mm.3dshapes/Strange_?.wrl
Copyright: 2019, Someone
License: GPL-3+
"""


def face_set(vertices, faces) -> str:
    """Return a shape as KiCad's exporter writes it."""
    index = ",".join(",".join(map(str, [*face, -1])) for face in faces)
    points = ",".join(" ".join(f"{c:.4f}" for c in vertex) for vertex in vertices)
    return (
        "Shape { geometry IndexedFaceSet \n"
        f"{{ creaseAngle 0.50 coordIndex [{index}]\ncoord Coordinate {{ point [{points}]\n}}}}\n"
        "appearance Appearance{material USE PIN-01 }\n}\n"
    )


def vrml(*meshes) -> bytes:
    text = "".join(face_set(mesh.vertices, mesh.faces) for mesh in meshes)
    return ("#VRML V2.0 utf8\n# a comment on IndexedFaceSet { point [\n" + text).encode()


def box(size) -> trimesh.Trimesh:
    return trimesh.creation.box(size)


@pytest.fixture(scope="module")
def script(data_script):
    return data_script("build_kicad_parts")


@pytest.fixture(scope="module")
def read(data_script):
    return data_script("_vrml").read_triangles


@pytest.fixture
def library(tmp_path) -> Path:
    """An unpacked package: 2 classes of 5 families with 4 parts each, one of two pitches."""
    root = tmp_path / "package" / "usr"
    notice = root / "share" / "doc" / "kicad-packages3d" / "copyright"
    notice.parent.mkdir(parents=True)
    notice.write_text(NOTICE)
    for kind, tall in (("Box", 1), ("Rod", 6)):
        for family, number in itertools.product("ABCDE", range(4)):
            pitch = f"{1 + number % 2}.00mm"
            folder = root / "share" / "kicad" / "3dmodels" / f"{kind}_{pitch}.3dshapes"
            folder.mkdir(parents=True, exist_ok=True)
            size = (1 + ord(family) - ord("A"), 1 + number / 4, tall)
            (folder / f"{family}_{number}x02_P{pitch}.wrl").write_bytes(vrml(box(size)))
    (root / "share/kicad/3dmodels/Box_1.00mm.3dshapes/Strange_1.wrl").write_bytes(b"GPL")
    (root / "share/kicad/3dmodels/Rod_1.00mm.3dshapes/F_9.wrl").write_bytes(b"no model")
    return root


def test_a_file_gives_the_triangles_that_were_written(read):
    meshes = [trimesh.creation.icosphere(2), box((1, 2, 3))]
    vertices, triangles = read(vrml(*meshes))
    whole = trimesh.Trimesh(vertices, triangles, process=False)
    assert len(triangles) == sum(len(mesh.faces) for mesh in meshes)
    assert whole.area == pytest.approx(sum(mesh.area for mesh in meshes), rel=1e-3)
    assert np.allclose(whole.vertices[: len(meshes[0].vertices)], meshes[0].vertices, atol=1e-4)


def test_polygons_become_fans_and_the_last_needs_no_end(read):
    text = face_set([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (9, 9, 9)], [(0, 1, 2, 3), (0, 1)])
    _, triangles = read(b"#VRML V2.0 utf8\n" + text.replace(",0,1,-1]", "]").encode())
    assert triangles.tolist() == [[0, 1, 2], [0, 2, 3]]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"#VRML V2.0", b"#VRML V1.0", "begins with #VRML V2.0"),
        (b"Shape", b"Transform", "node Transform is not read"),
        (b"[0.", b"[x.", "face set 0: point"),
        (b"[0.", b"[0. ", "finite x y z"),
        (b"[0.", b"[nan 0 0 0.", "finite x y z"),
        (b"[0,", b"[99,", "indices 0 to 3, or -1, got -1 to 99"),
        (b"[0,", b"[-2,", "or -1, got -2"),
        (b"[0,", b"[0.5,", "face set 0: coordIndex"),
        (b"[0,", b"[99999999999999999999,", "face set 0: coordIndex"),
        (b"point [", b"pt [", "one list 'point"),
        (b"IndexedFaceSet", b"IndexedLineSet", "no face"),
    ],
)
def test_a_file_that_is_not_understood_is_refused_with_its_reason(read, old, new, message):
    square = face_set([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)], [(0, 1, 2, 3)]).encode()
    good = b"#VRML V2.0 utf8\n" + square
    assert len(read(good)[1]) == 2 and old in good
    with pytest.raises(ValueError, match=message):
        read(good.replace(old, new, 1))


def test_a_file_cut_anywhere_or_too_large_is_refused_or_read_never_more(read):
    good = vrml(box((1, 1, 1)))
    for end in range(0, len(good), 7):
        try:
            assert len(read(good[:end])[1]) <= 12
        except ValueError:
            pass
    with pytest.raises(ValueError, match="at most"):
        read(good + b" " * 2**24)


def test_families_are_names_without_their_numbers(script):
    names = ["PinHeader_1x02_P1.00mm_Vertical", "PinHeader_2x40_P1.00mm_Vertical",
             "PinHeader_2x40_P1.00mm_Horizontal"]
    first, second, third = map(script.family_of, names)
    assert first == second != third
    folders = ["Connector_PinHeader_1.27mm.3dshapes", "Package_SO.3dshapes"]
    assert list(map(script.class_of, folders)) == ["Connector_PinHeader", "Package_SO"]


def test_the_licence_of_a_file_is_that_of_its_last_stanza(script):
    licence_of = script.licences(NOTICE)
    free = ("CC-BY-SA-4.0-with-exception", "2018, Everyone")
    assert licence_of("Package_SO.3dshapes/SO-8.wrl") == free
    assert licence_of("Odd.3dshapes/any.wrl") == ("GPL-3+", "2019, Someone")
    assert licence_of("Box_1.00mm.3dshapes/Strange_1.wrl")[0] == "GPL-3+"
    assert licence_of("Box_1.00mm.3dshapes/Strange_10.wrl") == free


def test_a_part_with_the_shape_of_one_in_another_split_is_left_out(script):
    clouds = {
        name: script.cloud_of(box(size), name)
        for name, size in {
            "a": (1, 1, 3), "b": (1, 1, 3), "c": (1, 2, 3), "d": (2, 1, 3), "e": (3, 3, 1)
        }.items()
    }
    split = {"a": "train", "b": "train", "c": "val", "d": "test", "e": "test"}
    assert script.without_twins(split, clouds) == (
        {"a": "train", "b": "train", "c": "val", "e": "test"}, ["d"]
    )
    assert script.without_twins(split | {"b": "val"}, clouds)[1] == ["b", "d"]


def test_a_class_is_cut_to_the_cap_with_its_families_in_turn(script):
    sizes = {"A": 3 * script.CAP, "B": 10, "C": 1}
    parts = [script.Part(f"{f}{i}", "Box", f, Path(), "") for f in sizes for i in range(sizes[f])]
    (members,) = script.choose(parts).values()
    counts = Counter(part.family for part in members)
    assert counts == {"A": script.CAP - 11, "B": 10, "C": 1}
    few = [script.Part(str(i), "Rod", str(i), Path(), "") for i in range(script.LEAST - 1)]
    assert script.choose(few) == {}


def test_a_library_becomes_a_set_that_loads_with_no_family_in_two_splits(script, library, tmp_path):
    output = tmp_path / "cache" / "kicad_parts"
    assert script.main([str(library), "--output", str(output)]) == 0
    rows = list(csv.DictReader(open(output / "provenance.csv", encoding="utf-8")))
    skipped = json.loads((output / "manifest.json").read_text())["skipped"]
    twins = [name for name, reason in skipped.items() if reason.startswith("the shape of")]
    assert len(rows) + len(twins) == 40 and {row["class"] for row in rows} == {"Box", "Rod"}
    splits = defaultdict(set)
    for row in rows:
        splits[row["class"], row["family"]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert skipped["Box_1.00mm/Strange_1"] == "licence GPL-3+"
    assert "begins with #VRML" in skipped["Rod_1.00mm/F_9"]
    for split in ("train", "val", "test"):
        clouds = load_folder(output, "kicad_parts", split)
        mine = [row for row in rows if row["split"] == split]
        assert [clouds.class_names[label] for label in clouds.labels] == [r["class"] for r in mine]
        assert np.linalg.norm(clouds.points, axis=2).max() <= 1
    again = tmp_path / "again"
    assert script.main([str(library), "--output", str(again), "--workers", "2"]) == 0
    for path in output.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["kicad_parts"]


def test_a_debian_package_is_unpacked_as_its_folder_is(script, library, tmp_path, data_script):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as tar:
        tar.add(library, "./usr")
    content = data.getvalue()
    deb = tmp_path / "parts.deb"
    deb.write_bytes(
        b"!<arch>\n" + b"debian-binary".ljust(48) + b"4".ljust(10) + b"`\n2.0\n"
        + b"data.tar.xz".ljust(48) + str(len(content)).encode().ljust(10) + b"`\n" + content
    )  # fmt: skip
    files, notice = script.package_files(deb, tmp_path / "scratch")
    expected, _ = script.package_files(library, tmp_path)
    assert [p.parts[-2:] for p in files] == [p.parts[-2:] for p in expected]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(files, expected, strict=True))
    assert notice.read_text() == NOTICE
    deb.write_bytes(deb.read_bytes()[:-300])
    with pytest.raises(ValueError, match="damaged or cut short"):
        script.package_files(deb, tmp_path / "other")


@pytest.mark.skipif(
    not dataset_card("kicad_parts").root().is_dir(),
    reason="needs kicad_parts: python data_scripts/build_kicad_parts.py",
)
def test_the_card_tells_the_truth_of_the_built_set():
    card = dataset_card("kicad_parts")
    for split, count in card.splits.items():
        clouds = load_dataset("kicad_parts", split)
        assert clouds.points.shape == (count, card.points, 3)
        assert len(clouds.class_names) == card.classes
        assert len(set(clouds.labels.tolist())) == card.classes
