"""The stages of an image network: names, outputs, layers around them, and new residual ones."""

from contextlib import suppress

from torch import Tensor, nn

from i2p_lib.inflation.regimes import within
from i2p_lib.inflation.trace import trace, watched
from i2p_lib.sparse import SparseTensor


class _Reached(Exception):
    """The last stage has run; what follows it is not wanted."""


def stage_names(model: nn.Module) -> tuple[str, ...]:
    """Name the modules whose outputs are an image network's feature maps, finest first.

    timm's networks list them (``feature_info``), torchvision's ResNets have ``layer1`` to
    ``layer4``.  The last stage of an HRNet gives all its maps at once.  What holds the first
    convolution is no stage.

    Raises:
        ValueError: a network without named stages.
    """
    if hasattr(model, "stage4") and hasattr(model, "transition3"):
        return ("stage4",)
    listed = [entry["module"] for entry in getattr(model, "feature_info", None) or ()]
    listed = listed or [name for name, _ in model.named_children() if name.startswith("layer")]
    convolutions = [f"{n}." for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    names = [name for name in listed if not within(convolutions[0], [name])
             and any(within(convolution, [name]) for convolution in convolutions)]  # fmt: skip
    if not names:
        raise ValueError(f"{type(model).__name__} has no named stages: take a convolutional "
                         "network of timm that lists its features, or a ResNet of torchvision")
    return tuple(names)


def around_stages(model: nn.Module, stages: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Names of an image network's layers before its first stage, and behind its last one.

    They are in the order in which they run; a layer inside another one is not named again.
    """
    names = [step.name for step in trace(model)]
    inside = [n for n, name in enumerate(names) if within(name, stages)]
    return _outermost(names[: inside[0]]), _outermost(names[inside[-1] + 1 :])


def stage_outputs(net: nn.Module, stages: tuple[str, ...], x: Tensor | SparseTensor) -> list:
    """Run a network's own ``forward`` up to its last stage; the outputs of the stages, in order.

    A stage that gives several maps adds each of them.
    """
    seen: dict[str, object] = {}

    def keep(name: str, _: object, output: object) -> None:
        seen[name] = output
        if len(seen) == len(stages):
            raise _Reached

    with suppress(_Reached), watched(net, stages, keep):
        net(x)
    outputs = [seen[name] for name in stages]
    return [x for y in outputs for x in (y if isinstance(y, list | tuple) else [y])]


def with_norm_behind(model: nn.Module, layer: str, names: list[str]) -> list[str]:
    """A layer's name, and that of the norm right behind it, if there is one, among the names."""
    behind = names[names.index(layer) + 1 :][:1]
    return [layer, *(n for n in behind if isinstance(model.get_submodule(n), nn.BatchNorm2d))]


def _outermost(names: list[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if not within(name, names)]


def residual_stage(block: type[nn.Module], channels_in: int, width: int, depth: int,
                   stride: int = 1) -> nn.Sequential:
    """One stage of torchvision's ``BasicBlock`` or ``Bottleneck``, as its own ResNets have them.

    Args:
        channels_in: channels of the input; the output has ``width * block.expansion``.
        depth: number of blocks; the first has the stride and, where shapes differ, a shortcut
            of a 1x1 convolution and a norm.
    """
    channels = width * block.expansion
    shortcut = None
    if stride != 1 or channels_in != channels:
        shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False),
                                 nn.BatchNorm2d(channels))
    first = block(channels_in, width, stride, shortcut)
    return nn.Sequential(first, *(block(channels, width) for _ in range(depth - 1)))


def he_init(net: nn.Module) -> nn.Module:
    """Draw each convolution anew as torchvision's ResNets do: normal, He, by the fan-out."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return net
