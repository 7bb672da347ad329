"""A bit that flips, a file that is cut or gone: `check` and a verifying reader name the file, and raise nothing else.

``RETRIEVAL_SOAK=1`` flips a hundred bits of every file instead of some.
"""

import contextlib
import json
import random
import shutil

import numpy as np
import pytest

from retrieval.errors import ArtefactError, RetrievalError
from retrieval.index import changes
from retrieval.index.checking import check
from retrieval.index.collection import Collection
from retrieval.storage import artefacts
from tests.depth import SOAK
from tests.survival import make_world, one_thread, signature_of, told, without_detection, without_syncs

FLIPS = 100 if SOAK else 4
HEADER = 128  # bytes of a .npy file before its values


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        one_thread()
        without_syncs(patch)
        without_detection(patch)
        yield make_world(tmp_path_factory.mktemp("world"), patch)


@pytest.fixture(scope="module")
def damaged(world):
    """An index whose files are damaged one after another, and its files."""
    index = world.copy(world.grown, "damaged")
    files = sorted(path for path in index.rglob("*") if path.suffix in (".npy", ".json") or path.name == "images.jsonl")
    kinds = {path.parent.name for path in files}
    assert {"vocabulary", "hamming", "000001", "000002", "damaged"} <= kinds | {index.parent.name}
    return index, files


def names(message, path):
    """Whether a message says which file it is about."""
    return str(path) in message or (str(path.parent) in message and path.name in message)


def require_named(index, path, what):
    """Check and a verifying reader name the file; a reader that does not compare raises nothing unexpected."""
    try:
        told = " | ".join(check(index).problems)
    except ArtefactError as error:  # where there is no index at all to check
        told = str(error)
    assert names(told, path), f"{what}: check says {told!r}"
    with pytest.raises(ArtefactError) as caught:
        Collection.open(index, verify=True)
    assert names(str(caught.value), path), f"{what}: {caught.value}"
    with contextlib.suppress(RetrievalError):
        Collection.open(index)


@contextlib.contextmanager
def holding(path, data):
    """The file holds something else (None: it is gone) while the block runs."""
    whole = path.read_bytes()
    try:
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
        yield
    finally:
        path.write_bytes(whole)


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def same_meaning(path, one, other):
    """Whether two manifests say the same: the case of an exponent's e, for example, is none of the content."""
    try:
        return path.suffix == ".json" and json.loads(one) == json.loads(other)
    except ValueError:
        return False


def test_flipped_bits(damaged, capsys):
    index, files = damaged
    chance = random.Random(3)
    count = 0
    for path in files:
        whole = path.read_bytes()
        size = 8 * len(whole)
        bits = [chance.randrange(size) for _ in range(FLIPS)]
        if path.suffix == ".npy":
            bits[::2] = [chance.randrange(8 * HEADER) for _ in bits[::2]]
        for bit in bits:
            data = flipped(whole, bit)
            if same_meaning(path, whole, data):
                continue
            with holding(path, data):
                require_named(index, path, f"{path.name}, bit {bit}")
            count += 1
    assert check(index).problems == ()
    told(capsys, f"{count} bits flipped in {len(files)} files")


@pytest.mark.parametrize("how", ["half", "empty", "gone"])
def test_cut_and_missing_files(damaged, how):
    index, files = damaged
    for path in files:
        whole = path.read_bytes()
        data = {"half": whole[: len(whole) // 2], "empty": b"", "gone": None}[how]
        with holding(path, data):
            require_named(index, path, f"{path.name} {how}")
    assert check(index).problems == ()


def test_a_missing_folder_is_named(world):
    for folder in ("vocabulary", "vocabulary/hamming", "segments/000001", "segments"):
        index = world.copy(world.grown, "folder")
        shutil.rmtree(index / folder)
        told = " ".join(check(index).problems)
        assert folder in told
        with pytest.raises(ArtefactError, match="vocabulary" if "vocabulary" in folder else "000001"):
            Collection.open(index, verify=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of numpy, about what a damaged header says
def test_every_bit_of_a_header(tmp_path):
    """What numpy raises for a damaged header is of many kinds; none of them reaches the caller."""
    folder = tmp_path / "thing"
    artefacts.write_artefact(folder, "thing", 1, {"one": np.arange(400, dtype=np.int32).reshape(100, 4)}, {})
    manifest = artefacts.read_manifest(folder, "thing", 1)
    path = folder / "one.npy"
    whole = path.read_bytes()
    for bit in range(8 * HEADER):
        path.write_bytes(flipped(whole, bit))
        with pytest.raises(ArtefactError, match=r"one\.npy"):
            artefacts.read_arrays(folder, manifest, verify=True)


@pytest.mark.parametrize("file", ["manifest.json", "segments/000001/manifest.json", "vocabulary/manifest.json"])
def test_every_byte_of_a_manifest(damaged, file):
    """Readers that do not compare checksums either open the index or say what is wrong with it."""
    index, _ = damaged
    path = index / file
    whole = path.read_bytes()
    chance = random.Random(5)
    for byte in range(0, len(whole), 1 if SOAK else 7):
        data = flipped(whole, 8 * byte + chance.randrange(7))
        with holding(path, data):
            with contextlib.suppress(RetrievalError):
                Collection.open(index)
            if not same_meaning(path, whole, data):
                with pytest.raises(ArtefactError, match="manifest"):
                    Collection.open(index, verify=True)


@pytest.mark.parametrize("text", ["detector: [", "detector:\n  no_such_setting: 1\n", "\udcff", "- 1\n", "\0"])
def test_a_broken_configuration_is_named(damaged, text):
    index, _ = damaged
    with holding(index / "config.yaml", text.encode("utf-8", "surrogateescape")):
        assert any("config.yaml" in problem for problem in check(index).problems)
        for verify in (False, True):
            with pytest.raises(RetrievalError, match=r"config\.yaml"):
                Collection.open(index, verify)


def test_what_is_damaged_is_not_passed_on(world):
    """Merging reads whole segments: what is damaged in one must not get a new checksum in the next."""
    index = world.copy(world.grown, "passed")
    path = index / "segments" / "000001" / "shapes.npy"
    with holding(path, flipped(path.read_bytes(), 8 * HEADER + 3)):
        for change in (lambda: changes.compact(index), lambda: changes.add(index, [world.more / "new_5.png"])):
            with pytest.raises(ArtefactError, match=r"shapes\.npy is damaged"):
                change()
    assert signature_of(index) == signature_of(world.grown)
