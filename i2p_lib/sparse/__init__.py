"""Sparse 3D tensors and layers. Knows nothing of the paper and imports nothing else of ours."""

from i2p_lib.sparse.backends import use_backend
from i2p_lib.sparse.conv import SparseConv3d, SparseConvTranspose3d
from i2p_lib.sparse.functions import window
from i2p_lib.sparse.kernel_map import KernelMap, build_kernel_map, grid_padding
from i2p_lib.sparse.norm import SparseBatchNorm
from i2p_lib.sparse.points import Points
from i2p_lib.sparse.pool import SparseAvgPool3d, SparseGlobalPool, SparseMaxPool3d
from i2p_lib.sparse.sites import Sites
from i2p_lib.sparse.tensor import SparseTensor
from i2p_lib.sparse.voxelize import voxelize
