"""05: the classification networks: sizes, initial weights, outputs, gradients, what regimes train.

The networks get the original's voxels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from i2p_lib.inflation import inflate, initialize
from i2p_lib.inflation.regimes import freeze
from i2p_lib.models.res16 import res16unet34
from i2p_lib.sparse import SparseTensor
from i2p_lib.weights import image_model
from tests.golden.filters import checksum
from tests.golden.items import item
from tests.golden.original import (
    apart,
    golden,
    load_closed_form,
    our_name,
    tensor,
    their_taps,
    voxels,
)

MODES = {"io": "io", "ioms": "io+ms", "iobn": "io+bn", "all": "all"}
"""The original's name of a regime -> ours."""
ROUNDING = 1e-9
LEAK = 1 + 1e-8
"""What the original divides features by on their way from voxels to points and back at stride 1.
In training, norms over four rows of logits blow even that up, so the tests divide as well."""


def file(depth: int, form: str = "float64_exact") -> str:
    return f"05_spvcnn{depth}_cls_{form}"


@cache
def _built(depth: int) -> nn.Module:
    """A scratch network as named runs build it."""
    random = torch.Generator().manual_seed(0)
    if depth == 34:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            image = res16unet34()
        return inflate(image, 3, 40, "y", normalize=False, generator=random)
    image = image_model("resnet18", "random", seed=0)
    return inflate(image, 3, 40, "y", normalize=False, recipe="paper",
                   generator=random)  # fmt: skip


def network(depth: int) -> nn.Module:
    """A copy that may be changed."""
    return copy.deepcopy(_built(depth))


def leaking(net: nn.Module) -> nn.Module:
    """The network whose input layer divides its output by LEAK."""
    net.bn1.register_forward_hook(lambda layer, inputs, out: out.replace(out.feats / LEAK))
    return net


def batch(depth: int) -> tuple[SparseTensor, Tensor]:
    """The original's voxels, and the labels."""
    x = voxels(tensor(file(depth), "coords"), tensor(file(depth), "feats"))
    return x, tensor(file(depth), "targets").ravel()


def named(depth: int, values: dict[str, Tensor]) -> Iterable[Tensor]:
    """Our tensors by our names in the original's order and with its order of taps."""
    for name in golden(file(depth))["names"].tolist():
        value = values[our_name(name)]
        yield their_taps(value) if name.endswith("kernel") else value


@cache
def passed(depth: int, training: bool) -> dict[str, Tensor]:
    """What a pass forward and back gives, by the names of the golden arrays."""
    net = load_closed_form(network(depth), file(depth)).train(training)
    if training:
        leaking(net)
    x, targets = batch(depth)
    logits = net(x)
    loss = cross_entropy(logits, targets)
    loss.backward()
    grads = list(named(depth, {name: p.grad for name, p in net.named_parameters()}))
    state, order = net.state_dict(), golden(file(depth))["state_dict_names"].tolist()
    mode, key = ("train", "") if training else ("eval", "eval_")
    return {
        f"logits_{mode}": logits.detach(), f"loss_{mode}": loss.detach(),
        f"{key}grad_norm": torch.stack([grad.norm() for grad in grads]),
        f"{key}grad_first4": torch.stack([grad.flatten()[:4] for grad in grads]),
    } | {f"{kind}_norm": torch.stack([state[our_name(name)].norm() for name in order
                                      if name.endswith(kind)])
         for kind in ("running_mean", "running_var")}  # fmt: skip


def differ(depth: int, training: bool, *keys: str) -> float:
    found = passed(depth, training)
    return max(apart(found[key], tensor(file(depth), key)) for key in keys)


for _depth in (18, 34):

    @item(f"05 SPVCNN{_depth} logits, eval", ROUNDING)
    def evaluated(depth: int = _depth) -> float:
        """Logits and loss of four clouds in eval mode, closed-form weights, float64."""
        return differ(depth, False, "logits_eval", "loss_eval")

    @item(f"05 SPVCNN{_depth} logits, eval, float32", 1e-5)
    def single(depth: int = _depth) -> float:
        """Logits of four clouds in eval mode in float32."""
        net = load_closed_form(network(depth), file(depth)).float().eval()
        x, _ = batch(depth)
        with torch.no_grad():
            return apart(net(x.to(torch.float32)), tensor(file(depth, "float32"), "logits_eval"))

    @item(f"05 SPVCNN{_depth} gradients, eval", ROUNDING)
    def eval_gradients(depth: int = _depth) -> float:
        """Norm and first four entries of each parameter's gradient, norms in eval mode."""
        return differ(depth, False, "eval_grad_norm", "eval_grad_first4")

    @item(f"05 SPVCNN{_depth} logits, training", ROUNDING)
    def trained(depth: int = _depth) -> float:
        """Logits and loss of four clouds in training mode."""
        return differ(depth, True, "logits_train", "loss_train")

    @item(f"05 SPVCNN{_depth} gradients, training", ROUNDING)
    def train_gradients(depth: int = _depth) -> float:
        """Norm and first four entries of each parameter's gradient in training mode."""
        return differ(depth, True, "grad_norm", "grad_first4")

    @item(f"05 SPVCNN{_depth} running statistics", ROUNDING)
    def statistics(depth: int = _depth) -> float:
        """Norms of the running means and variances after one training pass."""
        return differ(depth, True, "running_mean_norm", "running_var_norm")


for _depth in (18, 34):
    for _mode in MODES:

        @item(f"05 SPVCNN{_depth} what {_mode} trains", unit="parameters")
        def trains(depth: int = _depth, mode: str = _mode) -> float:
            """Trained parameters (of all: all there are), and which norms stay in eval mode."""
            net, data = network(depth), golden(file(depth, "float32"))
            trained = freeze(net, MODES[mode]).query("trained")["values"].sum()
            still = {name for name, layer in net.named_modules()
                     if getattr(layer, "frozen_stats", False)}  # fmt: skip
            theirs = {our_name(f"{name}.x").removesuffix(".x")
                      for name in data[f"bn_eval_{mode}"].tolist()}
            return abs(trained - int(data[f"trainable_{mode}_count"])) + len(still ^ theirs)


for _depth in (18, 34):

    @item(f"05 SPVCNN{_depth} initial weights", 1e-6)
    def initial(depth: int = _depth) -> float:
        """Three sums over all tensors and the first four values of each, as `initialize` draws
        them after seed 0: kernels, classifier and norms."""
        net, data = network(depth), golden(file(depth, "float32"))
        initialize(net, "torchsparse", torch.Generator().manual_seed(0))
        values, names = net.state_dict(), data["state_dict_names"].tolist()
        every = [their_taps(values[our_name(name)]) if name.endswith("kernel")
                 else values[our_name(name)] for name in names]  # fmt: skip
        first = torch.stack([value.flatten()[:4] for value in named(depth, values)])
        return max(apart(checksum(every), data["init_checksum"]),
                   apart(first, data["init_first4"]))  # fmt: skip
