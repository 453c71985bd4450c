"""Register tiles: products of gathered rows in this CPU's vectors, without gathered copies.

Each function below emits loops whose sums stay in vector registers; numba compiles them into the
loop around them.  An address is that of a first byte, a step is the bytes from a row to the next,
and lists of rows are int32.  The literal shape is (bytes of a real, lanes of a vector, vectors).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

INDEX, ROW = ir.IntType(64), ir.IntType(32)
REALS = {4: ir.FloatType(), 8: ir.DoubleType()}

FEATURES = llvm.get_host_cpu_features()
VECTOR_BYTES = 64 if FEATURES.get("avx512f") else 32 if FEATURES.get("avx") else 16
VECTORS = 2 if VECTOR_BYTES == 32 else 4
"""Vectors side by side in a tile of 6 rows: its sums fill three quarters of the registers."""
HEIGHTS = {4: (6, 2, 1), 3: (8, 2, 1), 2: (6, 2, 1) if VECTORS == 2 else (12, 4, 1), 1: (12, 4, 1)}


class _Code:
    """The few instructions that a tile is made of."""

    def __init__(self, builder: ir.IRBuilder, real: int, lanes: int):
        self.builder, self.bytes, self.real = builder, real, REALS[real]
        self.type, self.lanes, self.size = ir.VectorType(self.real, lanes), lanes, real * lanes
        kind = ir.FunctionType(self.type, [self.type] * 3)
        name = f"llvm.fma.v{lanes}f{8 * real}"
        self.fma = cgutils.get_or_insert_function(builder.module, kind, name)

    def plus(self, address, *steps):
        """An address moved by numbers of bytes, or by pairs of values to be multiplied."""
        for step in steps:
            if isinstance(step, tuple):
                factors = [INDEX(f) if isinstance(f, int) else f for f in step]
                step = self.builder.mul(*factors)
            address = self.builder.add(address, INDEX(step) if isinstance(step, int) else step)
        return address

    def load(self, address, kind=None):
        """The vector (or other kind of value) at an address."""
        pointer = self.builder.inttoptr(address, (kind or self.type).as_pointer())
        return self.builder.load(pointer, align=4)

    def vectors(self, address, count: int) -> list:
        """The vectors of a row that begins at an address."""
        return [self.load(self.plus(address, v * self.size)) for v in range(count)]

    def row(self, base, step, rows, place):
        """The address of the row that the list ``rows`` names at ``place``."""
        number = self.load(self.plus(rows, (place, 4)), ROW)
        return self.plus(base, (self.builder.sext(number, INDEX), step))

    def spread(self, address):
        """A vector whose lanes all hold the real at an address."""
        first = self.type(ir.Undefined)
        first = self.builder.insert_element(first, self.load(address, self.real), ROW(0))
        lanes = ir.VectorType(ROW, self.lanes)(None)
        return self.builder.shuffle_vector(first, self.type(ir.Undefined), lanes)

    def sums(self, starts: list) -> list:
        """Variables that start as these vectors."""
        made = [cgutils.alloca_once(self.builder, self.type) for _ in starts]
        for variable, start in zip(made, starts, strict=True):
            self.builder.store(start, variable)
        return made

    def add_product(self, variable, a, b) -> None:
        """variable += a * b"""
        total = self.builder.call(self.fma, [a, b, self.builder.load(variable)])
        self.builder.store(total, variable)

    def write(self, sums: list, address) -> None:
        """Store the vectors of a row of sums."""
        for v, variable in enumerate(sums):
            place = self.builder.inttoptr(self.plus(address, v * self.size), self.type.as_pointer())
            self.builder.store(self.builder.load(variable), place, align=4)

    def tiled(self, count, vectors: int, emit: Callable) -> None:
        """Call ``emit(first, rows)`` for tiles that cover ``range(count)``, the highest first."""
        done = INDEX(0)
        for rows in HEIGHTS[vectors]:
            tiles = self.builder.sdiv(self.builder.sub(count, done), INDEX(rows))
            with cgutils.for_range(self.builder, tiles) as loop:
                emit(self.plus(done, (loop.index, rows)), rows)
            done = self.plus(done, (tiles, rows))

    def add_outer(self, targets: list, vectors: int, count, sides: Callable) -> None:
        """Add ``count`` outer products to the rows of vectors at the targets.

        ``sides(i)`` gives the address of a real for each target, and that of a row of vectors.
        """
        sums = [self.sums(self.vectors(target, vectors)) for target in targets]
        with cgutils.for_range(self.builder, count) as loop:
            reals, right = sides(loop.index)
            right = self.vectors(right, vectors)
            for real, row in zip(reals, sums, strict=True):
                left = self.spread(real)
                for variable, vector in zip(row, right, strict=True):
                    self.add_product(variable, left, vector)
        for row, target in zip(sums, targets, strict=True):
            self.write(row, target)


def _intrinsic(emit: Callable) -> Callable:
    """Make an intrinsic of a function of `_Code`, of addresses and sizes, and of a shape.

    Compiled code calls it with the addresses, the sizes and the literal shape, from ``real`` on.
    """
    numbers = list(signature(emit).parameters).index("real") - 1

    @intrinsic
    @wraps(emit)
    def typed(context, *kinds):
        literals = kinds[numbers:]
        if not all(isinstance(kind, types.IntegerLiteral) for kind in literals):
            return None
        shape = [kind.literal_value for kind in literals]

        def generate(context, builder, signature, values):
            emit(_Code(builder, *shape[:2]), *values[:numbers], *shape)
            return context.get_dummy_value()

        return types.void(*[types.intp] * numbers, *literals), generate

    return typed


@_intrinsic
def multiply_rows(code, out, x, weight, to, origin, count, depth, out_step, x_step,
                  real, lanes, vectors):  # fmt: skip
    """out[to[p]] += x[origin[p]] @ weight for ``count`` pairs.

    ``weight`` is [depth, vectors * lanes] without gaps; no output row occurs twice.
    """

    def tile(first, rows):
        places = [code.plus(first, r) for r in range(rows)]
        sources = [code.row(x, x_step, origin, place) for place in places]
        targets = [code.row(out, out_step, to, place) for place in places]
        code.add_outer(targets, vectors, depth, lambda c: (
            [code.plus(source, (c, code.bytes)) for source in sources],
            code.plus(weight, (c, vectors * code.size))))  # fmt: skip

    code.tiled(count, vectors, tile)


@_intrinsic
def outer_rows(code, out, x, grad, origin, to, count, depth, out_step, x_step, grad_step,
               real, lanes, vectors):  # fmt: skip
    """out += x[origin[p]].T @ grad[to[p]] summed over ``count`` pairs.

    ``out`` has ``depth`` rows of ``vectors * lanes`` columns.
    """

    def tile(first, rows):
        targets = [code.plus(out, (code.plus(first, r), out_step)) for r in range(rows)]
        columns = code.plus(x, (first, code.bytes))

        def sides(pair):
            source = code.row(columns, x_step, origin, pair)
            reals = [code.plus(source, r * code.bytes) for r in range(rows)]
            return reals, code.row(grad, grad_step, to, pair)

        code.add_outer(targets, vectors, count, sides)

    code.tiled(depth, vectors, tile)


@_intrinsic
def weighted_rows(code, out, a, b, rows_a, rows_b, count, a_step, b_step,
                  real, lanes, vectors, copies):  # fmt: skip
    """out += a[rows_a[p]] * b[rows_b[p]] summed over ``count`` pairs.

    ``copies`` sums take turns, so that no product waits for the sum before it.
    """
    builder = code.builder
    zeros = [code.type(None)] * vectors
    sums = [code.sums(code.vectors(out, vectors)), *map(code.sums, [zeros] * (copies - 1))]

    def add(place, row):
        sides = code.row(a, a_step, rows_a, place), code.row(b, b_step, rows_b, place)
        factors = [code.vectors(side, vectors) for side in sides]
        for variable, left, right in zip(row, *factors, strict=True):
            code.add_product(variable, left, right)

    turns = builder.sdiv(count, INDEX(copies))
    with cgutils.for_range(builder, turns) as loop:
        for copy, row in enumerate(sums):
            add(code.plus(INDEX(copy), (loop.index, copies)), row)
    with cgutils.for_range(builder, count, builder.mul(turns, INDEX(copies))) as loop:
        add(loop.index, sums[0])
    for row in sums[1:]:
        for total, part in zip(sums[0], row, strict=True):
            builder.store(builder.fadd(builder.load(total), builder.load(part)), total)
    code.write(sums[0], out)
