"""Whether an index is whole: every checksum, and every rule that its arrays and its lines keep."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardnet import progress
from retrieval import config as settings_module
from retrieval.errors import ArtefactError, RetrievalError
from retrieval.index import building, segment, state
from retrieval.index.arrivals import ADDING
from retrieval.index.opened import locate, require_vocabulary, stored_config
from retrieval.index.segment import Segment, openings
from retrieval.index.state import State
from retrieval.storage import artefacts, atomic, lock
from retrieval.vocabulary import hamming
from retrieval.vocabulary import store as vocabulary

logger = logging.getLogger(__name__)

_ATTEMPTS = 10  # a check starts again where a writer was faster


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        problems: one sentence each; they name the array or file. None: the index is whole.
        leftovers: paths within the index that stopped commands left, or that a running one is using.
        repaired: whether the leftovers have been removed.
        arrays: how many arrays were compared with their checksums.

    Example:
        >>> report = check("holidays.index")
        >>> report.problems, report.leftovers, report.arrays > 0
        ((), (), True)
    """

    problems: tuple[str, ...]
    leftovers: tuple[str, ...]
    repaired: bool
    arrays: int


def check(folder: str | Path, repair: bool = False) -> Report:
    """Compares everything stored with its checksum and its rules. Reads every byte.

    Args:
        folder: the index.
        repair: also remove what stopped commands left. Damage cannot be repaired: what was stored is not there twice.

    Raises:
        ArtefactError: there is no index; with `repair`, another process is changing it, or it cannot be changed.

    Example:
        >>> check("holidays.index", repair=True).repaired  # there was nothing to remove
        False
    """
    folder = locate(folder)
    for _ in range(_ATTEMPTS):
        manifest = artefacts.read_manifest(folder, state.KIND, state.VERSION)
        if not artefacts.intact(manifest):  # then it says of nothing else whether it is as it should be, or left over
            problem = f"{folder / artefacts.MANIFEST} is damaged: it was changed by something else than this program"
            return Report((problem,), (), False, 0)
        problems, arrays = _problems(folder, manifest)
        if not problems or artefacts.read_manifest(folder, state.KIND, state.VERSION) == manifest:
            break  # otherwise a writer has removed what was being compared
    else:
        raise ArtefactError(f"{folder} changes faster than it can be checked: try again")
    left = state.leftovers(folder, manifest) + ([ADDING] if (folder / ADDING).exists() else [])
    if repair and left:
        with lock.writing(folder):
            state.recover(folder)
            atomic.discard(folder / ADDING)
        still = [name for name in left if (folder / name).exists()]
        if still:
            raise ArtefactError(f"{folder / still[0]} cannot be removed: see the permissions of the folder it is in")
    return Report(tuple(problems), tuple(left), repair and bool(left), arrays)


def _problems(folder: Path, manifest: dict[str, Any]) -> tuple[list[str], int]:
    """What is wrong with the state of a manifest, and how many arrays were compared with their checksums."""
    problems: list[str] = []
    arrays = 0
    for part in _parts(folder, manifest, problems):
        for problem in part:
            arrays += 1
            if problem:
                problems.append(problem)
    try:
        stored_config(folder)
    except RetrievalError as error:
        problems.append(str(error))
    if not problems:  # the rules are those of arrays that can be trusted
        try:
            problems += _rules(state.read_state(folder))
        except RetrievalError as error:  # a segment that was there has gone
            problems.append(str(error))
    return problems, arrays


def _parts(folder: Path, manifest: dict[str, Any], problems: list[str]) -> Iterator[Iterator[str | None]]:
    """For each stored array and file what is wrong with it, or None; problems of whole parts go to `problems`."""
    try:
        state.read_state(folder)
    except RetrievalError as error:
        problems.append(str(error))
    kinds = {
        folder / state.SEGMENTS / name: (segment.KIND, segment.VERSION)
        for name in manifest.get("facts", {}).get("segments", [])
    }
    kinds[folder / "vocabulary"] = (vocabulary.KIND, vocabulary.VERSION)
    signed = "hamming" in manifest.get("settings", {}).get("signatures", {})
    if signed or (folder / "vocabulary" / hamming.FOLDER).is_dir():
        kinds[folder / "vocabulary" / hamming.FOLDER] = (hamming.KIND, hamming.VERSION)
    for part, (kind, version) in progress.bar(kinds.items(), desc="check", unit="part"):
        try:
            stored = artefacts.read_manifest(part, kind, version)
        except RetrievalError as error:
            problems.append(str(error))
            continue
        if not artefacts.intact(stored):
            problems.append(f"{part / artefacts.MANIFEST} is damaged: it was changed by something else")
            continue
        yield artefacts.damage(part, stored)
        if part.name == "vocabulary":
            yield vocabulary.search_damage(part, stored)


def _rules(current: State) -> list[str]:
    """What the arrays and lines of an undamaged index break of the rules they should keep."""
    problems: list[str] = []
    manifest = current.manifest
    words = vocabulary.open_vocabulary(current.folder / "vocabulary")
    try:
        require_vocabulary(current.folder, manifest["settings"], words)
    except RetrievalError as error:
        problems.append(str(error))
    problems += _config_rules(current)
    sizes, counts = [np.empty((0, 2), np.int32)], [np.empty(0, np.int64)]
    for name in progress.bar(current.segments, desc="rules", unit="segment"):
        folder = current.segment_folder(name)
        one = segment.open_segment(folder)
        sizes.append(one.sizes)
        counts.append(np.diff(one.offsets))
        problems += [f"{folder}: {what}" for what in segment_rules(one, len(words.centroids))]
        stored = artefacts.read_manifest(folder, segment.KIND, segment.VERSION)["settings"]
        difference = settings_module.first_difference(stored, building.segment_settings(manifest["settings"]))
        if difference:
            problems.append(f"{folder} was made with other settings than the index: {difference}")
    lines = [[entry["width"], entry["height"], entry["features"]] for entry in current.lines.entries]
    theirs = np.column_stack([np.concatenate(sizes), np.concatenate(counts)])
    if not np.array_equal(np.array(lines, np.int64).reshape(-1, 3), theirs):
        problems.append(f"{current.folder / state.IMAGES} and the segments do not tell of the same images")
    removed = current.removed
    if len(removed) and (removed[0] < 0 or removed[-1] >= len(lines) or (np.diff(removed) <= 0).any()):
        problems.append(f"{current.folder / state.REMOVED} does not hold increasing line numbers")
        return problems
    live = current.lines.names(current.live)
    if len(set(live)) != len(live):
        problems.append(f"{current.folder / state.IMAGES} has a name twice")
    facts = current.facts
    if facts["images"] != len(live) or facts["next_segment"] <= max(map(int, current.segments)):
        problems.append(f"{current.folder / artefacts.MANIFEST} counts other images or segments than there are")
    return problems


def _config_rules(current: State) -> list[str]:
    """Whether ``config.yaml``, which may be edited, still asks for the features that the index has."""
    wanted = settings_module.feature_settings(stored_config(current.folder))
    stored = current.manifest["settings"]
    if "source" in stored["images"]:  # features made elsewhere: no photograph is described for such an index
        return []
    for section in ("images", "detector"):
        ours, theirs = _by_name(stored[section]), _by_name(wanted[section])
        difference = settings_module.first_difference(ours, theirs)
        if difference:
            return [
                f"{current.folder / 'config.yaml'} asks for other features than the index has: {section}.{difference}"
            ]
    return []


def _by_name(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with weights known by their name alone: an index has their checksum as well, ``config.yaml`` a path."""
    found = dict(settings)
    for key in settings_module.DETECTOR_WEIGHTS:
        if key in found:
            found[key] = Path(found[key]["name"] if isinstance(found[key], Mapping) else found[key]).name
    return found


def segment_rules(one: Segment, n_words: int) -> list[str]:
    """The rules of `Segment` that a segment breaks, one phrase each.

    Args:
        one: any arrays of the right names.
        n_words: size of the vocabulary.
    """
    n, total = len(one.sizes), len(one.images)
    lengths = {"rows": one.rows, "positions": one.positions, "shapes": one.shapes, "angles": one.angles}
    broken = [f"{name} has another length than images" for name, array in lengths.items() if len(array) != total]
    for name, offsets, count in (("offsets", one.offsets, n), ("word_offsets", one.word_offsets, n_words)):
        if len(offsets) != count + 1 or offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 0).any():
            broken.append(f"{name} does not divide the features")
    if broken:
        return broken
    images = np.asarray(one.images)
    if total and (images.min() < 0 or images.max() >= n):
        return ["images names images that are not there"]
    starts = openings(images, np.diff(one.word_offsets))
    inside = np.ones(total, bool)  # where an entry has to follow the one before it: not at the beginning of a word
    inside[one.word_offsets[:-1][np.diff(one.word_offsets) > 0]] = False
    if (np.diff(images)[inside[1:]] < 0).any():
        broken.append("images is not sorted within a word")
    if not np.array_equal(one.rows, np.argsort(images, kind="stable")):
        broken.append("rows does not list the features of each image")
    if not np.array_equal(np.diff(one.offsets), np.bincount(images, minlength=n)):
        broken.append("offsets does not count the features of each image")
    pairs = np.add.reduceat(np.append(starts, False).astype(np.int64), one.word_offsets[:-1]) if n_words else starts
    pairs = np.where(np.diff(one.word_offsets) > 0, pairs, 0)
    if not np.array_equal(one.document_frequencies, pairs):
        broken.append("document_frequencies does not count the images of each word")
    if not np.isfinite(one.shapes).all() or (one.shapes[:, 0] <= 0).any() or (one.shapes[:, 2] <= 0).any():
        broken.append("shapes holds ellipses that are none")
    if n and one.sizes.min() < 1:
        broken.append("sizes holds an image without pixels")
    if one.signatures is not None and one.signatures.shape[1] != total:
        broken.append("signatures has another length than images")
    if one.aggregates is not None:
        binary = one.aggregates.dtype == np.uint64
        if one.aggregates.shape[1 if binary else 0] != int(starts.sum()):
            broken.append("aggregates has another length than there are words in images")
    return broken
