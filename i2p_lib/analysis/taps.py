"""Tapping a network: the layers it has, and pooled features of each during a forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from i2p_lib.inflation.trace import watched
from i2p_lib.sparse import SparseTensor

PENULTIMATE = "penultimate"
MOST = 4  # stages


def stage_names(net: nn.Module) -> list[str]:
    """Return up to `MOST` stages, evenly chosen from first to last.

    Stages are `layer1` .. `layer4` of a ResNet, or the children of a `blocks` container; a network
    with neither has none.
    """
    children = dict(net.named_children())
    names = [name for name in children if name.startswith("layer") and name[5:].isdigit()]
    if not names and "blocks" in children:
        names = [f"blocks.{name}" for name, _ in children["blocks"].named_children()]
    count = min(MOST, len(names))
    return [names[round(i * (len(names) - 1) / max(1, count - 1))] for i in range(count)]


def backbone_convolutions(net: nn.Module) -> list[str]:
    """Return the convolutions of an inflated network that come from the image network.

    The new input layer is none of them, and shortcuts are left out: the paper's 16 layers of a
    ResNet-18 are counted so.
    """
    return [name.removesuffix(".weight") for name, role in net.i2p_roles.items()
            if role == "backbone" and name.endswith(".weight") and ".downsample." not in name
            and net.get_parameter(name).ndim > 1]  # fmt: skip


def pooled(out: SparseTensor | Tensor) -> Tensor:
    """Average the features of each cloud or image of a batch: [B, C].

    The tokens [B, T, C] of a network on points and the maps [B, C, H, W] of one on images are
    averaged too; a dense [B, C] passes through.  Raises ValueError for another shape.
    """
    if isinstance(out, SparseTensor):
        return out.replace(out.feats.float()).global_mean()
    if out.ndim not in (2, 3, 4):
        raise ValueError(f"a stage must give [B, C], [B, T, C] or [B, C, H, W], got {out.shape}")
    return out if out.ndim == 2 else out.float().mean(1 if out.ndim == 3 else (2, 3))


def classifier_weight(net: nn.Module) -> Tensor:
    """Return the weight [classes, C] of the classifier, a norm behind it folded in."""
    head = net.get_submodule(net.i2p_classifier)
    if isinstance(head, nn.Linear):
        return head.weight.detach().cpu()
    linear, norm = head
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (linear.weight * scale[:, None]).detach().cpu()


@contextmanager
def taps(net: nn.Module, stages: list[str],
         classifier: str | None = None) -> Iterator[dict[str, list[Tensor]]]:
    """Record pooled stage outputs and penultimate features of every forward pass in the block.

    The penultimate features are the input of the classifier, which networks made by `inflate`
    name themselves.
    """
    seen: dict[str, list[Tensor]] = {name: [] for name in [*stages, PENULTIMATE]}
    head = classifier or net.i2p_classifier

    def keep(name: str, x: SparseTensor | Tensor, out: SparseTensor | Tensor) -> None:
        where, what = (PENULTIMATE, x) if name == head else (name, out)
        seen[where].append(pooled(what).detach().float().cpu())

    with watched(net, [*stages, head], keep):
        yield seen
