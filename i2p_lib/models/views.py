"""Image networks on six depth pictures of a point cloud: SimpleView, and any image model."""

from pathlib import Path

import torch
from torch import Tensor, nn

from i2p_lib.inflation.regimes import describe, shapes
from i2p_lib.inflation.trace import evaluated
from i2p_lib.models import point_network
from i2p_lib.models.stages import he_init, residual_stage, with_norm_behind
from i2p_lib.weights.building import image_model, seeded, with_weights
from i2p_lib.weights.cards import is_random

CAMERA = 1.4  # distance of the six cameras from the origin
SIZE = 128  # pixels of a side
VIEWS = ("-y +x +z", "-y -z +x", "-y -x -z", "-y +z -x", "-z +x -y", "+z +x +y")
"""Row, column and depth axis of each view of a cloud whose y axis points up: four from the sides,
one from above, one from below. They are SimpleView's, in its order; like there, each picture is
the mirror image of what a camera would take."""


def depth_views(points: Tensor, size: int = SIZE, up: str = "z") -> Tensor:
    """Six depth pictures of each cloud, as SimpleView makes them (Goyal et al., ICML 2021).

    A camera at distance 1.4 from the origin sees 90 degrees in perspective, so it sees the whole
    unit sphere. Each point counts for the one pixel nearest to it. A pixel is the mean depth of
    its points with weights 1/depth (their harmonic mean), or 0 without points. Points outside the
    picture and behind the camera are left out.

    Args:
        points: [B, P, 3], in the unit sphere.
        up: the axis of the cloud that points up in the pictures, ``y`` or ``z``.

    Returns [B, 6, size, size]; each pixel is differentiable in the depth of its points.
    Raises ValueError for another shape of points or another axis.
    """
    shape = list(points.shape)
    if points.ndim != 3 or shape[2] != 3 or not points.is_floating_point():
        raise ValueError(f"expected float points [B, P, 3], got {points.dtype} {shape}")
    if up not in ("y", "z"):
        raise ValueError(f"up must be one of y, z, got {up!r}")
    if up == "z":
        points = torch.stack([points[..., 0], points[..., 2], -points[..., 1]], 2)
    frames = [[(int(sign + "1"), "xyz".index(axis)) for sign, axis in view.split()]
              for view in VIEWS]  # fmt: skip
    signs, axes = torch.tensor(frames, device=points.device).unbind(2)
    seen = (points[..., axes] * signs).permute(0, 2, 1, 3)  # [B, 6, P, (row, column, depth)]
    depth = seen[..., 2] + CAMERA
    pixel = ((seen[..., :2] / depth[..., None] + 1) * (size / 2) - 0.5).ceil()
    inside = ((pixel >= 0) & (pixel < size)).all(-1) & (depth > 0)
    nowhere = size * size  # one cell more, for the points that are not in the picture
    cell = torch.where(inside, pixel[..., 0] * size + pixel[..., 1], nowhere).long()
    inverse = torch.where(inside, 1 / torch.where(inside, depth, 1), 0)
    blank = depth.new_zeros(*depth.shape[:2], nowhere + 1)
    count = blank.scatter_add(2, cell, inside.to(depth.dtype))[..., :nowhere]
    total = blank.scatter_add(2, cell, inverse)[..., :nowhere]
    picture = count / torch.where(count > 0, total, 1)
    return picture.unflatten(2, (size, size))


class ViewNet(nn.Module):
    """An image model on the six views of a cloud, their features joined, a linear classifier.

    Made by ``simpleview`` and ``image_on_views``; [B, P, 3] to logits [B, num_classes].
    """

    def __init__(self, image: nn.Module, fusion: nn.Module, num_classes: int, up: str):
        super().__init__()
        self.size, self.up = _view_size(image), up
        known = shapes(image, "image.")
        stem, width = _adapt(image, self.size)
        inputs = with_norm_behind(image, stem, [name for name, _ in image.named_modules()])
        self.image, self.fusion = image, fusion
        with evaluated(fusion):
            joined = fusion(torch.zeros(len(VIEWS), width))
        self.classifier = nn.Linear(joined.shape[1], num_classes)
        describe(self, [f"image.{name}" for name in inputs], ["classifier", "fusion"], known,
                 reshaped="replaced")  # fmt: skip

    def forward(self, points: Tensor) -> Tensor:
        """[B, P, 3] to logits [B, num_classes]; ValueError on another shape."""
        pictures = depth_views(points, self.size, self.up).flatten(0, 1)[:, None]
        return self.classifier(self.fusion(self.image(pictures)))


def image_on_views(image_name: str, num_classes: int, weights: str | Path | None = "random",
                   seed: int = 0, weights_dir: str | Path | None = None, up: str = "z"
                   ) -> ViewNet:  # fmt: skip
    """Any image classifier of torchvision or timm on six depth views, its 2D weights copied.

    The input convolution takes one depth channel, with its kernels summed over the colours. That
    gives what three equal channels of depth give. The features of the six views are concatenated
    and meet a new linear classifier. The pictures have 128 pixels a side, or what a model of fixed
    size wants.

    Args:
        image_name, weights, weights_dir: see ``i2p_lib.weights.image_model``.
        seed: for random weights and for the new classifier; torch's generator stays as it was.
        up: the axis that points up in the pictures.

    Raises ValueError for an unknown model or axis, or a model without a first convolution on
    colours and a last linear classifier.
    """
    image = image_model(image_name, weights, seed, weights_dir)
    with seeded(seed):
        fusion = nn.Sequential(nn.Unflatten(0, (-1, len(VIEWS))), nn.Flatten())
        return ViewNet(image, fusion, num_classes, up)


@point_network
def simpleview(num_classes: int, weights: str | Path | None = "random", seed: int = 0,
               weights_dir: str | Path | None = None, up: str = "z") -> ViewNet:  # fmt: skip
    """SimpleView: a quarter-width ResNet-18 on six depth views (paper, Table 1).

    Behind the image network: BatchNorm on each view's features, dropout 0.5, concatenation, a
    hidden layer with BatchNorm, ReLU and dropout, and the linear classifier.

    Args:
        weights: "random", or "imagenet1k" or a path: a file that you trained (none is public),
            with the tensors of ``resnet18_quarter()``; FileNotFoundError without it, ValueError
            for others.
        seed, up: see ``image_on_views``.
    """
    with seeded(seed):
        image = (resnet18_quarter() if is_random(weights) else
                 with_weights(resnet18_quarter, "simpleview", weights, weights_dir))
        width = image.fc.in_features
        fusion = nn.Sequential(nn.BatchNorm1d(width), nn.Unflatten(0, (-1, len(VIEWS))),
                               nn.Dropout(0.5), nn.Flatten(), nn.Linear(len(VIEWS) * width, width),
                               nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5))
        return ViewNet(image, fusion, num_classes, up)


def resnet18_quarter(num_classes: int = 1000) -> nn.Module:
    """SimpleView's image network on colour images: torchvision's ResNet-18, four times narrower.

    Channels 16, 32, 64, 128; a 3x3 stem of stride 1 and no pooling behind it. The last norm of
    each block starts at zero, as SimpleView has it.
    """
    from torchvision.models.resnet import BasicBlock, ResNet

    with torch.device("meta"):  # each of its layers with parameters is replaced
        net = ResNet(BasicBlock, [2, 2, 2, 2])
    net.conv1, net.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
    net.maxpool = nn.Identity()
    net.layer1 = residual_stage(BasicBlock, 16, 16, 2)
    for number, width in enumerate((32, 64, 128), 2):
        net.set_submodule(f"layer{number}", residual_stage(BasicBlock, width // 2, width, 2, 2))
    net.fc = nn.Linear(128, num_classes)
    he_init(net)
    for block in net.modules():
        if isinstance(block, BasicBlock):
            nn.init.zeros_(block.bn2.weight)
    return net


def _view_size(image: nn.Module) -> int:
    """The model's own size where it is fixed (vision transformers), else 128."""
    config = getattr(image, "pretrained_cfg", None) or {}
    if config.get("fixed_input_size"):
        return config["input_size"][-1]
    return getattr(image, "image_size", SIZE)


def _adapt(image: nn.Module, size: int) -> tuple[str, int]:
    """Give an image network one input channel and no classifier; its input layer, its features."""
    stems, linears = ([(name, layer) for name, layer in image.named_modules()
                       if isinstance(layer, kind)] for kind in (nn.Conv2d, nn.Linear))  # fmt: skip
    if not linears:
        raise ValueError(f"{type(image).__name__} has no linear classifier")
    if not stems or stems[0][1].in_channels != 3 or stems[0][1].groups != 1:
        raise ValueError(f"{type(image).__name__}: the first convolution does not take an image")
    (stem, conv), (last, linear) = stems[0], linears[-1]
    conv.in_channels = 1
    conv.weight = nn.Parameter(conv.weight.detach().sum(1, keepdim=True))
    image.set_submodule(last, nn.Identity())
    with evaluated(image):
        features = image(conv.weight.new_zeros(2, 1, size, size))
    if not isinstance(features, Tensor) or tuple(features.shape) != (2, linear.in_features):
        raise ValueError(f"{type(image).__name__}: {last} is not a classifier on its features")
    return stem, linear.in_features
