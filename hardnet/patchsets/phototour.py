"""The PhotoTour patches: Liberty, Notre Dame and Yosemite (Winder and Brown 2007, Brown et al. 2011).

A folder holds ``patches0000.bmp``, ``patches0001.bmp``, ..., mosaics of 16 x 16 grey patches of 64 x 64 read row
by row, the last one only partly filled; ``info.txt`` with one line a patch, ``point_id image_id``; and lists of
labelled pairs such as ``m50_100000_100000_0.txt``, whose lines begin ``patch point unused patch point``.
"""

import hashlib
import math
import os
import re
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from hardnet import progress
from hardnet.errors import PatchSetError
from hardnet.patchsets.arrays import PATCHES, PatchSet
from hardnet.weights import transfer

INFO, PAIRS = "info.txt", "m50_100000_100000_0.txt"
PUBLISHED = {"liberty": 450_092, "notredame": 468_159, "yosemite": 633_587}
"""Name of a published set: number of its patches."""

_URL = "http://matthewalunbrown.com/patchdata"
_MOSAIC, _SIDE = 1024, 64  # pixels
_ROW = _MOSAIC // _SIDE
_PER_MOSAIC = _ROW * _ROW
_WANTED = re.compile(r"patches\d{4}\.bmp|\w+\.txt")


def read_phototour(folder: str | Path) -> PatchSet:
    """Opens a PhotoTour folder; the patches stay on disk until they are used.

    The first call decodes the mosaics into ``patches.npy`` in the folder (Liberty: 1.8 GB), later ones map that
    file; the mosaics may be removed then.

    Args:
        folder: the unpacked archive.

    Returns:
        The set under the folder's name, its scene ids the image ids of ``info.txt`` (0 throughout in the
        published sets), its context 1.

    Raises:
        PatchSetError: a mosaic is missing, damaged or too many, ``info.txt`` is malformed, or the folder cannot
            be written.
    """
    folder = Path(folder)
    info = _info(folder)
    patches = _mapped(folder / PATCHES)
    if patches is None or patches.shape != (len(info), _SIDE, _SIDE):
        _decode(folder, len(info))
        patches = _mapped(folder / PATCHES)
        if patches is None:
            raise PatchSetError(f"{folder / PATCHES} cannot be read back: remove it and try again")
    points, images = info.astype(np.int32).T
    return PatchSet(folder.resolve().name, patches, points.copy(), images.copy())


def read_pairs(folder: str | Path, file: str = PAIRS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The labelled pairs of a PhotoTour folder.

    Args:
        folder: with ``info.txt``, which the pairs are checked against.
        file: name of the list.

    Returns:
        The patches of each pair, (P,) int64 and (P,) int64, and whether they show the same point, (P,) bool.

    Raises:
        PatchSetError: the list is missing or malformed, or disagrees with ``info.txt``.
    """
    folder = Path(folder)
    points = _info(folder)[:, 0]
    table = _table(folder / file, (0, 1, 3, 4))
    left, left_points, right, right_points = table.T
    outside = np.flatnonzero((left >= len(points)) | (right >= len(points)))
    if len(outside):
        raise PatchSetError(
            f"{folder / file}, line {outside[0] + 1} names a patch beyond the {len(points)} of {INFO}: "
            "fetch both files from the same archive"
        )
    foreign = np.flatnonzero((points[left] != left_points) | (points[right] != right_points))
    if len(foreign):
        raise PatchSetError(
            f"{folder / file}, line {foreign[0] + 1} gives another 3-D point than {INFO}: "
            "fetch both files from the same archive"
        )
    return left.copy(), right.copy(), left_points == right_points


def download_phototour(name: str, destination: str | Path) -> Path:
    """Fetches a published set and unpacks it; one that is there already is left as it is.

    An interrupted download leaves ``<name>.zip.part`` and is taken up there by the next call. The archive's
    sha256 is recorded beside it as ``<name>.zip.sha256`` and compared from then on; once it is unpacked, the
    archive may be removed.

    Args:
        name: ``liberty``, ``notredame`` or ``yosemite``.
        destination: gets the archive and the folder ``<name>``.

    Returns:
        The folder to give `read_phototour`.

    Raises:
        PatchSetError: unknown name, no connection, another file than before, a damaged archive, or a full disk.
    """
    if name not in PUBLISHED:
        raise PatchSetError(f"{name} is no PhotoTour set; the names are {', '.join(PUBLISHED)}")
    destination = Path(destination)
    folder, archive = destination / name, destination / f"{name}.zip"
    if (folder / INFO).is_file():
        return folder
    url = f"{_URL}/{name}.zip"
    try:
        destination.mkdir(parents=True, exist_ok=True)
        if not archive.is_file():
            part = archive.with_name(archive.name + ".part")
            transfer.fetch(url, part, archive.name)
            part.replace(archive)
        _check(archive)
        _unpack(archive, folder)
    except transfer.TransferError as error:
        by_hand = f"fetch {url} by other means and save it as {archive}"
        raise PatchSetError(f"{name} cannot be downloaded ({error}): try again, or {by_hand}") from error
    except OSError as error:
        raise PatchSetError(f"{destination} cannot be written: {error}; choose another folder") from error
    return folder


def _check(archive: Path) -> None:
    """Compares the archive with the recorded checksum, or records it."""
    with archive.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    record = archive.with_name(archive.name + ".sha256")
    if not record.is_file():
        record.write_text(f"{found}  {archive.name}\n", encoding="utf-8")
        return
    expected = (record.read_text(encoding="utf-8", errors="replace").split() or [""])[0]
    if found != expected:
        raise PatchSetError(f"{archive} has sha256 {found}, expected {expected}: remove it (or {record}) and try again")


def _unpack(archive: Path, folder: Path) -> None:
    """The mosaics and lists of an archive, by file name alone: nothing can land outside; complete or not at all."""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent) as name:
        temporary = Path(name) / folder.name
        temporary.mkdir()
        try:
            with zipfile.ZipFile(archive) as packed:
                for member in packed.infolist():
                    target = PurePosixPath(member.filename).name
                    if not member.is_dir() and _WANTED.fullmatch(target):
                        (temporary / target).write_bytes(packed.read(member))
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            record = archive.with_name(archive.name + ".sha256")
            raise PatchSetError(
                f"{archive} is damaged ({error}): remove it and {record.name}, then try again"
            ) from error
        if not (temporary / INFO).is_file():
            raise PatchSetError(f"{archive} holds no {INFO}, so it is no PhotoTour archive: remove it and try again")
        os.replace(temporary, folder)


def _info(folder: Path) -> np.ndarray:
    """(N, 2) int64: 3-D point and image of each patch."""
    if not (folder / INFO).is_file():
        raise PatchSetError(f"{folder} holds no {INFO}: give the folder of an unpacked PhotoTour archive")
    return _table(folder / INFO, (0, 1))


def _table(path: Path, columns: tuple[int, ...]) -> np.ndarray:
    """Some columns of a file of whole numbers, (lines, columns) int64 from 0 to the largest int32."""
    try:
        lines = path.read_text(encoding="ascii").rstrip().splitlines()
    except OSError as error:
        raise PatchSetError(f"{path} cannot be read ({error.strerror}): unpack the PhotoTour archive again") from error
    except UnicodeDecodeError as error:
        raise PatchSetError(f"{path} is not a text file: unpack the PhotoTour archive again") from error
    if not lines:
        raise PatchSetError(f"{path} is empty: unpack the PhotoTour archive again")
    largest = np.iinfo(np.int32).max
    try:
        table = np.loadtxt(lines, np.int64, comments=None, usecols=columns, ndmin=2)
        if len(table) == len(lines) and table.min() >= 0 and table.max() <= largest:
            return table
    except ValueError:
        pass  # the line is found below

    def is_whole(line: str) -> bool:
        fields = line.split()
        return len(fields) > columns[-1] and all(fields[k].isdigit() and int(fields[k]) <= largest for k in columns)

    bad = next((number for number, line in enumerate(lines) if not is_whole(line)), 0)
    raise PatchSetError(
        f"{path}, line {bad + 1} is {lines[bad][:40]!r}, expected at least {columns[-1] + 1} whole numbers from 0: "
        "unpack the PhotoTour archive again"
    )


def _mapped(path: Path) -> np.ndarray | None:
    """The decoded patches, if they are there and whole."""
    try:
        patches = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return patches if isinstance(patches, np.ndarray) and patches.dtype == np.uint8 else None


def _decode(folder: Path, count: int) -> None:
    """Writes ``patches.npy``; it appears when it is complete."""
    mosaics = [folder / f"patches{number:04d}.bmp" for number in range(math.ceil(count / _PER_MOSAIC) + 1)]
    surplus = mosaics.pop()
    for mosaic in mosaics:
        if not mosaic.is_file():
            raise PatchSetError(
                f"{mosaic} is missing: {INFO} has {count} lines, which fill {len(mosaics)} mosaics; "
                "unpack the PhotoTour archive again"
            )
    if surplus.exists():
        raise PatchSetError(
            f"{surplus} is one mosaic too many: the {count} lines of {INFO} fill {len(mosaics)}; "
            "unpack the PhotoTour archive again"
        )
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(prefix=".patches.", suffix=".tmp", dir=folder, delete=False) as stream:
            temporary = Path(stream.name)
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, _SIDE, _SIDE)}
            np.lib.format.write_array_header_1_0(stream, header)
            left = count
            for mosaic in progress.bar(mosaics, desc=f"{folder.name} mosaics"):
                stream.write(_patches_of(mosaic)[:left].tobytes())
                left -= _PER_MOSAIC
        temporary.chmod(0o644)
        temporary.replace(folder / PATCHES)
    except OSError as error:
        raise PatchSetError(
            f"{folder} cannot be written ({error.strerror or error}), and its mosaics are decoded once into "
            f"{PATCHES} there: copy the folder to where you may write and {count * _SIDE**2 / 1e9:.1f} GB are free"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _patches_of(mosaic: Path) -> np.ndarray:
    """(256, 64, 64) uint8, row by row."""
    data = np.fromfile(mosaic, np.uint8)
    # OpenCV would also refuse a truncated file, but not without a line of its own on stderr.
    declared = int.from_bytes(data[2:6].tobytes(), "little")  # bytes of the file
    image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if 54 <= declared <= len(data) else None
    if image is None:
        raise PatchSetError(f"{mosaic} is damaged or truncated: unpack the PhotoTour archive again")
    if image.shape != (_MOSAIC, _MOSAIC):
        found = f"{image.shape[1]} x {image.shape[0]}"
        raise PatchSetError(f"{mosaic} has {found} pixels, expected {_MOSAIC} x {_MOSAIC}: unpack the archive again")
    cells = image.reshape(_ROW, _SIDE, _ROW, _SIDE).swapaxes(1, 2)  # (row, column, y, x)
    return cells.reshape(_PER_MOSAIC, _SIDE, _SIDE)
