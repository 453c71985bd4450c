"""From 2D filters to 3D filters, and to the layout of the sparse layers."""

from typing import NamedTuple

from torch import Tensor


class Axis(NamedTuple):
    """The coordinate along which 3D filters are constant, and how the image lies on the others.

    Its width runs along the first of the other two and its height along the second; or, while
    ``transposed``, the other way round.
    """

    coordinate: int
    transposed: bool = False

    def plane(self, width: int, height: int, depth: int) -> tuple[int, int, int]:
        """What there is for an image's width and height and for the depth, in the order x, y, z."""
        sides = [height, width] if self.transposed else [width, height]
        sides.insert(self.coordinate, depth)
        return tuple(sides)


AXES = {"x": Axis(0), "y": Axis(1), "z": Axis(2), "x transposed": Axis(0, True),
        "y transposed": Axis(1, True), "z transposed": Axis(2, True)}  # fmt: skip
ORIGINAL_AXES = {"x-axis": "x transposed", "y-axis": "z", "z-axis": "y"}
"""The names that the released code gives (``model_zoo.py: weight_transform``) -> ours."""


def inflate_weight(weight: Tensor, axis: str = "z", normalize: bool = True) -> Tensor:
    """Repeat a 2D filter along a third axis (as I3D does, says the paper).

    Args:
        weight: [C_out, C_in, kh, kw].
        axis: one of `AXES`: the coordinate along which the 3D filter is constant, and whether the
            image's two directions are exchanged. For the released code's names `ORIGINAL_AXES`.
        normalize: divide by the number of repeats, so that a volume that is constant along the
            axis gives the 2D activations. The paper's released code does not divide.

    Returns:
        [C_out, C_in, kx, ky, kz], with as many repeats as the longer side of the filter: a 1x7
        filter becomes a 7x1 one that is repeated seven times.
    """
    if axis not in AXES:
        raise ValueError(f"axis must be one of {', '.join(AXES)}, got {axis!r}")
    if weight.ndim != 4:
        raise ValueError(f"expected a 2D filter [C_out, C_in, kh, kw], got {list(weight.shape)}")
    height, width = weight.shape[2:]
    depth, chosen = max(height, width), AXES[axis]
    plane = weight if chosen.transposed else weight.mT
    volume = plane.unsqueeze(2 + chosen.coordinate).expand(
        *weight.shape[:2], *chosen.plane(width, height, depth)).contiguous()  # fmt: skip
    return volume / depth if normalize else volume


def to_taps(weight: Tensor, groups: int = 1) -> Tensor:
    """[C_out, C_in / G, kx, ky, kz] to the weight of a SparseConv3d with G groups."""
    taps = weight.flatten(2).permute(2, 1, 0)
    if groups == 1:
        return taps.contiguous()
    taps = taps.unflatten(2, (groups, -1)).transpose(1, 2)
    depthwise = taps.shape[2:] == (1, 1)
    return (taps.flatten(1) if depthwise else taps).contiguous()
