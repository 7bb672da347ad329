"""Named weights: one table of all names, and the way from a name or a path to a file that can be trusted.

Published files are fetched once into a cache folder (``$HARDNET_WEIGHTS``, else ``~/.cache/hardnet``), or are
put there by hand under the name that the table says. A checksum is compared whenever it is known; where it is not,
the one of the first download is recorded beside the file as ``<file>.sha256`` and compared from then on.
"""

import difflib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from hardnet.errors import WeightsError
from hardnet.weights import transfer

_HARDNET = "Mishchuk et al. 2017, Working hard to know your neighbor's margins"
_AFFNET = "Mishkin et al. 2018, Repeatability is not enough: learning affine regions via discriminability"
_AFFNET_FOLDER = "https://github.com/ducha-aiki/affnet/raw/da7cf51/pretrained"
_DESDIS_PAPER = (
    "Liu and Dong 2024, Descriptor distillation: a teacher-student-regularized framework for learning local descriptors"
)
_DESDIS = {
    8: "b6761e9f63b0e3af0973353b00066213d7c698e490ec906ffc188997a96b77b5",
    16: "714b21738cbb0ce9c3131e75b20cc4a05b0bf4c26cb52a71559012e3be2517c3",
    24: "1cdabdb8beebe8d29bc6e476ec078a6388a7c572d9c4af88872e1352cf798a16",
    32: "51182e79f973f572e5ac5280ce4f220f3f7a24bea9c9ddd727adef01847c2a0d",
}
_HARDNET_FOLDER = "https://github.com/DagnyT/hardnet/raw/master/pretrained"
# The state of 2017-11-19, which was current when the retrieval table entered the repository's README (2017-12-02). In
# January 2018 better Liberty weights took the same file names and the README's row was renamed "HardNetLibNIPS+".
_HARDNET_FOLDER_2017 = "https://github.com/DagnyT/hardnet/raw/323b882/pretrained"
_NIPS_NOTE = (
    "likeliest the weights of the published retrieval figures, not proven: current when their table appeared "
    "(2017-12-02), replaced in January 2018"
)
_NEW_NOTE = "not the weights of the published retrieval figures: they replaced them in January 2018; see {}"


@dataclass(frozen=True)
class NamedWeights:
    """One row of the table.

    Attributes:
        name: what `hardnet.load` takes, or `hardnet.load_estimator`.
        network: ``hardnet``, ``l2net``, ``tfeat``, ``hardtfeat``, ``compact``, or ``rootsift``, which has no weights;
            ``affnet`` or ``orinet``, which find shapes and orientations (`hardnet.load_estimator`).
        file_name: in the cache folder (or, for bundled ones, in the package); empty for `rootsift`.
        url: where it is published; empty for what is not downloaded.
        sha256: of the published file; None where it is not known.
        licence: as the publisher states it.
        citation: the paper.
        verified: whether this program's reading was checked against the published file.
        note: what one should know before using these weights; empty for most.
        git_blob: the beginning of the file's object name in its publisher's git repository (the SHA-1 of its content
            after a header), which tells versions of a file apart where `sha256` is not known; empty where neither is.
    """

    name: str
    network: str
    file_name: str
    url: str
    sha256: str | None
    licence: str
    citation: str
    verified: bool
    note: str = ""
    git_blob: str = ""


@dataclass(frozen=True)
class ResolvedWeights:
    """A weights file that is at hand.

    Attributes:
        name: from the table, or the file name of a path.
        network: as in `NamedWeights`; None where the file's content decides.
        path: the file.
        sha256: of its bytes; identifies the descriptor in artefacts.
    """

    name: str
    network: str | None
    path: Path
    sha256: str


_ROWS = (
    NamedWeights(
        "hardnet",  # trained by this project: pretrained/hardnet.md
        "hardnet",
        "hardnet.safetensors",
        "",
        "a4f68bd7e865dfda941aab40f76a6d7f5f11954de82479117c693780b035fa13",
        "MIT",
        _HARDNET,
        True,
    ),
    NamedWeights(
        "hardnet-small",  # trained by this project: pretrained/hardnet-small.md
        "compact",
        "hardnet-small.safetensors",
        "",
        "79e1408c313f8e55ab614eb3ac5996397e92663f4be4161e3ccc150b6d8de6db",
        "MIT",
        _DESDIS_PAPER,
        True,
    ),
    NamedWeights(
        "hardnet++",
        "hardnet",
        "HardNet++.pth",
        f"{_HARDNET_FOLDER}/pretrained_all_datasets/HardNet++.pth",
        "9fe80a335fe72d1225fdd1ae0943418b12489f95014bd51dddc9819d6ffa33c7",
        "MIT",
        _HARDNET,
        False,
    ),
    NamedWeights(
        "hardnet-lib+",
        "hardnet",
        "checkpoint_liberty_with_aug.pth",
        f"{_HARDNET_FOLDER}/train_liberty_with_aug/checkpoint_liberty_with_aug.pth",
        "1e9a41b19f1dc93c986e91df9aaf5696d1a777ac1d67498492856a65d6f49c16",
        "MIT",
        _HARDNET,
        False,
        _NEW_NOTE.format("hardnet-lib+-nips"),
    ),
    NamedWeights(
        "hardnet-lib",
        "hardnet",
        "checkpoint_liberty_no_aug.pth",
        f"{_HARDNET_FOLDER}/train_liberty/checkpoint_liberty_no_aug.pth",
        None,
        "MIT",
        _HARDNET,
        False,
        _NEW_NOTE.format("hardnet-lib-nips"),
    ),
    NamedWeights(
        "hardnet-lib+-nips",
        "hardnet",
        "checkpoint_liberty_with_aug-nips.pth",
        f"{_HARDNET_FOLDER_2017}/train_liberty_with_aug/checkpoint_liberty_with_aug.pth",
        None,
        "MIT",
        _HARDNET,
        False,
        _NIPS_NOTE,
        "ca44f245",
    ),
    NamedWeights(
        "hardnet-lib-nips",
        "hardnet",
        "checkpoint_liberty_no_aug-nips.pth",
        f"{_HARDNET_FOLDER_2017}/train_liberty/checkpoint_liberty_no_aug.pth",
        None,
        "MIT",
        _HARDNET,
        False,
        _NIPS_NOTE,
        "9349e2ad",
    ),
    NamedWeights(
        "tfeat-lib",
        "tfeat",
        "tfeat-liberty.params",
        "https://github.com/vbalnt/tfeat/raw/master/pretrained-models/tfeat-liberty.params",
        "1f2e9516b03c45876161da006ce8047e0a66ef08cc91d3fbf96a75f1a80f445a",
        "MIT",
        "Balntas et al. 2016, Learning local feature descriptors with triplets and shallow CNNs",
        True,
    ),
    NamedWeights(
        "l2net-lib+",
        "l2net",
        "L2Net-LIB+.mat",
        "https://github.com/yuruntian/L2-Net/raw/master/matlab/L2Net-LIB%2B.mat",
        None,
        "none stated",
        "Tian et al. 2017, L2-Net: deep learning of discriminative patch descriptor in Euclidean space",
        False,
    ),
    *(
        NamedWeights(
            f"desdis-{width}",
            "compact",
            f"DesDis-{width}.pth",
            f"https://github.com/liuyuzhenn/DesDis/raw/6b4d162/weights/DesDis-{width}.pth",
            sha256,
            "MIT",
            _DESDIS_PAPER,
            True,
        )
        for width, sha256 in _DESDIS.items()
    ),
    NamedWeights(
        "hardtfeat",
        "hardtfeat",
        "HardTFeat.pth",
        f"{_AFFNET_FOLDER}/HardTFeat.pth",
        "cd935728293309b666c20525696c8d323be5ffdac07b3340f4c1c1314e0b6542",
        "MIT",
        _AFFNET,
        True,
    ),
    NamedWeights(
        "affnet-open",  # trained by this project: pretrained/affnet-open.md
        "affnet",
        "affnet-open.safetensors",
        "",
        "8e4c8473c9afea260a2e21a7224882b2b2056b118ac30a86865c8b408501df96",
        "MIT",
        _AFFNET,
        True,
    ),
    NamedWeights(
        "affnet",
        "affnet",
        "AffNet.pth",
        f"{_AFFNET_FOLDER}/AffNet.pth",
        "65c8bb2cf71e913818522d09dcc4262bcbcef5d756baa86a41f28526c2d61160",
        "MIT",
        _AFFNET,
        True,
    ),
    NamedWeights(
        "orinet",
        "orinet",
        "OriNet.pth",
        f"{_AFFNET_FOLDER}/OriNet.pth",
        "030e7964ae3e136d00431c7e11c6b67df40ad299f02ac384fee0f1c3fd1dcb30",
        "MIT",
        _AFFNET,
        True,
    ),
    NamedWeights(
        "rootsift",
        "rootsift",
        "",
        "",
        None,
        "MIT",
        "Arandjelovic and Zisserman 2012, Three things everyone should know to improve object retrieval",
        True,
    ),
)
TABLE: dict[str, NamedWeights] = {row.name: row for row in _ROWS}


def cache_folder() -> Path:
    """The folder of published weights files: ``$HARDNET_WEIGHTS``, else ``~/.cache/hardnet``."""
    chosen = os.environ.get("HARDNET_WEIGHTS")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "hardnet"


def location(name: str) -> Path | None:
    """Where the file of a named row lies or would lie; None for `rootsift`, which has none.

    Raises:
        WeightsError: an unknown name.
    """
    row = _row(name)
    if not row.file_name:
        return None
    folder = cache_folder() if row.url else Path(__file__).parents[1] / "pretrained"
    return folder / row.file_name


def resolve(name_or_path: str | Path, fetch: bool = True) -> ResolvedWeights:
    """Finds a weights file by name or path and checks its checksum.

    Args:
        name_or_path: a name of `TABLE` (a file of the same name needs a ``./`` before it), or a path.
        fetch: whether a published file that is not at hand is downloaded.

    Raises:
        WeightsError: unknown name, no such file, checksum mismatch, or a download that failed.
    """
    if isinstance(name_or_path, str) and name_or_path in TABLE:
        path = location(name_or_path)
        if path is None:
            raise WeightsError(f"{name_or_path} needs no weights file; call hardnet.load({name_or_path!r})")
        if not path.is_file():
            if not TABLE[name_or_path].url:
                raise WeightsError(
                    f"the bundled weights {path} do not exist in this version; "
                    "use another name (hardnet weights lists them) or the path of a weights file"
                )
            if not fetch:
                raise WeightsError(f"{_by_hand(name_or_path)}, or run: hardnet weights --download {name_or_path}")
            return _resolved(name_or_path, download(name_or_path))
        return _resolved(name_or_path, path)
    path = Path(name_or_path)
    if not path.is_file():
        if os.sep not in str(name_or_path) and not path.suffix:
            _row(str(name_or_path))
        raise WeightsError(f"{path} is no file and no weights name; the names are {', '.join(TABLE)}")
    return ResolvedWeights(path.name, None, path, _sha256(path))


def download(name: str) -> Path:
    """Fetches a published file into the cache folder; one that is there already is only checked.

    An interrupted download leaves ``<file>.part`` and is taken up there by the next call.

    Returns:
        The path of the file.

    Raises:
        WeightsError: nothing to download, no connection (the message says what to put where), a full disk,
            or a checksum mismatch.
    """
    row = _row(name)
    path = location(name)
    if not row.url or path is None:
        raise WeightsError(f"{name} is not downloaded: it is part of this package")
    if path.is_file():
        return _resolved(name, path).path
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        transfer.fetch(row.url, part, row.file_name)
        found = _sha256(part)
        if difference := _difference(part, found, row.sha256, row.git_blob):
            part.unlink()
            raise WeightsError(
                f"{row.url} sent a file with {difference}; removed: try again, and if that repeats {_by_hand(name)}"
            )
        if not row.sha256:
            path.with_name(path.name + ".sha256").write_text(f"{found}  {path.name}\n", encoding="utf-8")
        part.replace(path)
    except transfer.TransferError as error:
        raise WeightsError(f"{name} cannot be downloaded ({error}): try again, or {_by_hand(name)}") from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be written: {error}; set HARDNET_WEIGHTS to another folder") from error
    return path


def _row(name: str) -> NamedWeights:
    if name not in TABLE:
        near = difflib.get_close_matches(name, TABLE, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise WeightsError(f"{name} is no weights name{hint}; the names are {', '.join(TABLE)}")
    return TABLE[name]


def _resolved(name: str, path: Path) -> ResolvedWeights:
    """Checks a file of the table against the known or recorded checksum."""
    row = TABLE[name]
    found = _sha256(path)
    record = path.with_name(path.name + ".sha256")
    expected = row.sha256
    if not expected and record.is_file():
        expected = (record.read_text(encoding="utf-8", errors="replace").split() or [""])[0]
    if difference := _difference(path, found, expected, row.git_blob):
        cure = f"remove it and fetch {name} again" if row.url else "it is part of this package: install that again"
        raise WeightsError(f"{path} has {difference}; {cure}")
    return ResolvedWeights(name, row.network, path, found)


def _difference(path: Path, found: str, sha256: str | None, git_blob: str) -> str:
    """How a file with the checksum `found` differs from what is known of it; empty where it does not."""
    if sha256 and found != sha256:
        return f"sha256 {found}, expected {sha256}"
    if git_blob and not (blob := _git_blob(path)).startswith(git_blob):
        return f"git object name {blob}, expected {git_blob}..."
    return ""


def _git_blob(path: Path) -> str:
    """The object name that git gives a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _by_hand(name: str) -> str:
    row = TABLE[name]
    return f"fetch {row.url} by other means and save it as {location(name)}"


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
