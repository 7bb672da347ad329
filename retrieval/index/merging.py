"""Segments merged into one, a range of words after another: memory is that of a block, however large they are.

A segment has its features by word, so that a range of words is one slice of every array of it. Slices are read from the
files and not through their maps, whose pages would count as memory.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from retrieval.index.scoring import batches
from retrieval.index.segment import Segment, openings

FEATURES = 1 << 30  # at most, of a segment that is made by merging: rows are int32
BLOCK = 1 << 20  # features merged at a time
ROWS = 1 << 23  # features whose rows are sorted at a time

Part = tuple[Segment, np.ndarray]


@contextlib.contextmanager
def merged(parts: Sequence[Part], folder: Path) -> Iterator[dict[str, np.ndarray]]:
    """The arrays of a segment of images that other segments hold; equal to those of a segment built of them anew.

    Args:
        parts: segments of one vocabulary, each with the (n,) int new ids of its images, -1 for one that is left out.
            The ids that are given are 0, 1, ... without a gap, in any order.
        folder: where the arrays lie, memory-mapped, as long as the block lasts; under a name that an index, and a
            build of one, take for a leftover.

    Yields:
        The arrays of `Segment` by name.
    """
    with tempfile.TemporaryDirectory(prefix=".merging.", suffix=".tmp", dir=folder) as scratch:
        yield _merge(parts, Path(scratch))


def runs(features: Sequence[int], parts: int) -> list[int]:
    """Consecutive things in runs of about as many features each.

    Args:
        features: of each thing.
        parts: how many runs, at least one; at most as many as there are things, or one of nothing.

    Returns:
        parts + 1 bounds, from 0 to the number of things; no run of some is empty.
    """
    ends, bounds = np.cumsum(features), [0]
    for part in range(1, parts):
        nearest = int(np.searchsorted(ends, ends[-1] * part / parts))  # the thing that goes beyond it
        before = int(ends[nearest - 1]) if nearest else 0
        if ends[-1] * part / parts - before > ends[nearest] - ends[-1] * part / parts:
            nearest += 1
        bounds.append(min(max(nearest, bounds[-1] + 1), len(features) - (parts - part)))
    return [*bounds, len(features)]


def _merge(parts: Sequence[Part], folder: Path) -> dict[str, np.ndarray]:
    ids = [given.astype(np.int32) for _, given in parts]
    segments = [segment for segment, _ in parts]
    images = sum(int((one >= 0).sum()) for one in ids)
    sizes, counts = np.empty((images, 2), np.int32), np.zeros(images, np.int64)
    for segment, new in zip(segments, ids, strict=True):
        kept = new >= 0
        sizes[new[kept]], counts[new[kept]] = segment.sizes[kept], np.diff(segment.offsets)[kept]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    words = len(segments[0].document_frequencies)
    features = int(offsets[-1])
    full = [part for part in zip(segments, ids, strict=True) if part[0].features]  # what holds nothing may lack arrays
    full = full or [(segments[0], ids[0])]
    like = full[0][0]
    columns = {name: _Column(folder / name, array, features) for name, array in _columns(like).items()}
    pairs = None if like.aggregates is None else _Column(folder / "aggregates", like.aggregates, _pairs(full))
    lengths, frequencies = np.empty(words, np.int64), np.empty(words, np.int32)
    starts = [0] * len(full)  # of their next pairs
    with contextlib.ExitStack() as stack:
        for column in (*columns.values(), *([] if pairs is None else [pairs])):
            stack.enter_context(column)
        for some in batches(_list_lengths(segment for segment, _ in full), BLOCK):
            blocks = [_Block(*part, some, start) for part, start in zip(full, starts, strict=True)]
            starts = [block.pairs.stop for block in blocks]
            word, image = (_joined([getattr(block, name) for block in blocks]) for name in ("words", "images"))
            order = np.lexsort((image, word))  # equal ones as they come
            for name, column in columns.items():
                column.append(_joined([block.column(name) for block in blocks])[order])
            lengths[some] = np.bincount(word, minlength=some.stop - some.start)
            word, image = (
                _joined([getattr(block, name) for block in blocks]) for name in ("pair_words", "pair_images")
            )
            frequencies[some] = np.bincount(word, minlength=some.stop - some.start)
            if pairs is not None:
                pairs.append(_joined([block.aggregates() for block in blocks])[np.lexsort((image, word))])
    arrays = {name: column.array() for name, column in columns.items()}
    if pairs is not None:
        arrays["aggregates"] = pairs.array()
    arrays["rows"] = _rows(arrays["images"], offsets, folder / "rows")
    word_offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return {
        **arrays,
        "sizes": sizes,
        "offsets": offsets,
        "word_offsets": word_offsets,
        "document_frequencies": frequencies,
    }


def _columns(segment: Segment) -> dict[str, np.ndarray]:
    """What a segment has of every feature but its rows."""
    found = {name: getattr(segment, name) for name in ("images", "positions", "shapes", "angles", "signatures")}
    return {name: array for name, array in found.items() if array is not None}


class _Block:
    """The features of a range of words in one segment whose images are kept, with the images' new ids.

    Args:
        segment: the segment.
        ids: new ones of its images, or -1.
        some: words.
        pairs: how many pairs of a word and an image the words before these have.
    """

    def __init__(self, segment: Segment, ids: np.ndarray, some: slice, pairs: int = 0) -> None:
        first, last = some.start, some.stop
        bounds = _read(segment.word_offsets, first, last + 1)
        self.segment, self.start, self.stop = segment, int(bounds[0]), int(bounds[-1])
        lengths = np.diff(bounds)
        words = np.repeat(np.arange(last - first, dtype=np.int32), lengths)
        there = _read(segment.images, self.start, self.stop)
        images, opening = ids[there], openings(there, lengths)
        self.pairs = slice(pairs, pairs + int(opening.sum()))
        self.kept = np.flatnonzero(images >= 0)
        self.words, self.images = words[self.kept], images[self.kept]
        self.pair_kept = np.flatnonzero(images[opening] >= 0)
        self.pair_words, self.pair_images = words[opening][self.pair_kept], images[opening][self.pair_kept]

    def column(self, name: str) -> np.ndarray:
        """One array, a row a feature."""
        if name == "images":
            return self.images
        return _read(getattr(self.segment, name), self.start, self.stop)[self.kept]

    def aggregates(self) -> np.ndarray:
        """A row a pair."""
        assert self.segment.aggregates is not None
        return _read(self.segment.aggregates, self.pairs.start, self.pairs.stop)[self.pair_kept]


class _Column:
    """An array that grows row by row to a known length, in a file; planes of 64 bits lie one after another.

    Args:
        path: of the file.
        like: an array of this kind.
        length: rows in the end.
    """

    def __init__(self, path: Path, like: np.ndarray, length: int) -> None:
        self.path, self.dtype, self.done = path, like.dtype, 0
        self.planes = like.dtype == np.uint64
        self.shape = (len(like), length) if self.planes else (length, *like.shape[1:])

    def __enter__(self) -> "_Column":
        self.stream: IO[bytes] = self.path.open("wb")
        return self

    def __exit__(self, *_: Any) -> None:
        self.stream.close()

    def append(self, rows: np.ndarray) -> None:
        """Some rows; of planes, (m, planes)."""
        if self.planes:
            for plane, values in enumerate(rows.T):
                self.stream.seek((plane * self.shape[1] + self.done) * self.dtype.itemsize)
                self.stream.write(values.tobytes())  # `tofile` does not tell of a full disk
        else:
            self.stream.write(rows.tobytes())
        self.done += len(rows)

    def array(self) -> np.ndarray:
        """All rows, memory-mapped."""
        assert self.done == self.shape[1 if self.planes else 0]
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        return np.memmap(self.path, self.dtype, "r", shape=self.shape)


def _read(array: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Rows of an array; (m, planes) of planes of 64 bits."""
    planes = array.dtype == np.uint64
    if not isinstance(array, np.memmap) or array.filename is None:
        return np.array(array[:, start:stop].T if planes else array[start:stop])
    width = 1 if planes else int(np.prod(array.shape[1:]))
    found = []
    for plane in range(len(array) if planes else 1):
        first = (plane * array.shape[1] if planes else 0) + start
        offset = array.offset + first * width * array.dtype.itemsize
        found.append(np.fromfile(array.filename, array.dtype, (stop - start) * width, offset=offset))
    return np.stack(found, axis=1) if planes else found[0].reshape(stop - start, *array.shape[1:])


def _list_lengths(segments: Iterable[Segment]) -> np.ndarray:
    """(W,) int64 features of every word in all segments together."""
    total: np.ndarray | int = 0
    for segment in segments:
        total = total + np.diff(_read(segment.word_offsets, 0, len(segment.word_offsets)))
    return np.asarray(total)


def _pairs(parts: Sequence[Part]) -> int:
    """How many pairs of a word and an image the kept images have."""
    total = 0
    for segment, new in parts:
        if (new >= 0).all():
            total += int(segment.document_frequencies.sum(dtype=np.int64))
        else:
            blocks = (_Block(segment, new, some) for some in batches(np.diff(segment.word_offsets), BLOCK))
            total += sum(len(block.pair_images) for block in blocks)
    return total


def _rows(images: np.ndarray, offsets: np.ndarray, path: Path) -> np.ndarray:
    """(N,) int32: the features of each image, increasing; some images at a time, so that little is sorted at once."""
    column = _Column(path, np.empty(0, np.int32), len(images))
    with column:
        first = 0
        while first < len(offsets) - 1:
            last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + ROWS, side="right")) - 1)
            found, of_images = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
            for start in range(0, len(images), ROWS):
                some = _read(images, start, min(start + ROWS, len(images)))
                at = np.flatnonzero((some >= first) & (some < last))
                found.append(at + start)
                of_images.append(some[at])
            order = np.argsort(np.concatenate(of_images), kind="stable")
            column.append(np.concatenate(found)[order].astype(np.int32))
            first = last
    return column.array()


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
