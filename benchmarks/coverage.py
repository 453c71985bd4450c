"""Which image classifiers can be inflated; the proof: logits and gradients on extruded images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from benchmarks.borders import SameBorders
from i2p_lib.inflation import AXES, InflationError, inflate, inflate_weight, to_taps
from i2p_lib.sparse import Sites, SparseConv3d, SparseTensor, voxelize

SIDE = 64  # of the images: 2 x 2 cells where the networks end
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}  # of logits and gradients
MOST_DOUBLES = 300_000_000  # parameters; larger networks are compared in float32, forward only
NEGLIGIBLE = 1e-6  # of the largest gradient of a network: nothing but rounding
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
FORWARD = "exact forward"
INFLATED = "inflated, not run"
REFUSED = "refused"
WRONG = "wrong"


@dataclass(frozen=True)
class Coverage:
    """What became of one image classifier.

    ``deviation`` is the largest difference between the logits of the inflated network on an
    extruded image and those of the image network, as a share of what another image changes.
    ``gradient`` is the largest difference between their gradients, as a share of the parameter's
    largest; both were computed in ``dtype``. There is none in float32: rounding puts some values on
    the other side of a ReLU's corner, where the gradient is another.
    """

    library: str
    family: str
    model: str
    parameters: int
    verdict: str
    deviation: float | None = None
    gradient: float | None = None
    dtype: str = ""
    reason: str = ""

    def row(self) -> dict:
        """The columns of a table."""
        return asdict(self)


@cache
def torchvision_classifiers() -> tuple[str, ...]:
    """Every classifier that torchvision lists."""
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
    """Inflate an image classifier, compare it with the image network, and train it for a step.

    A model without data (``without_data``) is inflated and not run. The others become float64 (or
    float32, see MOST_DOUBLES), and their norm statistics and constant parameters are overwritten
    (see ``enliven``).
    """
    parameters = sum(p.numel() for p in model.parameters())
    about = (library, group, name, parameters)
    dtype = torch.float64 if parameters <= MOST_DOUBLES else torch.float32
    try:
        inflate(model, None, None)
        if next(model.parameters()).is_meta:
            return Coverage(*about, INFLATED)
        comparison = compare(enliven(model.to(dtype)))
        problem = comparison.problem(TOLERANCE[dtype]) or _training_problem(model)
    except InflationError as error:
        return Coverage(*about, REFUSED, reason=str(error))
    figures = (comparison.deviation, comparison.gradient, str(dtype).removeprefix("torch."))
    if problem:
        return Coverage(*about, WRONG, *figures, problem)
    same = EXACT if comparison.gradient is not None else FORWARD
    return Coverage(*about, same if comparison.same_borders else BORDER, *figures)


@dataclass(frozen=True)
class Comparison:
    """How far an inflated network is from its image network; for the shares see ``Coverage``."""

    deviation: float
    gradient: float | None
    farthest: str
    same_borders: bool

    def problem(self, tolerance: float) -> str:
        """What is wrong, or nothing; a deviation that is no number is wrong."""
        if not self.deviation <= tolerance:
            return "the logits deviate"
        right = self.gradient is None or self.gradient <= tolerance
        return "" if right else f"{self.farthest}: the gradient deviates"


def compare(model: nn.Module) -> Comparison:
    """Inflate an image network and compare logits and all gradients on an extruded image.

    In float32 the logits alone (see ``Coverage``). The image network sees no border
    (``SameBorders``). ``same_borders`` says whether its logits are the same with its own borders.
    """
    net = inflate(model, None, None).eval()
    dtype = next(model.parameters()).dtype
    image, other = _images(2).to(dtype).split(1)
    volume = extrude(image, "z")
    with SameBorders(), torch.no_grad():
        expected, far = model(image), model(other)
    with torch.no_grad():
        got = net(volume)
        same_borders = _keeps_its_borders(model, image, expected)
    deviation = float((got - expected).abs().max() / (far - expected).abs().max())
    farthest, gradient = "", None
    if dtype == torch.float64:
        mix = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2)).double()
        with SameBorders():
            (model(image) * mix).sum().backward()
        farthest, gradient = _farthest_gradient(model, net, (net(volume) * mix).sum())
        model.zero_grad(set_to_none=True)
    return Comparison(deviation, gradient, farthest, same_borders)


def _farthest_gradient(model: nn.Module, net: nn.Module, loss: Tensor) -> tuple[str, float]:
    """The parameter whose gradient is farthest from the image network's, and how far.

    On an extruded volume each tap along the axis meets the same sites, and so gets the gradient of
    the image filter's tap.
    """
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    least = NEGLIGIBLE * max(float(grad.abs().max()) for grad in wanted.values())
    shares = {name: math.inf for name, _ in net.named_parameters() if name in wanted}

    def see(name: str, grad: Tensor) -> None:
        layer = net.get_submodule(name.rpartition(".")[0])
        expected = wanted[name]
        if isinstance(layer, SparseConv3d) and expected.ndim == 4:
            expected = to_taps(inflate_weight(expected, "z", normalize=False), layer.groups)
        share = (grad - expected).abs().max() / expected.abs().max().clamp(min=least)
        shares[name] = float(share.nan_to_num(math.inf))

    backward(net, loss, see)
    return max(shares.items(), key=lambda item: item[1])


def _training_problem(model: nn.Module) -> str:
    found = training_step(model.float())
    lost = [name for name, size in found.items() if not math.isfinite(size)]
    return f"{lost[0]}: no finite gradient in a training step" if lost else ""


def training_step(model: nn.Module) -> dict[str, float]:
    """Inflate for three classes and run forward and backward in training mode on two clouds.

    Returns the largest magnitude in each parameter's gradient, NaN where it got none.
    """
    generator = torch.Generator().manual_seed(0)
    net = inflate(model, 3, 3, generator=generator).train()
    clouds = voxelize(torch.rand(2, 100, 3, generator=generator), 0.04)
    found = {name: math.nan for name, _ in net.named_parameters()}

    def see(name: str, grad: Tensor) -> None:
        found[name] = float(grad.abs().max())

    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        backward(net, F.cross_entropy(net(clouds), torch.tensor([0, 2])), see)
    return found


def backward(net: nn.Module, loss: Tensor, see: Callable[[str, Tensor], None]) -> None:
    """Backward from a loss, showing each parameter's gradient and dropping it at once.

    So the gradients of a large network are never there together.
    """

    def show(name: str, parameter: nn.Parameter) -> None:
        see(name, parameter.grad)
        parameter.grad = None

    handles = [parameter.register_post_accumulate_grad_hook(partial(show, name))
               for name, parameter in net.named_parameters()]
    try:
        loss.backward()
    finally:
        for handle in handles:
            handle.remove()


def _keeps_its_borders(model: nn.Module, image: Tensor, expected: Tensor) -> bool:
    """Whether the image network itself gives these logits; False where none is left of it."""
    try:
        return torch.allclose(model(image), expected, rtol=TOLERANCE[expected.dtype])
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
    nothing, chosen = torch.zeros(height * width, dtype=torch.int64), AXES[axis]
    coords = torch.stack([nothing, *chosen.plane(columns.flatten(), rows.flatten(), nothing)], 1)
    feats = image[0].flatten(1).T.contiguous()
    return SparseTensor(feats, Sites(coords, 1, extruded=chosen.coordinate))
