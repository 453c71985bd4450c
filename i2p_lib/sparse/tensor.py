"""SparseTensor: features on the occupied sites of a 3D grid."""

import operator
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Self

import torch
from torch import Tensor

from i2p_lib.sparse.sites import Sites, checked_sites
from i2p_lib.sparse.sums import mean_rows

MEANINGS: dict[Callable, Callable] = {}
"""What a function of torch does on a SparseTensor; filled in ``functions.py``."""


class Extent:
    """Stands for height and width in a sparse tensor's shape; arithmetic with it fails."""

    def _refuse(self, other: object) -> None:
        raise TypeError("the height or width of an image is computed with; sites have neither")

    __lt__ = __le__ = __gt__ = __ge__ = __add__ = __radd__ = __sub__ = __rsub__ = _refuse
    __mul__ = __rmul__ = __truediv__ = __floordiv__ = __mod__ = _refuse

    def __repr__(self) -> str:
        return "sparse"


EXTENT = Extent()


def _with_partner(operation: Callable) -> Callable:
    """An operator between a sparse tensor and its `partner`."""
    return lambda self, other: self.replace(operation(self.feats, partner(self, other)))


class SparseTensor:
    """Features [N, C] on N sites. Feature-wise torch functions and ``+`` work on it directly.

    To an image model it looks like a tensor [B, C, H, W] whose height and width have no number, or
    [B, H, W, C] while ``channels_last``; the features are the same in both.
    Between the two views of a channel shuffle, its features are [N, groups, channels].

    feats: floating point.  coords: integer [N, 4], (batch, x, y, z), no row twice; or ``Sites``.
    batch_size: number of samples; default: the largest batch index + 1.
    Raises TypeError and ValueError for what is not such, see ``checked_sites``.
    """

    def __init__(self, feats: Tensor, coords: Tensor | Sites, batch_size: int | None = None,
                 channels_last: bool = False):  # fmt: skip
        sites = coords if isinstance(coords, Sites) else checked_sites(coords, batch_size)
        if not isinstance(feats, Tensor) or not feats.is_floating_point():
            got = getattr(feats, "dtype", "none")
            raise TypeError("features must be floating point in a torch.Tensor, got "
                            f"{type(feats).__name__} of {got}")
        if feats.ndim < 2 or len(feats) != len(sites):
            raise ValueError(f"features must be [N, C] with one row for each of the {len(sites)} "
                             f"sites, got {list(feats.shape)}")
        self.feats, self.sites, self.channels_last = feats, sites, channels_last

    coords = property(attrgetter("sites.coords"), doc="int64 [N, 4], (batch, x, y, z), in cells.")
    stride = property(attrgetter("sites.stride"), doc="Size of a cell in input voxels.")
    batch_size = property(attrgetter("sites.batch_size"), doc="Samples, empty ones included.")
    device = property(attrgetter("feats.device"), doc="Where the features live.")
    dtype = property(attrgetter("feats.dtype"), doc="Number format of the features.")
    requires_grad = property(attrgetter("feats.requires_grad"), doc="Whether gradients are kept.")
    ndim = property(lambda self: len(self.shape), doc="Number of entries of ``shape``.")

    @property
    def shape(self) -> tuple:
        """(samples, channels, height, width) to an image model; height and width are EXTENT."""
        channels, space = tuple(self.feats.shape[1:]), (EXTENT, EXTENT)
        return (self.batch_size, *(space + channels if self.channels_last else channels + space))

    @property
    def space(self) -> tuple[int, int]:
        """The axes of ``shape`` that are height and width."""
        return (1, 2) if self.channels_last else (self.ndim - 2, self.ndim - 1)

    def feature_axis(self, dim: int) -> int:
        """The axis of ``feats`` that an axis of ``shape`` is.

        Raises ValueError for those of samples, height and width.
        """
        axis = dim % self.ndim
        if axis in (0, *self.space):
            raise ValueError("sparse tensors are joined, parted and reduced over channels, and not "
                             f"over samples, height and width {(0, *self.space)}; got dim {dim}")
        return axis - 2 * self.channels_last

    def replace(self, feats: Tensor) -> Self:
        """The same sites with other features."""
        return SparseTensor(feats, self.sites, channels_last=self.channels_last)

    def to(self, target: torch.device | torch.dtype | str) -> Self:
        """Convert the features' dtype, or move everything to a device."""
        feats = self.feats.to(target)
        return SparseTensor(feats, self.sites.to(feats.device), channels_last=self.channels_last)

    def global_mean(self) -> Tensor:
        """Mean over each sample's sites [B, C], zeros without sites; float32 for 16-bit formats."""
        return mean_rows(self.feats, self.sites.batch, self.sites.counts)

    __add__ = __radd__ = __iadd__ = _with_partner(operator.add)
    __mul__ = __rmul__ = __imul__ = _with_partner(operator.mul)
    __sub__, __truediv__ = _with_partner(operator.sub), _with_partner(operator.truediv)
    __pow__ = _with_partner(operator.pow)

    def __getitem__(self, index) -> Self:
        return MEANINGS[Tensor.__getitem__](self, index)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        meaning = MEANINGS.get(func)
        if meaning is None:
            name = getattr(func, "__name__", repr(func))
            raise TypeError(f"torch function {name!r} has no meaning on a SparseTensor: it would "
                            "need a dense grid. Feature-wise functions, + , *, cat over channels "
                            "and global pooling do.")
        return meaning(*args, **(kwargs or {}))

    def __getattr__(self, name: str):
        """Methods of torch.Tensor that have a meaning on sites."""
        method = None if name.startswith("__") else getattr(Tensor, name, None)
        if method not in MEANINGS:
            raise AttributeError(f"a SparseTensor has no attribute {name!r}")
        return partial(MEANINGS[method], self)

    def __repr__(self) -> str:
        return (f"SparseTensor({len(self.sites)} sites, {self.feats.shape[1]} channels, batch "
                f"{self.batch_size}, stride {self.stride}, {self.dtype}, {self.device})")


def partner(tensor: SparseTensor, other: SparseTensor | Tensor | float) -> Tensor | float:
    """What ``other`` adds to or multiplies with each row of ``tensor``.

    Raises ValueError for other sites, and for a dense tensor that varies in space.
    """
    if isinstance(other, SparseTensor):
        if other.sites is not tensor.sites:
            raise ValueError(f"the tensors live on different sites ({tensor} and {other}): only "
                             "tensors of the same level of the same batch can be combined")
        if (other.ndim, other.channels_last) != (tensor.ndim, tensor.channels_last):
            raise ValueError(f"the channels are in other groups or places: {tensor} and {other}")
        return other.feats
    if isinstance(other, Tensor) and other.ndim > 0:
        shape = [1] * (tensor.ndim - other.ndim) + list(other.shape)
        space = [shape.pop(axis) for axis in sorted(tensor.space, reverse=True)]
        fits = space == [1, 1] and len(shape) == tensor.feats.ndim
        if not fits or shape[0] not in (1, tensor.batch_size):
            wanted = "B, 1, 1, C" if tensor.channels_last else "B, C, 1, 1"
            raise ValueError(f"a dense partner must be [{wanted}] with B = {tensor.batch_size} or "
                             f"1, got {list(other.shape)}")
        rows = other.reshape(shape)
        return rows if len(rows) == 1 else rows.index_select(0, tensor.sites.batch)
    return other
