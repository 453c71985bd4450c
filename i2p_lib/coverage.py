"""Which image classifiers can be inflated, and the proof: their logits on an extruded image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from i2p_lib.inflation import AXES, InflationError, inflate
from i2p_lib.inflation.trace import trace
from i2p_lib.sparse import Sites, SparseTensor, voxelize
from i2p_lib.weights.torchvision_import import ensure_torchvision

SIDE = 64  # of the images
TOLERANCE = 1e-6  # of the logits' response to the image, in float64
FAMILIES = {
    "alexnet": "AlexNet", "convnext": "ConvNeXt", "densenet": "DenseNet",
    "efficientnet_b": "EfficientNet", "efficientnet_v2": "EfficientNetV2",
    "googlenet": "GoogLeNet", "inception": "Inception", "maxvit": "MaxViT", "mnasnet": "MNASNet",
    "mobilenet_v2": "MobileNetV2", "mobilenet_v3": "MobileNetV3", "regnet_x": "RegNetX",
    "regnet_y": "RegNetY", "resnet": "ResNet", "resnext": "ResNeXt", "shufflenet": "ShuffleNetV2",
    "squeezenet": "SqueezeNet", "swin_v2": "Swin V2", "swin": "Swin", "vgg": "VGG", "vit": "ViT",
    "wide_resnet": "Wide ResNet",
}  # fmt: skip
EXACT = "exact"
BORDER = "exact but for the border"
INFLATED = "inflated, not run"
REFUSED = "refused"
WRONG = "wrong"


@dataclass(frozen=True)
class Coverage:
    """What became of one image classifier.

    ``deviation`` is the largest difference between the logits of the inflated network on an
    extruded image and those of the image network, as a share of what another image changes.
    """

    library: str
    family: str
    model: str
    parameters: int
    verdict: str
    deviation: float | None = None
    reason: str = ""

    def row(self) -> dict:
        """The columns of a table."""
        return asdict(self)


@cache
def torchvision_classifiers() -> tuple[str, ...]:
    """Every classifier that torchvision lists."""
    ensure_torchvision()
    import torchvision

    return tuple(sorted(torchvision.models.list_models(module=torchvision.models)))


@contextmanager
def without_data() -> Iterator[None]:
    """Models built meanwhile have parameters without data, however large they are."""

    def empty(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(parameter.to("meta"))

    hook = register_module_parameter_registration_hook(empty)
    try:
        yield
    finally:
        hook.remove()


def family(model: str) -> str:
    """The family of one of torchvision's classifiers; KeyError for one that is not known."""
    return FAMILIES[next(key for key in FAMILIES if model.startswith(key))]


def examine(model: nn.Module, library: str, group: str, name: str) -> Coverage:
    """Inflate an image classifier and compare its logits with the image network's.

    A model without data (``without_data``) is inflated and not run. The others become float64, and
    their norm statistics and constant parameters are overwritten (see ``enliven``).
    """
    parameters = sum(p.numel() for p in model.parameters())
    about = (library, group, name, parameters)
    meta = next(model.parameters()).is_meta
    try:
        trace(model)
        net = inflate(model if meta else enliven(model.double()), None, None).eval()
    except InflationError as error:
        return Coverage(*about, REFUSED, reason=str(error))
    if meta:
        return Coverage(*about, INFLATED)
    image, other = _images(2).double().split(1)
    with torch.no_grad():
        got = net(extrude(image, "z"))
        with SameBorders():
            expected, far = model(image), model(other)
            error = float((got - expected).abs().max() / (far - expected).abs().max())
            if error > TOLERANCE:
                return Coverage(*about, WRONG, error)
        exact = _keeps_its_borders(model, image, expected)
    return Coverage(*about, EXACT if exact else BORDER, error)


def _keeps_its_borders(model: nn.Module, image: Tensor, expected: Tensor) -> bool:
    """Whether the image network itself gives these logits; False where none is left of it."""
    try:
        return torch.allclose(model(image), expected, rtol=TOLERANCE)
    except RuntimeError:
        return False


def enliven(model: nn.Module) -> nn.Module:
    """Give an untrained model what a trained one has, so that no layer goes unseen in its logits.

    Parameters that start as a constant (norms, biases, layer scale) become random, and the norm
    statistics those of random images. Returns the model in evaluation mode.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
                low, high = (-0.2, 0.2) if name.endswith("bias") else (0.5, 1.5)
                parameter.uniform_(low, high, generator=generator)
        norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.train().momentum = 1.0
        for layer in model.modules():
            if not isinstance(layer, nn.BatchNorm2d):
                layer.training = False
        with SameBorders():
            model(_images(4).to(next(model.parameters()).dtype))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return model.eval()


def _images(count: int) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def extrude(image: Tensor, axis: str) -> SparseTensor:
    """An image [1, C, H, W] as a volume that is constant and infinite along the axis."""
    _, _, height, width = image.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    first, second = (a for a in range(3) if a != AXES[axis])
    coords = torch.zeros(height * width, 4, dtype=torch.int64)
    coords[:, 1 + first], coords[:, 1 + second] = columns.flatten(), rows.flatten()
    feats = image[0].flatten(1).T.contiguous()
    return SparseTensor(feats, Sites(coords, 1, extruded=AXES[axis]))


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    """Inflate for three classes, run forward and backward in training mode on two clouds."""
    generator = torch.Generator().manual_seed(0)
    net = inflate(model, 3, 3, generator=generator).train()
    clouds = voxelize(torch.rand(2, 200, 3, generator=generator), 0.04)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        loss = F.cross_entropy(net(clouds), torch.tensor([0, 2]))
    loss.backward()
    return {name: parameter.grad for name, parameter in net.named_parameters()}


class SameBorders(TorchFunctionMode):
    """Image functions as they are without a border: what an inflated network computes.

    Windows that shrink the image get TensorFlow's "same" padding, means leave the padding out, and
    adaptive pooling gives every cell the mean of the whole image.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.conv2d:
            return self._conv(*args, **kwargs)
        if func in (F.max_pool2d, torch.max_pool2d):
            return self._pool(torch.max_pool2d, -torch.inf, *args, **kwargs)
        if func is F.avg_pool2d:
            mean = self._pool(func, 0.0, *args, **kwargs)
            return mean / self._pool(func, 0.0, torch.ones_like(args[0]), *args[1:], **kwargs)
        if func is F.adaptive_avg_pool2d:
            size = args[1] if len(args) > 1 else kwargs["output_size"]
            size = (size, size) if isinstance(size, int) else size
            return args[0].mean((2, 3), keepdim=True).expand(-1, -1, *size)
        return func(*args, **kwargs)

    def _conv(self, x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        padding = -1 if isinstance(padding, str) else padding  # "same" in whatever spelling
        kernel, stride, padding, dilation = map(
            _pair, (weight.shape[2:], stride, padding, dilation))
        x = _same(x, kernel, stride, padding, dilation, 0.0)
        return torch.conv2d(x, weight, bias, stride, 0, dilation, groups)

    def _pool(self, func, fill, x, kernel_size, stride=None, padding=0, *_, **__):
        kernel = _pair(kernel_size)
        stride = _pair(stride) if stride else kernel
        return func(_same(x, kernel, stride, _pair(padding), (1, 1), fill), kernel, stride)


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _same(x: Tensor, kernel, stride, padding, dilation, fill: float) -> Tensor:
    """Pad so that the window gives ceil(n / stride) outputs, with the layer's own start if it does.

    Independent of the sparse engine: it counts the cells of the image at hand.
    """
    pads = []
    for n, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True):
        reach = d * (k - 1) + 1
        wanted = -(-n // s)
        before = p if (n + 2 * p - reach) // s + 1 == wanted else max(0, reach - s) // 2
        pads = [before, max(0, (wanted - 1) * s + reach - n - before), *pads]
    return F.pad(x, pads, value=fill)
