"""Kernels at the size of another network's: norms are the other's, directions stay."""

import pytest
import torch

from i2p_lib.inflation import match_norms
from i2p_lib.runs.spec import RunSpec
from i2p_lib.train.classify import build_network


def test_matched_norms_are_the_other_networks_and_directions_stay() -> None:
    spec = RunSpec(recipe="paper", weights="random", init="torchsparse")
    plain, image = (build_network(s, 16) for s in (spec, spec.but(weights="imagenet1k", init=None)))
    sized = build_network(spec.but(norms="imagenet1k"), 16)
    kernels = [name for name, role in plain.i2p_roles.items()
               if role == "backbone" and plain.get_parameter(name).ndim > 1]  # fmt: skip
    assert len(kernels) > 40
    for name in kernels:
        mine, before, theirs = (n.get_parameter(name) for n in (sized, plain, image))
        assert float(mine.norm()) == pytest.approx(float(theirs.norm()), rel=1e-5)
        torch.testing.assert_close(mine / mine.norm(), before / before.norm())
    others = set(dict(plain.named_parameters())) - set(kernels)
    assert all(torch.equal(sized.get_parameter(n), plain.get_parameter(n)) for n in others)
    small = build_network(spec.but(weights="imagenet1k", init=None, norms="torchsparse"), 16)
    for name in kernels:  # the norm of that many uniform draws
        mine, theirs = (float(n.get_parameter(name).norm()) for n in (small, plain))
        assert mine == pytest.approx(theirs, rel=0.25)
    with pytest.raises(ValueError, match="differ in"):
        match_norms(sized, build_network(RunSpec(model="resnet18", weights="random"), 16))
    with pytest.raises(ValueError, match="norms is of inflated networks"):
        spec.but(init=None, regime="io", norms="imagenet1k")
