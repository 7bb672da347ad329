"""Which directories of a TIFF hold pictures: pages, and not thumbnails, masks or what a sensor measured."""

import contextlib
import itertools
import struct

from retrieval.errors import ImageError
from retrieval.photographs import tiff

_FEW_VALUES = 64  # of a field, where directories are compared
_DNG_VERSION = 50706  # tag that every DNG has (DNG 1.4)


def main_picture(data: bytes, pages: list[int]) -> tuple[int | None, str | None]:
    """Which directory holds the picture, None for the first; or the format of the camera raw that it is.

    The first does, unless it says that it is a reduced copy of another or there are sensor data twice as large: then
    the largest picture that is neither.
    """
    found: dict[int, dict[int, tuple[int, ...]]] = {}
    for page in pages:
        for place in (page, *_sub_directories(data, page)):
            if len(found) < tiff.MAX_DIRECTORIES and place not in found:
                with contextlib.suppress(struct.error, ImageError):
                    found[place] = tiff.integers(data, place, _FEW_VALUES)
    if not found or pages[0] not in found:  # who reads the first will say what is wrong with it
        return None, None
    first, values = next(iter(found.items()))
    raw = max((_area(one) for one in found.values() if _is_raw(one)), default=0)
    if not _is_reduced(values) and not _is_raw(values) and raw < 2 * _area(values):
        return None, None
    usable = {place: one for place, one in found.items() if _area(one) and {273, 324} & one.keys() and not _is_raw(one)}
    full = {place: one for place, one in usable.items() if not _is_reduced(one) and 2 * _area(one) > raw}
    is_raw = bool(raw) or _DNG_VERSION in values
    if not full and is_raw:
        return None, "DNG" if _DNG_VERSION in values else _raw_kind(tiff.text(data, 271))
    candidates = full or usable
    if not candidates:
        return None, None
    largest = max(candidates, key=lambda place: _area(candidates[place]))
    return (None if largest == first else largest), None


def _sub_directories(data: bytes, page: int) -> tuple[int, ...]:
    try:
        return tiff.integers(data, page, _FEW_VALUES).get(tiff.SUB_DIRECTORIES, ())
    except (struct.error, ImageError):
        return ()


def count_pages(data: bytes) -> int:
    """How many pictures a TIFF has: the full ones in the chain, and the one it is about where that lies elsewhere.

    Where a sensor's data are, the others show the same: 1.
    """
    pages, _ = tiff.chain(data)
    seen, others = pages[: tiff.MAX_DIRECTORIES], pages[tiff.MAX_DIRECTORIES :]
    directory, camera = main_picture(data, seen)
    if camera is not None or (directory is not None and _has_raw(data, seen)):
        return 1
    elsewhere = directory is not None and directory not in seen
    return max(sum(_is_full(data, page) for page in seen) + elsewhere + len(others), 1)


def full_page(data: bytes, number: int) -> int:
    """The byte position of the directory of a page.

    Args:
        data: all bytes of the file.
        number: 1 is `main_picture`, the others are those in the chain, in its order.

    Raises:
        ImageError: there are fewer full pictures in the chain.
    """
    pages, _ = tiff.chain(data)
    directory, _ = main_picture(data, pages[: tiff.MAX_DIRECTORIES])
    full = (page for page in pages if page != directory and _is_full(data, page))
    ordered = full if directory is None else itertools.chain([directory], full)
    page = next(itertools.islice(ordered, number - 1, None), None)
    if page is None:
        raise ImageError(f"the file holds fewer than {number} pictures")
    return page


def _has_raw(data: bytes, pages: list[int]) -> bool:
    for place in itertools.chain.from_iterable((page, *_sub_directories(data, page)) for page in pages):
        with contextlib.suppress(struct.error, ImageError):
            if _is_raw(tiff.integers(data, place, _FEW_VALUES)):
                return True
    return False


def _is_full(data: bytes, page: int) -> bool:
    try:
        values = tiff.integers(data, page, _FEW_VALUES)
    except (struct.error, ImageError):
        return False
    return bool(_area(values)) and not _is_reduced(values)


def _is_reduced(values: dict[int, tuple[int, ...]]) -> bool:
    """Whether a directory says that it is a reduced copy or a mask: NewSubfileType, or the older SubfileType."""
    return bool(values.get(254, (0,))[0] & 5) or values.get(255, (1,))[0] == 2


def _is_raw(values: dict[int, tuple[int, ...]]) -> bool:
    """Whether a directory holds what a sensor measured: a colour filter array or LinearRaw (DNG 1.4)."""
    return values.get(262, (0,))[0] in (32803, 34892)


def _area(values: dict[int, tuple[int, ...]]) -> int:
    return values.get(256, (0,))[0] * values.get(257, (0,))[0]


def _raw_kind(make: str) -> str:
    """The format of a camera raw that is a TIFF, by the camera's maker."""
    kinds = {"NIKON": "NEF", "SONY": "ARW", "PENTAX": "PEF", "RICOH": "PEF", "CANON": "CR2", "SAMSUNG": "SRW"}
    return next((kind for start, kind in kinds.items() if make.upper().startswith(start)), "TIFF-based")
