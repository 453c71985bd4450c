"""The chapter on segmentation runs whole, on sets made from official files and without any."""

import ast

import matplotlib
import nbformat
import pytest
from IPython.display import HTML

from i2p_lib.paper import attached
from i2p_lib.runs import profiles
from i2p_lib.sources import PACKAGE

NOTEBOOK = PACKAGE.parent / "notebooks" / "07_segmentation.ipynb"
TINY = """
description: tiny copies in the official layouts
scene_defaults: {epochs: 1, train_limit: 2, test_limit: 1}
experiments:
  rooms:
    - {scenes: s3dis, model: "unet:efficientnet_lite0", weights: [random, imagenet1k], voxel_size: 0.4, decoder_width: 0.125}
    - {scenes: s3dis, model: pointnet2_ssg, weights: [random, imagenet1k_pixels], block_points: 64}
  streets:
    - {scenes: semantic_kitti, model: "range:efficientnet_lite0", weights: random, height: 32, width: 64}
chapters:
  07_segmentation: [rooms, streets]
"""  # noqa: E501


def run_cells(profile: str) -> dict:
    """Run the chapter's code in order; return its names, and what its cells ended with as text."""
    names: dict = {}
    shown = []
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        tree = ast.parse(cell.source.replace('profile = "demo"', f"profile = {profile!r}"))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, cell.id, "exec"), names)
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), cell.id, "eval"), names))
    texts = [one.data if isinstance(one, HTML) else one.to_html() for one in shown
             if isinstance(one, HTML) or hasattr(one, "to_html")]  # fmt: skip
    return names | {"text": "\n".join(texts)}


@pytest.fixture
def profile_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "profiles_folder", lambda: tmp_path)
    monkeypatch.setenv("I2P_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("I2P_WEIGHTS", str(tmp_path / "no weights"))
    matplotlib.use("agg")
    return tmp_path


@pytest.mark.slow
def test_the_chapter_shows_all_three_networks_beside_the_paper(
    profile_folder, scene_data, cell_outputs
):
    """Promise: Table 2, the clouds, the sentences and both rules come from this profile's runs."""
    (profile_folder / "tiny.yml").write_text(TINY)
    text = run_cells("tiny")["text"]
    for part in ("unet:efficientnet_lite0", "pointnet2_ssg", "range:efficientnet_lite0", "55.09",
                 "Plotly.newPlot", "other recipe", "never released", "points of mIoU"):
        assert part in text, part
    assert text.count("Plotly.newPlot") == 2
    assert set(attached(cell_outputs, "tiny")) == {"table2"}


def test_the_chapter_stands_without_any_segmentation(profile_folder):
    """Promise: a profile without segmentation shows the paper's values and what they need."""
    (profile_folder / "none.yml").write_text("description: none\nexperiments: {}\n")
    text = run_cells("none")["text"]
    assert text.count("ran no network") == 2 and "needs S3DIS" in text and "56.62" in text


@pytest.mark.parametrize(("profile", "families"), [
    ("demo", {("simulated_rooms", "unet"): 1, ("simulated_streets", "range"): 2}),
    ("evening", {("simulated_rooms", "unet"): 2, ("simulated_streets", "unet"): 2,
                 ("simulated_streets", "range"): 2}),
])  # fmt: skip
def test_either_method_has_its_seeds_for_every_network(profile, families):
    """Promise: scratch stands against image weights on the same seeds: the demo's rooms are a
    picture from one, every other network has two."""
    found = {}
    for spec in profiles.load_profile(profile).all_specs("07_segmentation"):
        assert spec.scenes.startswith("simulated_") and spec.regime == "all"
        kind = found.setdefault((spec.scenes, spec.family), {})
        kind.setdefault(spec.weights == "random", set()).add(spec.seed)
    assert {key: len(sides[True]) for key, sides in found.items()} == families
    assert all(sides[True] == sides[False] for sides in found.values())
