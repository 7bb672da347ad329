"""Nearest points by a scan in 8-bit integers, whose survivors are compared in double precision.

Rows and points are rounded to 8 bits. What the rounding can change of a distance is bounded (Cauchy-Schwarz), each
point that may be the nearest for all that is kept, a few for a row, and these are compared as they are: the answer is
that of brute force. Sums of products are made by AMX where processor and kernel have it, by AVX-512 VNNI elsewhere,
from the same integers; only those that reach their row's limit are looked at. Processors without either search as
before (`supported`). Figures: record 0041.

The distance of row x and point y, both less an origin and without |x|^2, is |y|^2 - 2xy; its score is half of that,
negative, in units of (step of the rows) x (step of the cell's points): an integer that only rounding keeps from it.
"""

import ctypes
import functools
import logging
import platform
import sys
from collections.abc import Sequence
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from hardnet.compiling import compiled
from retrieval.vocabulary.blas import in_blocks

logger = logging.getLogger(__name__)

NEIGHBOURS = 16  # more of them are not asked of a scan: their list is kept in order at every point that is kept
ROWS, WORDS = 16, 32  # of a tile of sums
LANE_ROWS = 8  # rows whose sums stay in vector registers (VNNI)
GROUP, CHUNK = 16, 64  # points that lie together, four dimensions after four; dimensions are filled up to a multiple
KEPT = 128  # points that are kept for a row, and one more for each neighbour; a row that needs more is left over
CELL = 1 << 10  # points scanned together where there are no cells: they stay in the second cache
BLOCK, LEAST_BLOCK = 1 << 14, 1 << 8  # rows scanned at a time; at least so many are compared by a thread
SPREAD = 1.5  # rows are rounded up to so many times the median of their largest components
PARTS = 8  # of the cells, at most: each keeps points for every row
TOGETHER = 1 << 6  # cells that a thread rounds at a time
WITHIN = 1.0001  # what float32 says of a squared distance is nearer than that
FAR = 1 << 28  # beyond every score; limits lie beyond it
_LEAVE = (158, 0x1023, 18)  # Linux on x86-64: arch_prctl, ARCH_REQ_XCOMP_PERM, the state of the tile registers

_BYTE, _INT, _LONG, _VOID = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.VoidType()
_POINTER = _BYTE.as_pointer()
_LANES = ir.VectorType(_INT, GROUP)


@functools.cache
def supported() -> bool:
    """Whether loops are compiled here, and for a processor with AVX-512 VNNI; the first call logs where not."""
    config: Any = numba.config
    chosen = config.DISABLE_JIT or config.CPU_NAME is not None or config.CPU_FEATURES is not None
    if chosen or platform.machine().lower() not in ("x86_64", "amd64") or not _has("avx512vnni", "avx512bw"):
        reason = "numba is told not to compile for it" if chosen else "it has no AVX-512 VNNI"
        logger.info("words are not scanned in integers on this processor (%s) but compared as they are", reason)
        return False
    return True


@functools.cache
def tiles() -> np.ndarray | None:
    """(64,) uint8, the layout of AMX's registers: 16 rows of 64 bytes; None without AMX or the kernel's leave."""
    if not supported() or sys.platform != "linux" or not _has("amx-tile", "amx-int8"):
        return None
    if ctypes.CDLL(None).syscall(*_LEAVE) != 0:
        return None
    layout = np.zeros(64, np.uint8)
    layout[0] = 1
    layout[16:32].view(np.uint16)[:] = CHUNK
    layout[48:56] = ROWS
    return layout


def _has(*features: str) -> bool:
    found = llvmlite.binding.get_host_cpu_features()
    return all(found.get(feature) for feature in features)


class Scan:
    """Points in cells, or in none, that are rounded when their cell is first visited.

    What it takes of memory: `scan_bytes`, and more where cells are filled up to `WORDS`.

    Args:
        points: (K, D) float32; may be memory-mapped, has to stay as it is.
        ids: for each cell the numbers of its points, (k,) integers; None: every row meets every point.
        origin: (D,) float32 in the midst of the points: precision depends on it, results do not.
    """

    def __init__(
        self, points: np.ndarray, ids: Sequence[np.ndarray] | None = None, origin: np.ndarray | None = None
    ) -> None:
        if ids is None:
            ids = np.split(np.arange(len(points)), range(CELL, len(points), CELL))
        self._points = points
        self._origin = (points.mean(axis=0) if origin is None else origin).astype(np.float32)
        self._sizes = np.array([len(some) for some in ids], np.int64)
        self._firsts = np.concatenate([[0], np.cumsum(_filled(self._sizes, WORDS))]).astype(np.int64)
        room, width = int(self._firsts[-1]), int(_filled(points.shape[1], CHUNK))
        self._ids = np.full(room, -1, np.int64)
        for first, some in zip(self._firsts, ids, strict=False):
            self._ids[first : first + len(some)] = some
        self._codes = _aligned((room, width), np.int8)
        self._halves = np.full(room, np.inf, np.float32)
        self._totals = np.zeros(room, np.int32)
        self._facts = np.zeros((len(ids), 3), np.float32)  # step, largest norm, largest norm of what rounding takes
        self._ready = np.zeros(len(ids), bool)

    def search(
        self, rows: np.ndarray, neighbours: int = 1, visited: np.ndarray | None = None, threads: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest of all points, or of those in the cells that a row visits.

        Args:
            rows: (N, D) float32, finite.
            neighbours: points per row, nearest first, equally near ones in the order of their numbers; at most
                `NEIGHBOURS`.
            visited: (N, P) int32, the cells of each row, each once; None where there are no cells.
            threads: that share the cells, so that each is read once; the result is the same.

        Returns:
            (N, neighbours) int64; the rows (M,) int64 that are left over, for which there is no answer: those whose
            rounding leaves too many points, or who meet fewer than they ask for.
        """
        rows = np.ascontiguousarray(rows)
        found = np.full((len(rows), neighbours), -1, np.int64)
        left = np.zeros(len(rows), bool)
        needed = np.ones(len(self._sizes), bool)
        if visited is not None:
            needed[:] = False
            needed[visited] = True
        self._prepare(needed, threads)
        for start in range(0, len(rows), BLOCK):
            some = slice(start, start + BLOCK)
            left[some] = self._search(rows[some], None if visited is None else visited[some], found[some], threads)
        return found, np.flatnonzero(left)

    def _search(self, rows: np.ndarray, visited: np.ndarray | None, found: np.ndarray, threads: int) -> np.ndarray:
        count, neighbours = found.shape
        size = block(count, threads)
        parts = min(-(-count // size), PARTS)
        if visited is None:
            begins, ends = np.zeros(len(self._sizes), np.int64), np.full(len(self._sizes), count, np.int64)
            visitors = np.arange(count, dtype=np.int32)
        else:
            begins, ends, visitors = _by_cell(np.ascontiguousarray(visited), len(self._sizes))
        largest = np.median(np.abs(rows - self._origin).max(axis=1))
        step = max(np.float32(SPREAD / 127) * largest, np.float32(1e-12))
        codes = np.full((count, self._codes.shape[1]), 128, np.uint8)
        norms, lost = np.empty(count, np.float32), np.empty(count, np.float32)
        _encode(rows, self._origin, step, codes, norms, lost)
        upper = np.full((parts, count, neighbours), np.inf, np.float32)
        low = np.empty((parts, count, KEPT + neighbours), np.float32)
        place = np.empty(low.shape, np.int32)
        kept = np.zeros((parts, count), np.int32)
        bounds = _shared(ends - begins, self._sizes, parts)
        cells = (self._firsts, self._sizes, self._codes.reshape(-1), self._halves, self._totals, self._facts)

        def scan(part: int) -> None:
            begin, end = bounds[part], bounds[part + 1]
            sums = _aligned((ROWS, WORDS), np.int32)
            own = (upper[part], low[part], place[part], kept[part], sums, tiles())
            _scan(begin, end, codes, norms, lost, step, begins, ends, visitors, *cells, *own)

        def compare(start: int) -> None:
            stop = min(start + size, count)
            _compare(start, stop, rows, self._points, self._ids, upper, low, place, kept, nearest, found)

        in_blocks(scan, parts, 1, threads)
        nearest = np.full(found.shape, np.inf)
        in_blocks(compare, count, size, threads)
        left: np.ndarray = np.logical_or((kept < 0).any(axis=0), (found < 0).any(axis=1))
        return left

    def _prepare(self, needed: np.ndarray, threads: int) -> None:
        """Rounds the points of the cells that are needed, (G,) bool. Two threads that do so at once write the same."""
        cells = np.flatnonzero(needed & ~self._ready)

        def prepare(start: int) -> None:
            for cell in cells[start : start + TOGETHER].tolist():
                first, size = self._firsts[cell], self._sizes[cell]
                part = slice(first, self._firsts[cell + 1])
                ids = self._ids[first : first + size]
                fours = self._codes[part].reshape(-1).view(np.int32)
                _pack(self._points, ids, self._origin, fours, self._halves[part], self._totals[part], self._facts[cell])
                self._ready[cell] = True

        in_blocks(prepare, len(cells), TOGETHER, threads)


def scan_bytes(points: int, dimensions: int) -> float:
    """Memory that a scan takes beside so many points once all of them have been visited, but for cells filled up."""
    return float(points) * (_filled(dimensions, CHUNK) + 8 + 4 + 4)  # code, id, half of the squared norm, total


def block(rows: int, threads: int) -> int:
    """How many of so many rows a thread compares at a time."""
    return int(np.clip(-(-rows // threads), LEAST_BLOCK, BLOCK))


def _shared(visitors: np.ndarray, sizes: np.ndarray, parts: int) -> np.ndarray:
    """(parts + 1,) where parts of the cells begin and end that take about as long: tiles, and reading a cell."""
    tiles = (_filled(visitors, ROWS) + ROWS * (visitors > 0)) * sizes
    return np.searchsorted(np.cumsum(tiles), tiles.sum() * np.arange(parts + 1) / parts, side="right")


def _filled(size: Any, multiple: int) -> Any:
    """Sizes, filled up to a multiple."""
    return -(-size // multiple) * multiple


def _aligned(shape: tuple[int, ...], kind: type) -> np.ndarray:
    """Zeros that begin at a multiple of 64 bytes."""
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    room = np.zeros(size + 64, np.uint8)
    first = -room.ctypes.data % 64
    return room[first : first + size].view(kind).reshape(shape)


def _typed_tile(
    typing: Any, rows: Any, words: Any, word: Any, norms: Any, norm: Any, limits: Any, sums: Any, hits: Any, tiles: Any
) -> Any:
    """Sums of `ROWS` rows and `WORDS` points; which reach the limit of their row.

    For rows (ROWS, D) uint8, points from byte `word` on (`_pack`), int32 `norms` from element `norm` on that are
    added, `limits` (ROWS,) int32: `hits` (ROWS,) int32, a bit for each point that reaches it, and if there is one
    `sums` (ROWS, WORDS) int32. Returns 0 if there is none. AMX is used where `tiles` is no None.
    """
    signature = types.int64(rows, words, types.int64, norms, types.int64, limits, sums, hits, tiles)
    return signature, _code_of_tile


def _typed_start(typing: Any, tiles: Any) -> Any:
    """Lays out the tile registers as `tiles` says."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> None:
        if signature.args[0] != types.none:
            pointer = context.make_array(signature.args[0])(context, builder, given[0]).data
            _call(builder, "ldtilecfg", _VOID, builder.bitcast(pointer, _POINTER))

    return types.void(tiles), code


def _typed_stop(typing: Any, tiles: Any) -> Any:
    """Lets go of the tile registers."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> None:
        if signature.args[0] != types.none:
            _call(builder, "tilerelease", _VOID)

    return types.void(tiles), code


def _call(builder: Any, name: str, result: Any, *given: Any) -> Any:
    kind = ir.FunctionType(result, [value.type for value in given])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), given)


def _number(value: int) -> ir.Constant:
    return ir.Constant(_LONG, value)


def _everywhere(builder: Any, value: Any) -> Any:
    nothing = ir.Constant(_LANES, ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(_LANES, [0] * GROUP))


def _code_of_tile(context: Any, builder: Any, signature: Any, given: Any) -> Any:
    pointer, dimensions = {}, None
    names = ("rows", "words", "word", "norms", "norm", "limits", "sums", "hits", "tiles")
    kinds = dict(zip(names, signature.args, strict=True))
    for name, value in zip(names, given, strict=True):
        if isinstance(kinds[name], types.Array):
            array = context.make_array(kinds[name])(context, builder, value)
            pointer[name] = builder.bitcast(array.data, _POINTER)
            if name == "rows":
                dimensions = cgutils.unpack_tuple(builder, array.shape)[1]
    pointer["words"] = builder.gep(pointer["words"], [given[2]])
    pointer["norms"] = builder.gep(pointer["norms"], [builder.mul(given[4], _number(4))])
    if kinds["tiles"] != types.none:
        _products_of_tiles(builder, pointer, dimensions)
        return builder.zext(_reached(builder, pointer, 0, ROWS, None), _LONG)
    reached: Any = ir.Constant(_INT, 0)
    for first in range(0, ROWS, LANE_ROWS):
        sums = _products_of_lanes(builder, pointer, dimensions, first)
        reached = builder.or_(reached, _reached(builder, pointer, first, LANE_ROWS, sums))
    return builder.zext(reached, _LONG)


def _at(builder: Any, pointer: Any, offset: Any, kind: Any) -> Any:
    place = offset if isinstance(offset, ir.Value) else _number(offset)
    return builder.bitcast(builder.gep(pointer, [place]), kind.as_pointer())


def _products_of_lanes(builder: Any, pointer: Any, dimensions: Any, first: int) -> Any:
    """By VNNI: the sums of LANE_ROWS rows, as places of vectors for each row and group of points."""
    groups = range(WORDS // GROUP)
    sums = [[cgutils.alloca_once(builder, _LANES) for _ in groups] for _ in range(LANE_ROWS)]
    for group in groups:
        norms = builder.load(_at(builder, pointer["norms"], 4 * GROUP * group, _LANES), align=4)
        for row in range(LANE_ROWS):
            builder.store(norms, sums[row][group])
    with cgutils.for_range(builder, builder.udiv(dimensions, _number(CHUNK))) as loop:
        chunk = builder.mul(loop.index, _number(CHUNK))
        for four in range(0, CHUNK, 4):
            place = builder.add(chunk, _number(four))
            points = []
            for group in groups:
                offset = builder.mul(builder.add(place, builder.mul(dimensions, _number(group))), _number(GROUP))
                points.append(builder.load(_at(builder, pointer["words"], offset, _LANES), align=4))
            for row in range(LANE_ROWS):
                offset = builder.add(place, builder.mul(dimensions, _number(first + row)))
                values = _everywhere(builder, builder.load(_at(builder, pointer["rows"], offset, _INT), align=4))
                for group in groups:
                    total = builder.load(sums[row][group])
                    total = _call(builder, "avx512.vpdpbusd.512", _LANES, total, values, points[group])
                    builder.store(total, sums[row][group])
    return sums


def _products_of_tiles(builder: Any, pointer: Any, dimensions: Any) -> None:
    """By AMX: the sums of ROWS rows, written. Registers 0 and 1 hold sums, 2 rows, 3 and 4 points."""

    def register(number: int) -> ir.Constant:
        return ir.Constant(_BYTE, number)

    groups = range(WORDS // GROUP)
    size = builder.mul(dimensions, _number(WORDS))
    fetch = ir.FunctionType(_VOID, [_POINTER, _INT, _INT, _INT])
    fetch = cgutils.get_or_insert_function(builder.module, fetch, "llvm.prefetch.p0i8")
    how = [ir.Constant(_INT, value) for value in (0, 3, 1)]  # for reading, into the first cache, data
    with cgutils.for_range(builder, builder.udiv(size, _number(CHUNK))) as loop:  # the next tile's points
        place = builder.add(size, builder.mul(loop.index, _number(CHUNK)))
        builder.call(fetch, [builder.gep(pointer["words"], [place]), *how])
    for group in groups:  # each row begins with the same norms
        norms = builder.gep(pointer["norms"], [_number(4 * GROUP * group)])
        _call(builder, "tileloadd64", _VOID, register(group), norms, _number(0))
    with cgutils.for_range(builder, builder.udiv(dimensions, _number(CHUNK))) as loop:
        chunk = builder.mul(loop.index, _number(CHUNK))
        rows = builder.gep(pointer["rows"], [chunk])
        _call(builder, "tileloadd64", _VOID, register(2), rows, dimensions)
        for group in groups:
            offset = builder.mul(builder.add(chunk, builder.mul(dimensions, _number(group))), _number(GROUP))
            points = builder.gep(pointer["words"], [offset])
            _call(builder, "tileloadd64", _VOID, register(3 + group), points, _number(4 * GROUP))
        for group in groups:
            _call(builder, "tdpbusd", _VOID, register(group), register(2), register(3 + group))
    for group in groups:
        sums = builder.gep(pointer["sums"], [_number(4 * GROUP * group)])
        _call(builder, "tilestored64", _VOID, register(group), sums, _number(4 * WORDS))


def _reached(builder: Any, pointer: Any, first: int, rows: int, sums: Any) -> Any:
    """Whether a row has a hit; if so writes the hits of all, and their sums where these are not written yet."""
    groups = range(WORDS // GROUP)

    def place(row: int, group: int) -> Any:
        return _at(builder, pointer["sums"], 4 * (WORDS * (first + row) + GROUP * group), _LANES)

    def above(row: int, group: int) -> Any:
        value = builder.load(place(row, group), align=4) if sums is None else builder.load(sums[row][group])
        limit = builder.load(_at(builder, pointer["limits"], 4 * (first + row), _INT), align=4)
        return builder.icmp_signed(">=", value, _everywhere(builder, limit))

    def bits(mask: Any) -> Any:
        return builder.zext(builder.bitcast(mask, ir.IntType(GROUP)), _INT)

    each = [above(row, group) for row in range(rows) for group in groups]
    reached = bits(functools.reduce(builder.or_, each))
    if sums is not None:  # other rows may reach their limits
        none = ir.VectorType(_INT, rows)
        builder.store(ir.Constant(none, [0] * rows), _at(builder, pointer["hits"], 4 * first, none), align=4)
    with cgutils.if_unlikely(builder, builder.icmp_unsigned("!=", reached, ir.Constant(_INT, 0))):
        for row in range(rows):
            mask: Any = ir.Constant(_INT, 0)
            for group in groups:
                mask = builder.or_(mask, builder.shl(bits(above(row, group)), ir.Constant(_INT, GROUP * group)))
                if sums is not None:
                    builder.store(builder.load(sums[row][group]), place(row, group), align=4)
            builder.store(mask, _at(builder, pointer["hits"], 4 * (first + row), _INT), align=4)
    return reached


_tile: Any = intrinsic(_typed_tile)
_start: Any = intrinsic(_typed_start)
_stop: Any = intrinsic(_typed_stop)


@compiled
def _by_cell(visited: np.ndarray, cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each cell's visitors begin and end, and these, as they stood."""
    starts = np.zeros(cells + 1, np.int64)
    for i in range(visited.shape[0]):
        for j in range(visited.shape[1]):
            starts[visited[i, j] + 1] += 1
    for cell in range(cells):
        starts[cell + 1] += starts[cell]
    place = starts.copy()
    visitors = np.empty(starts[cells], np.int32)
    for i in range(visited.shape[0]):
        for j in range(visited.shape[1]):
            visitors[place[visited[i, j]]] = i
            place[visited[i, j]] += 1
    return starts[:-1].copy(), place[:-1].copy(), visitors


@compiled
def _pack(
    points: np.ndarray,
    ids: np.ndarray,
    origin: np.ndarray,
    fours: np.ndarray,
    halves: np.ndarray,
    totals: np.ndarray,
    facts: np.ndarray,
) -> None:
    """Rounds the points of a cell: int8 in groups of GROUP, four dimensions after four; half of their squared norms.

    `fours` are the codes, four of them an int32.
    """
    dimensions = points.shape[1]
    width = len(fours) // len(halves)
    row = np.zeros(4 * width, np.int8)
    row_fours = row.view(np.int32)
    largest = np.float32(1e-12)
    for id_ in ids:
        point = points[id_]
        for d in range(dimensions):
            largest = max(largest, abs(point[d] - origin[d]))
    step, inverse = largest / np.float32(127), np.float32(127) / largest
    longest, most = np.float32(0), np.float32(0)
    for j in range(len(ids)):
        point = points[ids[j]]
        norm, lost, total = np.float32(0), np.float32(0), np.int32(0)
        for d in range(dimensions):
            value = point[d] - origin[d]
            code = np.rint(value * inverse)
            norm += value * value
            lost += (value - code * step) ** 2
            total += np.int32(code)
            row[d] = np.int8(np.int32(code))
        group = fours[(j // GROUP) * GROUP * width : (j // GROUP + 1) * GROUP * width]
        for four in range(width):
            group[four * GROUP + j % GROUP] = row_fours[four]
        halves[j], totals[j] = norm / np.float32(2), total
        longest, most = max(longest, norm), max(most, lost)
    facts[0], facts[1], facts[2] = step, np.sqrt(longest), np.sqrt(most)


@compiled
def _encode(
    rows: np.ndarray, origin: np.ndarray, step: float, codes: np.ndarray, norms: np.ndarray, lost: np.ndarray
) -> None:
    """Rounds rows to uint8 around 128; norms of what the codes hold, and of what they do not."""
    inverse = np.float32(1) / step
    for i in range(rows.shape[0]):
        norm, rest = np.float32(0), np.float32(0)
        for d in range(rows.shape[1]):
            value = rows[i, d] - origin[d]
            code = min(max(np.rint(value * inverse), np.float32(-127)), np.float32(127))
            norm += (code * step) ** 2
            rest += (value - code * step) ** 2
            codes[i, d] = np.uint8(code + np.float32(128))
        norms[i], lost[i] = np.sqrt(norm), np.sqrt(rest)


@compiled
def _limit(upper: float, bound: float, unit: float) -> int:
    """The least score of a point that may be nearer than `upper`."""
    value = -(upper + bound) / (np.float32(2) * unit)
    return int(np.floor(min(max(value, np.float32(-2 * FAR)), np.float32(2 * FAR))))


@compiled
def _scan(
    begin: int,
    end: int,
    codes: np.ndarray,
    norms: np.ndarray,
    lost: np.ndarray,
    step: float,
    begins: np.ndarray,
    ends: np.ndarray,
    visitors: np.ndarray,
    firsts: np.ndarray,
    sizes: np.ndarray,
    points: np.ndarray,
    halves: np.ndarray,
    totals: np.ndarray,
    facts: np.ndarray,
    upper: np.ndarray,
    low: np.ndarray,
    place: np.ndarray,
    kept: np.ndarray,
    sums: np.ndarray,
    layout: np.ndarray | None,
) -> None:
    """Keeps the points of the cells from `begin` to `end` that may be among the nearest.

    Of a row: `upper` (neighbours,) ascending, no less than the least distances met; `low` and `place`, what the
    distances of points kept are at least and where they lie; `kept`, how many, -1 for too many.
    """
    last = upper.shape[1] - 1
    width = codes.shape[1]
    slack = np.float32(1.2e-7 * width)  # what float32 may lose of a sum
    scores = np.empty(_longest(firsts), np.int32)
    tile = np.empty((ROWS, width), np.uint8)
    limits, hits, bounds = np.empty(ROWS, np.int32), np.empty(ROWS, np.int32), np.empty(ROWS, np.float32)
    _start(layout)
    for cell in range(begin, end):
        if ends[cell] == begins[cell]:
            continue
        first, size = firsts[cell], sizes[cell]
        farthest, error = facts[cell, 1], facts[cell, 2]
        unit = step * facts[cell, 0]
        inverse = np.float32(1) / unit
        if np.float32(0.5) * farthest * farthest * inverse >= np.float32(FAR):  # scores would be cut
            for v in range(begins[cell], ends[cell]):
                kept[visitors[v]] = -1
            continue
        half, total = halves[first : firsts[cell + 1]], totals[first : firsts[cell + 1]]
        for j in range(len(half)):  # rows are 128 higher than they should be
            scores[j] = -np.int32(min(np.rint(half[j] * inverse), np.float32(FAR))) - 128 * total[j]
        for start in range(begins[cell], ends[cell], ROWS):
            there = min(ROWS, ends[cell] - start)
            for t in range(there):
                i = visitors[start + t]
                for d in range(width):
                    tile[t, d] = codes[i, d]
                rounding = norms[i] * error + lost[i] * farthest
                bounds[t] = 2 * (rounding + unit + slack * farthest * (farthest + norms[i]))
                limits[t] = _limit(upper[i, last], bounds[t], unit) if kept[i] >= 0 else 2 * FAR
            for t in range(there, ROWS):
                limits[t] = 2 * FAR
            for w in range(0, size, WORDS):
                if _tile(tile, points, (first + w) * width, scores, w, limits, sums, hits, layout) == 0:
                    continue
                for t in range(there):
                    if hits[t] == 0:
                        continue
                    i = visitors[start + t]
                    for j in range(min(WORDS, size - w)):
                        if sums[t, j] < limits[t]:
                            continue
                        if kept[i] == low.shape[1] and not _dropped(upper[i, last], low[i], place[i], kept, i):
                            limits[t] = 2 * FAR
                            break
                        distance = np.float32(-2) * unit * np.float32(sums[t, j])
                        low[i, kept[i]], place[i, kept[i]] = distance - bounds[t], first + w + j
                        kept[i] += 1
                        if distance + bounds[t] < upper[i, last]:
                            n = last
                            while n > 0 and upper[i, n - 1] > distance + bounds[t]:
                                upper[i, n] = upper[i, n - 1]
                                n -= 1
                            upper[i, n] = distance + bounds[t]
                            limits[t] = _limit(upper[i, last], bounds[t], unit)
    _stop(layout)


@compiled
def _longest(firsts: np.ndarray) -> int:
    longest = 0
    for cell in range(len(firsts) - 1):
        longest = max(longest, firsts[cell + 1] - firsts[cell])
    return longest


@compiled
def _dropped(upper: float, low: np.ndarray, place: np.ndarray, kept: np.ndarray, i: int) -> bool:
    """Drops points of a row that are out of reach by now; False, and none is kept any more, if there are none."""
    n = 0
    for c in range(len(low)):
        if low[c] <= upper:
            low[n], place[n] = low[c], place[c]
            n += 1
    kept[i] = n if n < len(low) else -1
    return n < len(low)


@compiled
def _compare(
    start: int,
    stop: int,
    rows: np.ndarray,
    points: np.ndarray,
    ids: np.ndarray,
    upper: np.ndarray,
    low: np.ndarray,
    place: np.ndarray,
    kept: np.ndarray,
    nearest: np.ndarray,
    found: np.ndarray,
) -> None:
    """The nearest of the points that any part kept for the rows from `start` to `stop`, by double precision.

    Equally near ones are taken by number.
    """
    neighbours = found.shape[1]
    for i in range(start, stop):
        limit = upper[:, i, neighbours - 1].min()
        for part in range(len(kept)):
            for c in range(kept[part, i]):
                if low[part, i, c] > limit:
                    continue
                id_ = ids[place[part, i, c]]
                rough = np.float32(0)
                for d in range(rows.shape[1]):
                    rough += (rows[i, d] - points[id_, d]) ** 2
                if rough > WITHIN * nearest[i, neighbours - 1]:
                    continue
                distance = 0.0
                for d in range(rows.shape[1]):
                    distance += (np.float64(rows[i, d]) - np.float64(points[id_, d])) ** 2
                n = neighbours
                while n > 0 and (
                    found[i, n - 1] < 0
                    or distance < nearest[i, n - 1]
                    or (distance == nearest[i, n - 1] and id_ < found[i, n - 1])
                ):
                    if n < neighbours:
                        nearest[i, n], found[i, n] = nearest[i, n - 1], found[i, n - 1]
                    n -= 1
                if n < neighbours:
                    nearest[i, n], found[i, n] = distance, id_
