"""Costs are counted as stated: pairs of occupied voxels, and all parameters."""

import torch
from made_notebooks import chapter_functions
from torch import nn

from i2p_lib.runs.spec import RunSpec
from i2p_lib.sources import PACKAGE
from i2p_lib.sparse import SparseConv3d, SparseGlobalPool, voxelize

chapter = chapter_functions(PACKAGE.parent / "notebooks" / "02_benchmarks.ipynb")


def brute_force_pairs(coords, kernel):
    occupied = set(map(tuple, coords.tolist()))
    reach = range(-(kernel // 2), kernel // 2 + 1)
    return sum((b, x + i, y + j, z + k) in occupied
               for b, x, y, z in occupied for i in reach for j in reach for k in reach)


def test_macs_equal_a_count_by_hand():
    net = nn.Sequential(SparseConv3d(3, 8, 3), SparseConv3d(8, 8, 5, groups=8),
                        SparseConv3d(8, 4, 1), SparseGlobalPool(1), nn.Flatten(), nn.Linear(4, 2))
    x = voxelize(torch.rand(2, 40, 3, generator=torch.Generator().manual_seed(0)), 0.2)
    macs = chapter.layer_macs(net, x)
    assert macs["0"] == brute_force_pairs(x.coords, 3) * 3 * 8
    assert macs["1"] == brute_force_pairs(x.coords, 5) * 8
    assert macs["2"] == len(x.coords) * 8 * 4
    assert macs["5"] == 2 * 4 * 2


def test_the_table_counts_the_parameters_of_both_networks():
    x = voxelize(torch.rand(2, 256, 3, generator=torch.Generator().manual_seed(0)), 0.2)
    table = chapter.cost_table(("efficientnet_lite0",), x, 16, RunSpec(recipe="paper"))
    row = table.set_index("network").loc["efficientnet_lite0"]
    assert round(row["image parameters (M)"], 2) == 4.65  # timm's count of the image network
    assert round(row["point parameters (M)"], 2) == 4.07
    assert row["GMACs per cloud"] > 0 and row["ms per cloud"] > 0
