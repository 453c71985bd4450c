"""What a segmentation run will cost is known before its data are here."""

import math

import pytest
from tiny_scenes import ROOM

from i2p_lib.data.scenes import scene_card
from i2p_lib.runs import cluster, cost
from i2p_lib.runs.cost import CostModel, items_measured
from i2p_lib.runs.needs import plan, plan_text
from i2p_lib.runs.profiles import load_profile
from i2p_lib.runs.spec import SegmentSpec
from i2p_lib.runs.store import Entry


def counts(spec: SegmentSpec) -> tuple[int, int, int]:
    return tuple(cost.sizes(spec)[name] for name in ("train", "val", "test"))


def test_the_published_numbers_count_where_the_set_is_not_here(tmp_path, monkeypatch):
    """Promise: S3DIS has 204 and 68 rooms, SemanticKITTI 19,130 and 4,071 scans."""
    monkeypatch.setenv("I2P_DATA", str(tmp_path))
    released = SegmentSpec(scenes="s3dis", protocol="released")
    assert counts(released) == (204, 68, 68)
    assert counts(released.but(protocol="clean")) == (184, 20, 68)
    assert counts(released.but(train_limit=9, test_limit=3)) == (9, 3, 3)
    assert counts(released.but(protocol="tuning")) == (184, 20, 0)
    assert counts(released.but(scenes="semantic_kitti")) == (19130, 4071, 4071)
    with pytest.raises(ValueError, match="its size is not known"):
        counts(released.but(scenes="simulated_rooms"))


def test_scenes_are_measured_where_they_are_validated_and_once_to_test(tmp_path, monkeypatch):
    monkeypatch.setenv("I2P_DATA", str(tmp_path))
    assert items_measured(SegmentSpec(scenes="s3dis", epochs=10, validate_every=4)) == 3 * 20 + 68


@pytest.mark.parametrize("name", ["s3dis", "semantic_kitti"])
def test_a_stand_in_is_a_scene_of_the_set(name):
    scene = cost.stand_in(name)
    assert len(scene) == scene_card(name).typical_points
    height = scene.points[:, 2].max() - scene.points[:, 2].min()
    assert height <= 3 and scene.features.shape[1] == {"s3dis": 3}.get(name, 1)

def test_a_plan_estimates_both_kinds_of_run(scene_data, tmp_path):
    path = tmp_path / "both.yml"
    path.write_text(
        "description: both\n"
        "experiments:\n"
        "  rooms: [{scenes: s3dis, model: 'unet:efficientnet_lite0', voxel_size: 0.4, "
        "decoder_width: 0.125, epochs: 2}]\n"
    )
    profile, costs = load_profile(path), CostModel.of("cpu", tmp_path / "runs")
    table = plan(profile, costs, tmp_path / "runs")
    assert len(table) == 1 and table["seconds"][0] > 0 and table["gib"][0] > 0
    assert "rooms" in plan_text(profile, table, costs)
    unknown = profile.experiment("rooms")[0].but(scenes="simulated_rooms")
    other = profile.model_copy(update={"experiments": {"rooms": (unknown,)}})
    gone = plan(other, costs, tmp_path / "runs")
    assert math.isnan(gone["seconds"][0]) and gone["needs"][0]


def test_a_run_made_elsewhere_is_put_into_its_place(rooms, tmp_path):
    """Promise: a cluster's worker hands over all files of a segmentation, and they are checked."""
    _, (result, _) = rooms
    entry = Entry.of(ROOM, tmp_path)
    cluster.unpack(entry, cluster.packed(result.folder))
    assert entry.done()
