"""The HPatches patches (Balntas et al. 2017): one folder a sequence, one strip of patches an image.

``ref.png`` shows the patches of the reference image one above the other, ``e1.png`` to ``e5.png`` those of the
five target images with easy geometric noise, ``h1`` to ``h5`` with hard, ``t1`` to ``t5`` with tough noise. Row
i of every strip shows the same point.
"""

import difflib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from hardnet.errors import PatchSetError
from hardnet.patchsets.arrays import PatchSet

LEVELS = {"easy": "e", "hard": "h", "tough": "t"}
TARGETS = 5
STRIPS = ("ref", *(f"{letter}{number}" for letter in LEVELS.values() for number in range(1, TARGETS + 1)))

_STRIP = "expected a PNG strip of square patches; of an HPatches archive, unpack it again"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_strip(path: str | Path) -> np.ndarray:
    """The patches of one image of a sequence.

    Args:
        path: PNG file, n patches of W x W one above the other.

    Returns:
        (n, W, W) uint8.

    Raises:
        PatchSetError: the file is missing, no complete PNG, or not n times as high as it is wide.
    """
    path = Path(path)
    count, width = _shape(path)
    data = np.fromfile(path, np.uint8)
    # libpng would also refuse a truncated file, but not without a line of its own on stderr.
    image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if b"IEND" in data[-16:].tobytes() else None
    if image is None or image.shape != (count * width, width):
        raise PatchSetError(f"{path} is damaged or truncated: unpack the HPatches archive again")
    return image.reshape(count, width, width)


def sequence_names(folder: str | Path) -> list[str]:
    """The sequences of a folder, sorted.

    Raises:
        PatchSetError: there are none.
    """
    folder = Path(folder)
    names = sorted(path.parent.name for path in folder.glob("*/ref.png"))
    if not names:
        raise PatchSetError(f"{folder} holds no sequence folders with ref.png: give the unpacked hpatches-release")
    return names


def split_sequences(split_file: str | Path, name: str, part: str) -> list[str]:
    """The sequences of one part of a published split.

    Args:
        split_file: ``splits.json`` of the benchmark.
        name: ``a``, ``b``, ``c``, ``illum``, ``view`` or ``full``.
        part: ``train`` or ``test``; ``full`` has only ``test``.

    Raises:
        PatchSetError: no such file, split or part.
    """
    path = Path(split_file)
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PatchSetError(f"{path} cannot be read ({error.strerror}): give splits.json of the benchmark") from error
    except ValueError as error:
        raise PatchSetError(f"{path} is not JSON ({error}): give splits.json of the benchmark") from error
    if not isinstance(splits, dict) or not isinstance(splits.get(name), dict):
        known = ", ".join(splits) if isinstance(splits, dict) else "none"
        raise PatchSetError(f"{path} holds no split {name!r}; it holds {known}")
    sequences = splits[name].get(part)
    if not isinstance(sequences, list) or not sequences or not all(isinstance(item, str) for item in sequences):
        raise PatchSetError(f"{path}: split {name!r} lists no {part} sequences; choose another split")
    return sequences


def iterate_sequences(
    folder: str | Path, sequences: Iterable[str] | None = None
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """One sequence after the other, so that a benchmark holds the patches of only one.

    Args:
        folder: of the sequence folders.
        sequences: their names; None for all.

    Yields:
        The name, and for each of `STRIPS` its patches, (n, W, W) uint8 with the same n and W.

    Raises:
        PatchSetError: no such sequence, or strips that are missing, damaged or of different length.
    """
    folder = Path(folder)
    for name in _chosen(folder, sequences):
        _sequence_shape(folder / name)
        yield name, {strip: read_strip(folder / name / f"{strip}.png") for strip in STRIPS}


def read_hpatches(folder: str | Path, sequences: Iterable[str] | None = None) -> PatchSet:
    """The patches of some sequences in one array, 16 of each point.

    Args:
        folder: of the sequence folders.
        sequences: their names; None for all (some 10 GB).

    Returns:
        The set under the folder's name: sequence after sequence, in each strip after strip. A point is one row
        of one sequence, a scene is a sequence.

    Raises:
        PatchSetError: see `iterate_sequences`; also sequences whose patches differ in width.
    """
    folder = Path(folder)
    names = _chosen(folder, sequences)
    shapes = np.array([_sequence_shape(folder / name) for name in names])  # (sequences, 2): n and W
    counts, widths = shapes.T
    other = np.flatnonzero(widths != widths[0])
    if len(other):
        raise PatchSetError(
            f"{folder / names[other[0]]} has patches {widths[other[0]]} pixels wide, {names[0]} {widths[0]}: "
            "read them as two sets"
        )
    # The headers gave the lengths, so that every strip is decoded into its place and nothing is held twice.
    patches = np.empty((counts.sum() * len(STRIPS), widths[0], widths[0]), np.uint8)
    start = 0
    for name, count in zip(names, counts, strict=True):
        for strip in STRIPS:
            patches[start : start + count] = read_strip(folder / name / f"{strip}.png")
            start += count
    first = np.cumsum(counts) - counts
    points = [np.tile(np.arange(a, a + n, dtype=np.int32), len(STRIPS)) for a, n in zip(first, counts, strict=True)]
    scenes = np.repeat(np.arange(len(names), dtype=np.int32), counts * len(STRIPS))
    return PatchSet(folder.resolve().name, patches, np.concatenate(points), scenes)


def _chosen(folder: Path, sequences: Iterable[str] | None) -> list[str]:
    known = sequence_names(folder)
    if sequences is None:
        return known
    names = list(dict.fromkeys(sequences))
    if not names:
        raise PatchSetError("no sequences were chosen: name at least one")
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it holds {len(known)} others such as {known[0]}"
            raise PatchSetError(f"{folder} holds no sequence {name}; {hint}")
    return names


def _sequence_shape(folder: Path) -> tuple[int, int]:
    """Number and width of the patches of a sequence, from the heads of its strips."""
    expected = _shape(folder / "ref.png")
    for strip in STRIPS[1:]:
        found = _shape(folder / f"{strip}.png")
        if found != expected:
            raise PatchSetError(
                f"{folder / strip}.png holds {found[0]} patches of width {found[1]}, ref.png {expected[0]} of width "
                f"{expected[1]}: unpack the HPatches archive again"
            )
    return expected


def _shape(path: Path) -> tuple[int, int]:
    """Number and width of the patches of a strip."""
    try:
        with path.open("rb") as stream:
            head = stream.read(24)
    except OSError as error:
        raise PatchSetError(f"{path} cannot be read ({error.strerror}): {_STRIP}") from error
    if len(head) < 24 or not head.startswith(_SIGNATURE):
        raise PatchSetError(f"{path} is no PNG file: {_STRIP}")
    width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    if not width or not height or height % width:
        raise PatchSetError(
            f"{path} is {width} x {height} pixels, expected a height that is a multiple of the width: "
            "give strips of square patches"
        )
    return height // width, width
