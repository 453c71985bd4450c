"""Segmentation specs: wrong settings are named, and a profile may hold both kinds of run."""

import pandas as pd
import pytest

from i2p_lib.paper.rows import as_in_paper
from i2p_lib.runs import RunSpec, profiles
from i2p_lib.runs.spec import OWN, SegmentSpec, spec_from


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"voxelsize": 0.1}, "unknown setting 'voxelsize'; did you mean 'voxel_size'"),
        ({"voxel_size": -0.1}, "voxel_size.*greater than 0"),
        ({"model": "resnet18"}, "model.*got 'resnet18'"),
        ({"model": "range:hrnet_w48", "voxel_size": 0.1}, "voxel_size belongs to unet"),
        ({"model": "pointnet2_ssg", "height": 64}, "height belongs to range"),
        ({"model": "pointnet2_ssg", "normalize": False}, "axis and normalize are read by unet"),
        ({"nesterov": True}, "nesterov is read by sgd alone"),
        ({"schedule": "poly", "warmup": 0.1}, "warmup is read by the one_cycle"),
        ({"schedule": "warmup_cosine"}, "warmup_steps belongs to the schedule warmup_cosine"),
        ({"schedule": "poly", "warmup_steps": 9}, "warmup_steps belongs to the schedule"),
        ({"epochs": 0}, "epochs.*greater than or equal to 1"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_given(setting, message):
    with pytest.raises(ValueError, match=message) as error:
        spec_from({"scenes": "s3dis"} | setting, "my.yml")
    assert str(error.value).startswith("my.yml: ")


def test_every_setting_of_an_input_is_a_setting_of_the_spec():
    assert {name for some in OWN.values() for name in some} <= set(SegmentSpec.model_fields)


def test_a_spec_says_what_its_network_and_its_encoding_take():
    spec = SegmentSpec(model="unet:resnet18", voxel_size=0.1, decoder_width=0.5)
    assert spec.encoding_settings == {"voxel_size": 0.1}
    assert spec.network_settings == {"decoder_width": 0.5, "axis": "z", "normalize": True}
    assert (spec.family, spec.image_model) == ("unet", "resnet18")
    points = SegmentSpec(model="pointnet2_ssg")
    assert points.network_settings == {} and points.image_model == "pointnet2_ssg"


def test_a_spec_comes_back_from_its_json():
    for spec in (SegmentSpec(model="range:hrnet_w48", height=64), RunSpec(lr=0.1)):
        assert spec_from(spec.model_dump(mode="json"), "job") == spec


def test_a_profile_holds_both_kinds_with_their_own_defaults(tmp_path):
    path = tmp_path / "both.yml"
    path.write_text(
        "defaults: {epochs: 3, voxel_size: 0.1}\n"
        "scene_defaults: {epochs: 5}\n"
        "experiments:\n"
        "  objects: [{regime: all}]\n"
        "  rooms: [{scenes: s3dis, model: 'unet:resnet18', seed: [0, 1]}]\n"
    )
    profile = profiles.load_profile(path)
    (objects,) = profile.experiment("objects")
    rooms = profile.experiment("rooms")
    assert isinstance(objects, RunSpec) and (objects.epochs, objects.voxel_size) == (3, 0.1)
    assert all(isinstance(spec, SegmentSpec) for spec in rooms)
    assert [(spec.epochs, spec.voxel_size, spec.seed) for spec in rooms] == [
        (5, None, 0), (5, None, 1),
    ]  # fmt: skip
    path.write_text(path.read_text().replace("{epochs: 5}", "{points: 5}"))
    with pytest.raises(ValueError, match="scene_defaults: unknown setting 'points'"):
        profiles.load_profile(path)


def test_the_paper_profile_has_every_cell_of_table_2_by_the_released_recipe():
    """Promise: rows of Table 2 are specs; the U-Net's count as the paper's own setting."""
    profile = profiles.load_profile("paper")
    specs = profile.experiment("rooms") + profile.experiment("streets")
    assert {(s.scenes, s.model, s.weights) for s in specs} == {
        ("s3dis", "pointnet2_ssg", "random"), ("s3dis", "pointnet2_ssg", "imagenet1k_pixels"),
        ("s3dis", "unet:resnet18", "random"), ("s3dis", "unet:resnet18", "imagenet1k"),
        ("semantic_kitti", "unet:resnet18", "random"),
        ("semantic_kitti", "unet:resnet18", "imagenet1k"),
        ("semantic_kitti", "range:hrnet_w48", "random"),
        ("semantic_kitti", "range:hrnet_w48", "imagenet1k"),
        ("semantic_kitti", "range:hrnet_w48", "cityscapes"),
    }  # fmt: skip
    papers = as_in_paper(pd.DataFrame([spec.row() for spec in specs]))
    assert papers.tolist() == [spec.model == "unet:resnet18" for spec in specs]
    for other in ({"epochs": 3}, {"train_limit": 3}):
        changed = pd.DataFrame([spec.but(**other).row() for spec in specs])
        assert not as_in_paper(changed).any()
