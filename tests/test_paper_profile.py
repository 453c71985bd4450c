"""Every network of the paper's own profile trains on data in ModelNet40's layout."""

import math

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from i2p_lib import paper
from i2p_lib.runs.execute import begin
from i2p_lib.runs.profiles import load_profile
from i2p_lib.runs.spec import RunSpec
from i2p_lib.train.loop import train

CLASSIFIED = [s for s in load_profile("paper").all_specs() if isinstance(s, RunSpec)]
SPECS = {spec.model: spec for spec in reversed(CLASSIFIED)}  # the first of each network
CLASSES = 40


@pytest.fixture(scope="module")
def modelnet40(tmp_path_factory):
    """The folder of a set in ModelNet40's layout: 40 classes, two clouds each to train on."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "modelnet40_ply_hdf5_2048"
    folder.mkdir()
    random = np.random.default_rng(0)
    for split, count in (("train", 2 * CLASSES), ("test", CLASSES)):
        points = random.uniform(-1, 1, (count, 2048, 3)).astype(np.float32)
        points /= np.linalg.norm(points, axis=2).max(1)[:, None, None]
        labels = np.arange(count, dtype=np.uint8)[:, None] % CLASSES
        with h5py.File(folder / f"ply_data_{split}0.h5", "w") as file:
            file["data"], file["label"] = points, labels
    names = "\n".join(f"class_{number}" for number in range(CLASSES))
    (folder / "shape_names.txt").write_text(names + "\n", encoding="utf-8")
    return root


def test_every_row_of_the_papers_tables_is_a_released_run():
    """Promise: each printed value has a run in the original's settings, where they are known."""
    scenes = [s for s in load_profile("paper").all_specs() if s not in CLASSIFIED]
    rows = pd.concat([paper.rows_of_runs(pd.DataFrame([s.row() for s in specs]).assign(**score))
                      for specs, score in ((CLASSIFIED, {"top1": 0.5}), (scenes, {"miou": 0.5}))])
    unknown = {"vit_b_16", "vit_l_16", "simpleview", "pointnet2_ssg", "hrnetv2_w48"}
    for item in ("fig2a", "fig2b", "table1", "table2", "table3", "table4"):
        table = paper.compare(item, rows)
        printed = table[table["verdict"] != paper.Verdict.NOT_IN_PAPER]
        assert printed["ours"].notna().all(), item
        other = printed[printed["setting"] != "as in the paper"]
        assert set(other["model"]) <= unknown, item


def samples(net):
    """About a thousand values of each weight: whole copies of the large networks take gigabytes."""
    return {name: p.detach().flatten()[:: max(1, p.numel() // 1000)].clone()
            for name, p in net.named_parameters() if p.ndim > 1}  # fmt: skip


@pytest.mark.parametrize("model", SPECS)
def test_each_network_trains_two_steps(model, modelnet40, monkeypatch):
    """Promise: no row of Figures 2 and 3 and Tables 1, 3 and 4 lacks code.

    Voxels are small enough to leave a cloud several sites in the last stage.  With 0.2 the grid of
    the released protocol leaves one: batch norm over two rows then makes gradients of 1e17 in the
    BagNets, in float64 as well.
    """
    monkeypatch.setenv("I2P_DATA", str(modelnet40))
    spec = SPECS[model].but(
        weights="random", regime="all", points=256, voxel_size=0.1, epochs=1, batch_size=2,
        train_limit=4, test_limit=2, probe_epochs=(), shots=None, episode=None,
        teacher=None, distill=None, temperature=None,
    )  # fmt: skip
    state = begin(spec)
    before = samples(state.net)
    train(state)
    assert math.isfinite(state.history[0]["train_loss"])
    assert 0 <= state.history[0]["test_top1"] <= 1
    after = samples(state.net)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(moved) > 0.9 * len(before)
