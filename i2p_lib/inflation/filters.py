"""From 2D filters to 3D filters, and to the layout of the sparse layers."""

from __future__ import annotations

from torch import Tensor

AXES = {"x": 0, "y": 1, "z": 2}


def inflate_weight(weight: Tensor, axis: str = "z", normalize: bool = True) -> Tensor:
    """Repeat a 2D filter along a third axis (paper, section 3.1; I3D).

    Args:
        weight: [C_out, C_in, kh, kw].
        axis: the axis ``x``, ``y`` or ``z`` along which the 3D filter is constant. Of the other
            two, kw lies on the first and kh on the second.
        normalize: divide by the number of repeats, so that a volume that is constant along the
            axis gives the 2D activations. The paper's released code does not divide.

    Returns:
        [C_out, C_in, kx, ky, kz], with as many repeats as the longer side of the filter: a 1x7
        filter becomes a 7x1 one that is repeated seven times.
    """
    if weight.ndim != 4:
        raise ValueError(f"expected a 2D filter [C_out, C_in, kh, kw], got {list(weight.shape)}")
    if axis not in AXES:
        raise ValueError(f"axis must be one of {', '.join(AXES)}, got {axis!r}")
    depth = max(weight.shape[2:])
    plane = weight.transpose(2, 3).unsqueeze(2 + AXES[axis])
    shape = list(plane.shape)
    shape[2 + AXES[axis]] = depth
    volume = plane.expand(shape).contiguous()
    return volume / depth if normalize else volume


def to_taps(weight: Tensor, groups: int = 1) -> Tensor:
    """[C_out, C_in / G, kx, ky, kz] to the weight of a SparseConv3d with G groups."""
    taps = weight.flatten(2).permute(2, 1, 0)
    if groups == 1:
        return taps.contiguous()
    taps = taps.unflatten(2, (groups, -1)).transpose(1, 2)
    depthwise = taps.shape[2:] == (1, 1)
    return (taps.flatten(1) if depthwise else taps).contiguous()
