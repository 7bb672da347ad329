"""R1M, the million distractors of the revisited benchmarks (Radenovic et al. 2018, section 3.4), archive by archive.

Unpacked together they are hundreds of gigabytes; here the photographs of one archive are made ready at a time. No
checksums are published: the sha256 of an archive's first download is recorded, and later ones must agree.
"""

from pathlib import Path

from retrieval.datasets.transfer import fetch, unpack
from retrieval.photographs.folder import ImageSet, list_images

FOLDER = "revisitop1m"  # of the data folder
PREFIX = f"{FOLDER}/images/"  # of the names of distractors, wherever their photographs lie
SITE = "http://ptak.felk.cvut.cz/revisitop/revisitop1m/jpg"
ARCHIVES = tuple(f"{FOLDER}.{number}.tar.gz" for number in range(1, 101))
PHOTOGRAPHS = 1_001_001
PHOTOGRAPH_BYTES = 1.9e9 / 5_063
"""Of one, on average. The size of R1M is not published; its photographs are of the kind of Oxford5k's, at most 1,024
pixels long, and taken to be as large."""


def archives_folder(data: Path) -> Path:
    """Where archives are kept: those that `fetch_archives` or somebody by hand put there."""
    return data / FOLDER / "archives"


def fetch_archives(data: Path, *, retries: int = 5, pause: float = 1.0) -> None:
    """Downloads all archives, to be kept; those that are there already are held to their first sha256.

    Args:
        data: the data folder.
        retries: as for `transfer.fetch`.
        pause: likewise.

    Raises:
        RetrievalError: as `transfer.fetch`.
    """
    home = archives_folder(data)
    home.mkdir(parents=True, exist_ok=True)
    for archive in ARCHIVES:
        fetch(f"{SITE}/{archive}", home / archive, retries=retries, pause=pause)


def photographs(archive: str, data: Path, folder: Path, *, retries: int = 5, pause: float = 1.0) -> ImageSet:
    """The photographs of one archive, unpacked, with the names that they would have with all others below `PREFIX`.

    Args:
        archive: one of `ARCHIVES`. It is taken from `archives_folder` where it lies there, whole or in part, and stays
            there; otherwise it is downloaded into `folder`.
        data: the data folder.
        folder: an existing one for the archive and its photographs, which an earlier call may have begun to fill.
        retries: as for `transfer.fetch`.
        pause: likewise.

    Raises:
        RetrievalError: as `transfer.fetch` and `transfer.unpack`; the message says where an archive that was fetched
            by hand belongs.
    """
    images, home = folder / "images", archives_folder(data)
    if not images.exists():
        home.mkdir(parents=True, exist_ok=True)
        kept = home / archive
        path = kept if kept.exists() or kept.with_name(f"{archive}.part").exists() else folder / archive
        fetch(f"{SITE}/{archive}", path, home=home, retries=retries, pause=pause)
        unpack([path], images, home)
    found = list_images(images)
    names = {f"{PREFIX}{name}": found.path(name) for name in found.names}
    return ImageSet(data, tuple(names), names)
