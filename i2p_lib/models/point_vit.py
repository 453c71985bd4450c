"""Vision transformers on points: timm's unchanged network behind a point tokenizer.

The paper copies an image transformer and finetunes it; which tokenizer, how many tokens and which
position embedding it used is not said. Here it is the usual one of the field (Point-BERT, Yu et
al., CVPR 2022): farthest point sampling chooses centres, each centre's nearest points form a group,
a small PointNet turns the group's offsets from its centre into one token, and an MLP of the centre
is its position embedding.
timm's own ``forward`` runs behind it: class token, blocks, final norm, classifier.
"""

from typing import Any

import torch
from torch import Tensor, nn

from i2p_lib.inflation.regimes import describe, shapes
from i2p_lib.models import point_network
from i2p_lib.models.point_ops import farthest_points, gather, nearest_points
from i2p_lib.models.pointnet2 import pool_groups, shared_mlp
from i2p_lib.weights.building import image_model, seeded


class PointTokenizer(nn.Module):
    """Points [B, P, 3] to tokens [B, groups, width], position embedding included.

    Sampling starts at point 0 of each cloud. The order of the points does not change the tokens
    as long as point 0 stays first and no two points are equally far from a centre. Moving the
    cloud changes the position embedding only.
    """

    def __init__(self, width: int, groups: int = 128, size: int = 32):
        super().__init__()
        self.groups, self.size = groups, size
        self.local = nn.Sequential(*shared_mlp(3, 128), nn.Linear(128, 256))
        self.token = nn.Sequential(*shared_mlp(512, 512), nn.Linear(512, width))
        self.position = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, width))

    def forward(self, points: Tensor) -> Tensor:
        centres = gather(points, farthest_points(points, self.groups))
        group = gather(points, nearest_points(points, centres, self.size))
        offsets = group - centres.unsqueeze(2)  # [B, groups, size, 3]
        each = self.local(offsets.flatten(0, 2)).unflatten(0, offsets.shape[:3])
        whole = each.max(2, keepdim=True).values.expand_as(each)
        return pool_groups(self.token, torch.cat([whole, each], 3)) + self.position(centres)


def put_on_points(vit: nn.Module, num_classes: int, groups: int = 128, size: int = 32) -> nn.Module:
    """Turn a timm ``VisionTransformer`` into a network on points [B, P, 3]; changes it in place.

    The patch embedding and the position embedding of the patches give way to a
    ``PointTokenizer``, the classifier to a new one; new layers are random from torch's global
    generator. The class token keeps the position embedding that it had in the image model: their
    sum is the new class token, so the transformer sees the same one.

    Raises ValueError for one without one class token that has its own position embedding.
    """
    if not vit.has_class_token or vit.num_prefix_tokens != 1 or vit.no_embed_class \
            or vit.pos_embed is None:
        raise ValueError("expected a timm VisionTransformer with one class token that has its own "
                         "position embedding, such as vit_base_patch16_224")
    image = shapes(vit)
    with torch.no_grad():
        vit.cls_token += vit.pos_embed[:, :1]
    vit.pos_embed = None
    vit.patch_embed = PointTokenizer(vit.embed_dim, groups, size)
    vit.reset_classifier(num_classes)
    return describe(vit, ["patch_embed"], ["head"], image, ["head"])


@point_network
def point_vit_b16(num_classes: int, **settings: Any) -> nn.Module:
    """Return ViT-B/16 on points: 128 tokens of 32 points each; see ``put_on_points``.

    settings: weights ("random", "imagenet21k" or a tag of timm), seed (of all random layers) and
    weights_dir; they and the errors are those of ``image_model("vit_base_patch16_224")``.
    """
    return _build("vit_base_patch16_224", num_classes, **settings)


@point_network
def point_vit_l16(num_classes: int, **settings: Any) -> nn.Module:
    """Return ViT-L/16 on points; settings and errors as for ``point_vit_b16``."""
    return _build("vit_large_patch16_224", num_classes, **settings)


def _build(name: str, num_classes: int, weights: str | None = "random", seed: int = 0,
           **settings: Any) -> nn.Module:
    vit = image_model(name, weights, seed, **settings)
    with seeded(seed):
        return put_on_points(vit, num_classes)
