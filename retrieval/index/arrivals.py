"""Photographs on their way into an index: what they are called, which are in it already, and their features.

Features wait in ``INDEX/.adding`` until they are committed. An addition that is stopped leaves them there, and the
next one that comes upon photographs of the same content takes them up.
"""

import contextlib
import functools
import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, cast

from hardnet import progress
from retrieval import config as settings_module
from retrieval.config import Config, ImageConfig
from retrieval.errors import ArtefactError, DatasetError, ImageError, RetrievalError
from retrieval.features import store as features
from retrieval.features.store import Failure, Span
from retrieval.index.opened import OpenedIndex
from retrieval.index.parts import Stored
from retrieval.index.state import State
from retrieval.photographs import addresses, stores
from retrieval.photographs.files import Encoded, content_of, display_name, file_state, read_file
from retrieval.photographs.folder import ImageSet, list_images, pictures_of
from retrieval.photographs.places import file_of, numbered, place_of
from retrieval.storage import artefacts, atomic

logger = logging.getLogger(__name__)

ADDING = ".adding"
_READ = 8  # files of a store that are read together


class Given(NamedTuple):
    """A photograph that is given.

    Attributes:
        name: that it would have in the index.
        path: absolute, or an address in a store.
        state: size and time of change, where a listing has told them.
    """

    name: str
    path: Path
    state: tuple[int, int] | None = None


@dataclass(frozen=True)
class Arrivals:
    """Photographs sorted by what is to be done with them.

    Attributes:
        new: name -> path, of those to be added.
        contents: name -> content of these, as `retrieval.photographs.files.Encoded.content`.
        replaced: those of them that take the place of a live image.
        gone: live images of further pictures that a file has no more, each with the name of the file's first picture:
            they leave with it.
        known: path and name, for content that a live image has.
        copies: name, path, and the name in `new` that the same content has.
        failures: those that cannot be added, with reasons.
        states: name -> size and time of change of those in `new`, where they were told before.
    """

    new: dict[str, Path]
    contents: dict[str, str]
    replaced: tuple[str, ...]
    gone: dict[str, str]
    known: tuple[tuple[Path, str], ...]
    copies: tuple[tuple[str, Path, str], ...]
    failures: tuple[Failure, ...]
    states: dict[str, tuple[int, int]] = field(default_factory=dict)


def named(photographs: Iterable[str | Path], root: Path, prefix: str, images: ImageConfig | None = None) -> list[Given]:
    """Names and absolute paths of all photographs that are given.

    Args:
        photographs: files, and folders that are searched recursively; addresses in stores likewise.
        root: the folder that names are relative to, for what lies below it.
        prefix: put before the names of what does not.
        images: whether every picture of a file is a photograph, as for `list_images`.

    Raises:
        DatasetError: a path does not exist or cannot be read, or is an index itself.
        RetrievalError: the prefix makes no relative name, or an address is not taken.
    """
    if PurePosixPath(prefix).is_absolute() or ".." in PurePosixPath(prefix).parts:
        raise RetrievalError(f"--prefix {prefix!r}: names are relative, for example 2026/")
    if isinstance(photographs, str | Path) or addresses.is_address(photographs):
        photographs = [cast(Path, photographs)]
    paths = [(path, _is_folder(path)) for path in map(addresses.located, photographs)]
    return [one for path, folder in paths for one in _below(path, folder, root, prefix, images)]


def _is_folder(path: Path) -> bool:
    """Whether a path that is given is a folder of photographs, and no file.

    Raises:
        DatasetError: there is nothing, nobody knows whether, or it is of another kind.
    """
    try:
        if addresses.is_address(path):
            there, folder = True, stores.status(file_of(path)).kind == "folder"
            ours = folder and artefacts.is_artefact(path, stores.read_whole)
        else:
            there, folder = stores.there(file_of(path)), path.is_dir()
            ours = folder and artefacts.is_artefact(path)
    except FileNotFoundError:
        there = folder = ours = False
    except stores.StoreError as error:
        raise DatasetError(f"{display_name(path)} cannot be looked up: {error}") from error
    if not there:
        raise DatasetError(f"{path} does not exist: expected a photograph, or a folder of them")
    if ours:
        raise DatasetError(f"{path} is no folder of photographs: it was written by this program")
    return folder


def _below(path: Path, folder: bool, root: Path, prefix: str, images: ImageConfig | None) -> Iterator[Given]:
    if folder:
        place = addresses.whole(path)
        listed = list_images(path, images, may_be_empty=True)
        found = [Given(name, place / name, listed.states.get(name)) for name in listed.names]
        if not found:
            logger.warning("%s holds no file", path)
    else:
        place = addresses.whole(path.parent)
        names = [path.name] if images is None else pictures_of(path, path.name, images)
        found = [Given(name, place / name) for name in names]
    for one in found:
        inside = addresses.below(one.path, root)
        yield one._replace(name=prefix + one.name if inside is None else inside)


def compare(given: Sequence[Given], current: State, config: Config, replacing: bool) -> Arrivals:
    """Reads every file once, to see by their content which photographs are in the index already.

    Args:
        given: from `named`.
        current: the index.
        config: the limits of a photograph's file.
        replacing: a photograph takes the place of a live image of its name with other content.
    """
    failures: list[Failure] = []
    read: list[tuple[str, Path, str]] = []
    contents_of_files = _contents([path for _, path, _ in given], config.images)
    bar = progress.bar(contents_of_files, desc="compare", total=len(given), unit="image")
    for (name, path, _), (content, reason) in zip(given, bar, strict=True):
        if reason:
            failures.append(Failure(name, reason))
        else:
            read.append((name, path, content))
    lines = current.having([name for name, _, _ in read], [content for _, _, content in read])
    live = dict(zip(current.lines.names(lines), map(current.lines.content, lines), strict=True))
    gone = {} if config.images.pages == "first" else _gone(read, live, current, config.images)
    if gone and not replacing:
        logger.warning(
            "%d pictures that are in the index are not in their files any more, first %s: --replace removes them",
            len(gone),
            display_name(next(iter(gone))),
        )
        gone = {}
    leaving = {*gone} | {name for name, _, content in read if replacing and name in live and live[name] != content}
    known_as = {content: name for name, content in live.items() if content is not None and name not in leaving}
    new: dict[str, Path] = {}
    contents: dict[str, str] = {}
    known: list[tuple[Path, str]] = []
    copies: list[tuple[str, Path, str]] = []
    for name, path, content in read:
        if content in known_as:
            if known_as[content] in new:
                copies.append((name, path, known_as[content]))
            else:
                known.append((path, known_as[content]))
        elif name in new:
            failures.append(Failure(name, f"{path}: it would be named as {new[name]}: add it alone, with a prefix"))
        elif name in live and name not in leaving:
            what = "other content" if live[name] is not None else "content that was not recorded"
            reason = f"{path}: a photograph of this name with {what} is in the index: give --replace, or rename it"
            failures.append(Failure(name, reason))
        else:
            new[name], contents[name], known_as[content] = path, content, name
    replaced = tuple(name for name in new if name in live)
    states = {one.name: one.state for one in given if one.state is not None and new.get(one.name) == one.path}
    return Arrivals(new, contents, replaced, gone, tuple(known), tuple(copies), tuple(failures), states)


def _contents(paths: Sequence[Path], images: ImageConfig) -> Iterator[tuple[str, str]]:
    """Of each photograph its content, or an empty one and why it cannot be read; a file of several is read once."""
    with stores.at_once(_READ, paths) as each:
        places = list(each(place_of, paths))
        files = [file for file, _ in itertools.groupby(place.file for place in places)]
        digests = each(functools.partial(_digest, images=images), files)
        for _, group in itertools.groupby(zip(places, paths, strict=True), lambda one: one[0].file):
            digest, reason = next(digests)
            for place, path in group:  # the pictures of a file come one after another
                yield ("", f"{display_name(path)}: {reason}") if reason else (content_of(digest, place.number), "")


def _digest(file: Path, images: ImageConfig) -> tuple[str, str]:
    """sha256 of a file, or an empty one and why it cannot be read."""
    try:
        return Encoded(read_file(file, images).data).content, ""
    except ImageError as error:
        return "", str(error)


def _gone(
    read: Sequence[tuple[str, Path, str]], live: Mapping[str, str | None], current: State, images: ImageConfig
) -> dict[str, str]:
    """Live images of further pictures of files that have changed, and have fewer pictures by now.

    Args:
        read: name, path and content of photographs: with the first picture of a file all of them.
        live: name -> content, of live images.
        current: the index.
        images: how many pictures of a file may be photographs.

    Returns:
        name -> name of the first picture of the file.
    """
    files: dict[str, Path] = {}
    counts: dict[str, int] = {}
    changed = set()
    for name, path, content in read:
        number = place_of(path).number
        first = name if number == 1 else name.removesuffix(numbered("", number))
        if number == 1:
            files[first] = path
        counts[first] = max(counts.get(first, 1), number)
        if name in live and live[name] != content:
            changed.add(first)
    following = {
        numbered(first, number): first
        for first in changed & files.keys()
        for number in range(counts[first] + 1, images.max_pages + 1)
        if place_of(numbered(str(files[first]), number)).number == number  # else it is a file of its own
    }
    return {name: following[name] for name in current.lines.names(current.having(following))}


def extract(arrivals: Arrivals, collection: OpenedIndex, config: Config) -> tuple[list[Stored], tuple[Failure, ...]]:
    """The features of new photographs in the order of their names, each with where they lie, and what is unusable.

    Args:
        arrivals: from `compare`.
        collection: the index.
        config: how; it must give the features that the index has.

    Raises:
        ArtefactError: it does not.
    """
    from retrieval.features import extractor  # and torch with it

    what, precision = f"the index {collection.folder}", collection.config.descriptor.precision
    extractor.require_precision(what, precision, config)
    config = extractor.in_precision(config, precision, what)
    settings = extractor.feature_settings(config)
    stored = {key: collection.settings[key] for key in settings}
    artefacts.require_settings(what, stored, settings)
    folder, root = collection.folder / ADDING, addresses.located(collection.root)
    ready = {image.content: (image, place) for image, place in _waiting(folder, settings)}
    names = sorted(arrivals.new, key=os.fsencode)
    missing = tuple(name for name in names if arrivals.contents[name] not in ready)
    if len(missing) < len(names):
        logger.info("%d photographs were read by an addition that was stopped", len(names) - len(missing))
    found = {}
    failures: tuple[Failure, ...] = ()
    if missing:
        elsewhere = {name: arrivals.new[name] for name in missing if root / name != arrivals.new[name]}
        states = {name: arrivals.states.get(name) or file_state(arrivals.new[name]) for name in missing}
        listed = [[name, str(arrivals.new[name]), *states[name]] for name in missing]
        work = folder / settings_module.digest({"settings": settings, "images": listed})[:16]
        config = extractor.going_on(config, work)
        store = extractor.extract_collection(ImageSet(root, missing, elsewhere, states), work, config, "add")
        found, failures = {image.name: (image, place) for image, place in store.stored()}, store.failures
    for name in set(names).difference(missing):
        image, place = ready[arrivals.contents[name]]
        found[name] = replace(image, name=name), place
    return [found[name] for name in names if name in found], failures


def discard(current: State) -> None:
    """Removes waiting features whose photographs are all in the index, and what a killed addition was removing."""
    folder = current.folder
    for path in [*(folder / ADDING).glob("*"), *(folder / ADDING).glob(".*.tmp")]:
        with contextlib.suppress(ArtefactError):
            waiting = {image.content for image, _ in _shards(path) if image.content}
            known = {current.lines.content(line) for line in current.having((), waiting)}
            if path.suffix != ".tmp" and not waiting <= known:
                continue  # another addition's, which was stopped
        atomic.discard(path)
    with contextlib.suppress(OSError):
        (folder / ADDING).rmdir()


def _waiting(folder: Path, settings: Mapping[str, Any]) -> Iterator[Stored]:
    """What is in finished shards of stopped additions that were made with these settings."""
    for path in sorted(folder.glob("*")):
        with contextlib.suppress(ArtefactError):  # stopped before it had a plan
            if features.read_plan(path)["settings"] == settings:
                yield from _shards(path)


def _shards(folder: Path) -> Iterator[Stored]:
    for number in range(features.read_plan(folder)["shards"]):
        if features.shard_folder(folder, number).exists():
            for i, image in enumerate(features.read_shard(folder, number).images()):
                yield image, Span(folder, number, i, i + 1)
