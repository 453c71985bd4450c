"""Patch shuffling: what is kept of a cloud, and what is destroyed."""

from collections import Counter

import pytest
import torch
from made_notebooks import chapter_functions

from i2p_lib.sources import PACKAGE

chapter = chapter_functions(PACKAGE.parent / "notebooks" / "08_discussion.ipynb")
scatter_in_patches, shuffle_patches = chapter.scatter_in_patches, chapter.shuffle_patches
SIZE = 0.25  # a power of two, so that shifts are exact


def cloud(points=300, seed=0):
    return torch.rand(points, 3, generator=torch.Generator().manual_seed(seed)) * 1.9 - 0.95


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def contents(points):
    """{cell: the places of its points within it, as a multiset}, point by point in Python."""
    found: dict[tuple, Counter] = {}
    for point in points.double().tolist():
        cell = tuple(int(v // SIZE) for v in point)
        inner = tuple(round(v - c * SIZE, 5) for v, c in zip(point, cell, strict=True))
        found.setdefault(cell, Counter())[inner] += 1
    return found


def test_patch_shuffling_keeps_every_patch_and_no_arrangement():
    """Promise: the multiset of patches is as before, and the cells lie elsewhere."""
    before = cloud()
    after = shuffle_patches(before, SIZE, generator())
    old, new = contents(before), contents(after)
    def patches(found):
        return Counter(frozenset(part.items()) for part in found.values())

    assert patches(old) == patches(new)
    assert len(new) == len(old)
    same = sum(old[cell] == new.get(cell) for cell in old)
    assert same < 0.05 * len(old)
    assert float(after.abs().max()) <= 1.0, "no cell leaves the cube"


def test_points_of_one_cell_stay_together_and_in_their_order():
    before = cloud()
    shift = shuffle_patches(before, SIZE, generator()) - before
    cells = torch.floor(before / SIZE)
    for cell in cells.unique(dim=0):
        mine = shift[(cells == cell).all(1)]
        torch.testing.assert_close(mine, mine[:1].expand_as(mine))
    steps = shift / SIZE
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)


def test_all_arrangements_of_cells_are_alike_likely():
    """Promise: a cell comes to lie in each of the eight octants equally often."""
    one = torch.tensor([[0.5, 0.5, 0.5]])
    draw = generator()
    seen = Counter(tuple(shuffle_patches(one, 1.0, draw)[0].sign().tolist()) for _ in range(800))
    assert len(seen) == 8 and min(seen.values()) > 60


def test_scattering_in_cells_keeps_the_counts_of_all_cells_and_no_detail():
    """Promise: each point stays in its own cell, and fills it evenly."""
    before = torch.cat([cloud(), 0.01 * cloud(400, 3) + 0.125])  # a clump in one cell
    after = scatter_in_patches(before, SIZE, generator())
    torch.testing.assert_close(torch.floor(after / SIZE), torch.floor(before / SIZE))
    clump = after[300:]
    assert float(before[300:].std()) < 0.01
    assert clump.std(0) == pytest.approx([SIZE / 12**0.5] * 3, rel=0.1)


@pytest.mark.parametrize("shuffle", chapter.SHUFFLES.values())
def test_a_shuffle_is_the_same_for_the_same_generator_and_leaves_its_input(shuffle):
    before = cloud(50, 0)
    kept = before.clone()
    first, again = (shuffle(before, 0.3, generator()) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(before, kept)
    assert first.shape == before.shape and not torch.equal(first, before)
    assert not torch.equal(first, shuffle(before, 0.3, generator(2)))
