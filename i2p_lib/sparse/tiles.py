"""Register tiles: products of gathered rows in this CPU's vectors, without gathered copies.

Each function below emits loops whose sums stay in vector registers; numba compiles them into the
loop around them.  An address is that of a first byte, a step is the bytes from a row to the next,
and lists of rows are int32.  The literal shape is (bytes of a real, lanes of a vector, vectors).
"""

from collections.abc import Callable
from functools import wraps

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
        self.fma = cgutils.get_or_insert_function(builder.module, kind,
                                                  f"llvm.fma.v{lanes}f{8 * real}")

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

    def vectors(self, base, step, count: int) -> list:
        """The vectors of a row that begins a step after an address."""
        row = self.plus(base, step)
        return [self.load(self.plus(row, v * self.size)) for v in range(count)]

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

    def sums(self, vectors: int) -> list:
        """Variables that start as zero vectors."""
        made = [cgutils.alloca_once(self.builder, self.type) for _ in range(vectors)]
        for variable in made:
            self.builder.store(self.type(None), variable)
        return made

    def read(self, sums: list, address) -> None:
        """Start a row of sums from the vectors at an address."""
        for variable, vector in zip(sums, self.vectors(address, 0, len(sums)), strict=True):
            self.builder.store(vector, variable)

    def add_product(self, variable, a, b) -> None:
        """variable += a * b"""
        total = self.builder.call(self.fma, [a, b, self.builder.load(variable)])
        self.builder.store(total, variable)

    def store(self, value, address) -> None:
        """Write a vector to an address."""
        pointer = self.builder.inttoptr(address, self.type.as_pointer())
        self.builder.store(value, pointer, align=4)

    def write(self, sums: list, address) -> None:
        """Store the vectors of a row of sums."""
        for v, variable in enumerate(sums):
            self.store(self.builder.load(variable), self.plus(address, v * self.size))

    def exchanged(self, a, b, distance: int) -> tuple:
        """Two rows of a square whose blocks beside its diagonal have changed places."""
        lanes, kind = range(self.lanes), ir.VectorType(ROW, self.lanes)
        first = [j + self.lanes - distance if j & distance else j for j in lanes]
        second = [j + self.lanes if j & distance else j + distance for j in lanes]
        return tuple(self.builder.shuffle_vector(a, b, kind(places)) for places in (first, second))

    def tiled(self, count, vectors: int, emit: Callable) -> None:
        """Call ``emit(first, rows)`` for tiles that cover ``range(count)``, the highest first."""
        done = INDEX(0)
        for rows in HEIGHTS[vectors]:
            tiles = self.builder.sdiv(self.builder.sub(count, done), INDEX(rows))
            with cgutils.for_range(self.builder, tiles) as loop:
                emit(self.plus(done, (loop.index, rows)), rows)
            done = self.plus(done, (tiles, rows))


def _intrinsic(numbers: int) -> Callable[[Callable], Callable]:
    """Make an intrinsic of a function of `_Code`, ``numbers`` addresses and sizes, and a shape.

    Compiled code calls it with the addresses, the sizes and the literal shape.
    """

    def make(emit: Callable) -> Callable:
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

    return make


@_intrinsic(9)
def multiply_rows(code, out, x, weight, to, origin, count, depth, out_step, x_step,
                  real, lanes, vectors):  # fmt: skip
    """out[to[p]] += x[origin[p]] @ weight for ``count`` pairs.

    ``weight`` is [depth, vectors * lanes] without gaps; no output row occurs twice.
    """

    def tile(first, rows):
        places = [code.plus(first, r) for r in range(rows)]
        sources = [code.row(x, x_step, origin, place) for place in places]
        targets = [code.row(out, out_step, to, place) for place in places]
        sums = [code.sums(vectors) for _ in targets]
        for row, target in zip(sums, targets, strict=True):
            code.read(row, target)
        with cgutils.for_range(code.builder, depth) as loop:
            right = code.vectors(weight, (loop.index, vectors * code.size), vectors)
            for source, row in zip(sources, sums, strict=True):
                left = code.spread(code.plus(source, (loop.index, code.bytes)))
                for variable, vector in zip(row, right, strict=True):
                    code.add_product(variable, left, vector)
        for row, target in zip(sums, targets, strict=True):
            code.write(row, target)

    code.tiled(count, vectors, tile)


@_intrinsic(11)
def outer_rows(code, out, x, grad, origin, to, count, depth, out_step, x_step, grad_step, fresh,
               real, lanes, vectors):  # fmt: skip
    """out = (0 if fresh else out) + x[origin[p]].T @ grad[to[p]] summed over ``count`` pairs.

    ``out`` has ``depth`` rows of ``vectors * lanes`` columns.
    """

    def tile(first, rows):
        targets = [code.plus(out, (code.plus(first, r), out_step)) for r in range(rows)]
        columns = code.plus(x, (first, code.bytes))
        sums = [code.sums(vectors) for _ in targets]
        with code.builder.if_then(code.builder.icmp_signed("==", fresh, INDEX(0))):
            for row, target in zip(sums, targets, strict=True):
                code.read(row, target)
        with cgutils.for_range(code.builder, count) as loop:
            source = code.row(columns, x_step, origin, loop.index)
            right = code.vectors(code.row(grad, grad_step, to, loop.index), 0, vectors)
            for r, row in enumerate(sums):
                left = code.spread(code.plus(source, r * code.bytes))
                for variable, vector in zip(row, right, strict=True):
                    code.add_product(variable, left, vector)
        for row, target in zip(sums, targets, strict=True):
            code.write(row, target)

    code.tiled(depth, vectors, tile)


@_intrinsic(8)
def weighted_rows(code, out, a, b, rows_a, rows_b, count, a_step, b_step,
                  real, lanes, vectors, copies, fresh):  # fmt: skip
    """out = (0 if fresh else out) + sum over ``count`` pairs of a[rows_a[p]] * b[rows_b[p]].

    ``copies`` sums take turns, so that no product waits for the sum before it.
    """
    builder = code.builder
    sums = [code.sums(vectors) for _ in range(copies)]
    if not fresh:
        code.read(sums[0], out)

    def add(place, row):
        sides = code.row(a, a_step, rows_a, place), code.row(b, b_step, rows_b, place)
        for variable, *factors in zip(row, *(code.vectors(side, 0, vectors) for side in sides),
                                      strict=True):  # fmt: skip
            code.add_product(variable, *factors)

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


@_intrinsic(4)
def copy_rows(code, out, x, count, x_step, real, lanes, vectors):
    """Copy ``count`` rows of ``vectors * lanes`` columns into ``out``, without gaps."""
    with cgutils.for_range(code.builder, count) as loop:
        target = code.plus(out, (loop.index, vectors * code.size))
        for v, vector in enumerate(code.vectors(x, (loop.index, x_step), vectors)):
            code.store(vector, code.plus(target, v * code.size))


@_intrinsic(4)
def turn_square(code, out, x, out_step, x_step, real, lanes):
    """The transpose of a square of ``lanes`` rows: out[j, i] = x[i, j]."""
    rows = [code.load(code.plus(x, (x_step, i))) for i in range(code.lanes)]
    distance = 1
    while distance < code.lanes:
        for i in (i for i in range(code.lanes) if not i & distance):
            rows[i], rows[i + distance] = code.exchanged(rows[i], rows[i + distance], distance)
        distance *= 2
    for j, row in enumerate(rows):
        code.store(row, code.plus(out, (out_step, j)))
