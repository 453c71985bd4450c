"""BagNet-17 and BagNet-33: ResNet-50s whose units see 17 or 33 pixels (paper, Table 4)."""

from torch import Tensor, nn

from i2p_lib.models.stages import he_init, residual_stage


class BagNet(nn.Module):
    """The network of Brendel and Bethge (ICLR 2019), made of torchvision's bottleneck blocks.

    Each stage has at most one 3x3 convolution, in its first block; all others are 1x1. Tensors
    have the names of the published checkpoints.
    """

    def __init__(self, wide_stages: int, num_classes: int = 1000):
        super().__init__()
        from timm.layers import Conv2dSame
        from torchvision.models.resnet import Bottleneck

        self.conv1 = nn.Conv2d(3, 64, 1, bias=False)
        self.conv2 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64, momentum=0.001)
        self.relu = nn.ReLU(inplace=True)
        channels = 64
        for number, (depth, stride) in enumerate(zip((3, 4, 6, 3), (2, 2, 2, 1), strict=True)):
            width = 64 * 2**number
            stage = residual_stage(Bottleneck, channels, width, depth, stride)
            for block in stage:
                kernel = 3 if block is stage[0] and number < wide_stages else 1
                kind = Conv2dSame if kernel == 3 and block.stride == 2 else nn.Conv2d
                block.conv2 = kind(width, width, kernel, block.stride, kernel // 2, bias=False)
            self.add_module(f"layer{number + 1}", stage)
            channels = 4 * width
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] to logits [B, num_classes]: the mean of local ones, taken before ``fc``."""
        x = self.relu(self.bn1(self.conv2(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def bagnet17(num_classes: int = 1000) -> BagNet:
    """BagNet-17: 3x3 kernels in the first three stages; see ``bagnet33``."""
    return BagNet(3, num_classes)


def bagnet33(num_classes: int = 1000) -> BagNet:
    """BagNet-33: a 3x3 kernel in each of the four stages, with the published network's tensors.

    The published network has no padding: each 3x3 kernel shrinks the image, its shortcut is cropped
    at the right and at the bottom, and the kernel looks one cell further right and down than the
    shortcut. Here padding keeps the grid, as sparse sites need. Kernels with stride 2 are padded
    behind only (the grid's sides must be even), so they lie as they did. Kernels with stride 1 have
    to be centred. Before the first stage this moves the image by one pixel and changes nothing
    else: each activation of the published network up to the end of the third stage, and to the very
    end in BagNet-17, is there, unchanged. In BagNet-33 the 3x3 kernel of the last stage gives the
    published values one cell further than its shortcut: that stage is a ResNet-50's with centred
    kernels. The paper says that its inflated BagNets have exactly the inflated ResNet-50's
    architecture.

    ``inflate`` keeps each 1x1 kernel as 1x1x1; how the paper made 3x3x3 of it is not known.
    """
    return BagNet(4, num_classes)
