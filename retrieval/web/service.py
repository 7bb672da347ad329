"""The searches behind the page: an index that is taken up again when it changes, uploads, and ids for both."""

import hashlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from retrieval.errors import BoxError, CandidatesError, ImageError, RetrievalError
from retrieval.geometry.frames import Box
from retrieval.index.collection import Collection
from retrieval.photographs.decoding import display_name
from retrieval.search import as_json
from retrieval.search.explanation import explain
from retrieval.search.grades import grade, grades
from retrieval.search.queries import QueryFeatures
from retrieval.search.retriever import AUTO, Retriever
from retrieval.web import pictures
from retrieval.web.problems import RequestError
from retrieval.web.uploads import Upload, Uploads

logger = logging.getLogger(__name__)

EXPLAINED = 1000  # rank by words or votes up to which a single hit is verified, whatever the depth of searches
CHECK_EVERY = 2.0  # seconds between looks at the index's manifest
_ID = re.compile(r"[0-9a-f]{16}|[0-9a-f]{32}")


@dataclass(frozen=True)
class Opened:
    """An index as it was at one moment; a request keeps the one that it began with.

    Attributes:
        retriever: on it.
        names: image id of the API -> name.
        kind: of its features; a photograph that is described for one kind is of no use for another.
    """

    retriever: Retriever
    names: dict[str, str]
    kind: str


@dataclass(frozen=True)
class Photograph:
    """What an id stands for.

    Attributes:
        id: of the API.
        name: in the index, or to be shown.
        size: width, height, pixels.
        features: how many it has.
        upload: where it was uploaded.
    """

    id: str
    name: str
    size: tuple[int, int]
    features: int
    upload: Upload | None = None

    def tree(self) -> dict[str, Any]:
        """As the API tells it."""
        return {
            "id": self.id,
            "name": self.name,
            "size": list(self.size),
            "features": self.features,
            "findable": self.features > 0,
            "uploaded": self.upload is not None,
        }


def image_id(name: str) -> str:
    """The id of an indexed photograph: it stays while the name does, whatever is added and removed."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]


class Service:
    """Searches one index, from many threads.

    Args:
        retriever: on the index; its verification depth is kept when the index changes.
        uploads: where uploaded photographs are kept.
        picture_bytes: memory for small pictures.
        check_every: seconds between looks at the index.
    """

    def __init__(
        self,
        retriever: Retriever,
        uploads: Uploads,
        picture_bytes: int = 64 << 20,
        check_every: float = CHECK_EVERY,
    ):
        self.uploads = uploads
        self._pictures = pictures.Pictures(picture_bytes)
        self._opened = _opened(retriever)
        self._check_every = check_every
        self._next_check = time.monotonic() + check_every
        self._lock = threading.Lock()

    def close(self) -> None:
        """Lets workers go that search the index."""
        self._opened.retriever.close()

    def current(self) -> Opened:
        """The index as it is now; whoever comes while a change is being taken up gets it as it was."""
        if time.monotonic() < self._next_check or not self._lock.acquire(blocking=False):
            return self._opened
        try:
            self._next_check = time.monotonic() + self._check_every
            ours = self._opened.retriever
            newest = ours.collection.newest()
            if newest is not ours.collection:
                self._take_up(ours, newest)
        except RetrievalError as error:
            logger.warning("the index cannot be read again, and is served as it was: %s", error)
        finally:
            self._lock.release()
        return self._opened

    def _take_up(self, ours: Retriever, newest: Collection) -> None:
        config = ours.config
        known = ours.collection
        # another index has taken the folder
        if (newest.settings, newest.config.vocabulary) != (known.settings, known.config.vocabulary):
            newest = Collection.open(newest.folder)
            config = replace(newest.config, verification=config.verification)
        retriever = Retriever(newest, config)
        warm_up(retriever)
        self._opened = _opened(retriever)
        logger.info("the index has changed: %d photographs", len(newest.names))

    def about(self) -> dict[str, Any]:
        """What the page has to know of the index."""
        retriever = self.current().retriever
        snapshot = retriever.collection.snapshot
        return {
            "name": retriever.collection.folder.resolve().name,
            "images": snapshot.images,
            "features": int(snapshot.features),
            "signatures": snapshot.has_signatures,
            "grades": {
                expand or "once": asdict(grades(snapshot.has_signatures, expand)) for expand in (None, "aqe", "hqe")
            },
            "depth": retriever.config.verification.depth,
            "max_megapixels": self.uploads.max_megapixels,
        }

    def images(self, page: int, size: int, text: str) -> dict[str, Any]:
        """One page of the collection, by name.

        Args:
            page: from 1.
            size: photographs on a page.
            text: only names that contain it, upper and lower case alike, and accents in either spelling of Unicode.
        """
        opened = self.current()
        names = opened.retriever.collection.names
        if text:
            names = opened.retriever.collection.typed.containing(text)
        first = (page - 1) * size
        return {
            "images": [self._indexed(opened, name).tree() for name in names[first : first + size]],
            "page": page,
            "pages": max(1, -(-len(names) // size)),
            "total": len(names),
        }

    def photograph(self, key: str, opened: Opened | None = None) -> Photograph:
        """What an id stands for.

        Raises:
            RequestError: nothing, or nothing any more.
        """
        opened = opened or self.current()
        if key in opened.names:
            return self._indexed(opened, opened.names[key])
        upload = self.uploads.get(key, opened.kind)
        if upload is not None:
            features = upload.features
            return Photograph(upload.id, upload.name, (features.width, features.height), len(features.codes), upload)
        if not _ID.fullmatch(key):
            raise RequestError(404, "no photograph has this id: ids are 16 or 32 hexadecimal digits")
        if len(key) == 16:
            raise RequestError(404, "no photograph of the index has this id: it may have been removed")
        raise RequestError(
            404,
            "this uploaded photograph is not kept any more, or was uploaded to another server: upload it again",
        )

    def picture(self, key: str, side: int, known: str = "") -> tuple[bytes | None, str]:
        """A JPEG file, and a tag that changes with it.

        Args:
            key: of an indexed or uploaded photograph.
            side: one of `pictures.SIDES`.
            known: tags that the client has; for one of them there is no file.

        Raises:
            RequestError: no such photograph, or it cannot be read any more.
        """
        opened = self.current()
        photograph = self.photograph(key, opened)
        if photograph.upload is not None:
            tag = f"{photograph.id}-{side}"
            return None if tag in known else pictures.reduce(photograph.upload.picture, side), tag
        collection = opened.retriever.collection
        path = collection.path(photograph.name)
        return self._pictures.get(path, photograph.size, collection.config.images, side, known)

    def upload(self, name: str, data: bytes) -> Photograph:
        """Takes a photograph in; see `Uploads.add`."""
        opened = self.current()
        return self.photograph(
            self.uploads.add(name, data, opened.retriever.queries.describing, opened.kind).id, opened
        )

    def search(
        self,
        key: str,
        box: Box | None,
        top: int,
        verify: bool,
        expand: str | None,
        matches: bool,
        mirror: bool = False,
        candidates: Sequence[str] | None = None,
        skip_unknown: bool = False,
    ) -> dict[str, Any]:
        """What ``retrieval query --json`` prints, with ids and sizes, the depth that was verified, and the time.

        A hit also has its grade, which does not count the inliers that a stamp explains.

        Args:
            key: of an indexed or uploaded photograph.
            box: as in `Retriever.query`, like what follows.
            top: at most so many hits.
            verify: verify the shortlist spatially.
            expand: as in `Retriever.query`.
            matches: also the inlier regions of every hit.
            mirror: search with the mirror image as well.
            candidates: names that alone are ranked, all of them verified; as `skip_unknown` in `Retriever.among`.
            skip_unknown: leave out names that the index has not got.

        Raises:
            RequestError: no such photograph, a box outside it, an expansion that the index has no signatures for, no
                file to mirror, or an unknown candidate.
            ClusterError: nothing of the index answers.
        """
        start = time.perf_counter()
        opened = self.current()
        retriever, depth = opened.retriever, opened.retriever.config.verification.depth
        if candidates is not None:
            try:
                retriever = retriever.among(candidates, skip_unknown)
            except CandidatesError as error:
                raise RequestError(400, str(error)) from error
        photograph = self.photograph(key, opened)
        features = self._features(opened, photograph, box, expand)
        mirrored = self._features(opened, photograph, box, expand, mirror=True) if mirror else None
        hits = retriever.search(features, top, verify, expand, mirrored)
        found = as_json.search_tree(photograph.name, features, hits, matches, mirror)
        found["query"] |= {"id": photograph.id, "size": list(photograph.size)}
        for row, one in zip(found["hits"], hits, strict=True):
            hit = self._indexed(opened, row["name"])
            row |= {"id": hit.id, "size": list(hit.size), "grade": grade(one)}
        among = retriever.ranker.candidates
        checked = min(depth, len(opened.names)) if among is None else len(among)
        return {
            **found,
            "depth": checked if verify or expand == "aqe" else 0,
            "seconds": round(time.perf_counter() - start, 4),
        }

    def explain(
        self, key: str, box: Box | None, hit: str, mirror: bool = False, expand: str | None = AUTO
    ) -> dict[str, Any]:
        """What ``retrieval explain --json`` prints, with the ids; with `mirror` as for `search`.

        Args:
            key: as in `search`, like `box` and `mirror`.
            box: in the query.
            hit: id of a photograph of the index.
            mirror: of the query and its mirror image the better.
            expand: "auto" or None.

        Raises:
            RequestError: as for `search`, or the hit is no photograph of the index.
            ClusterError: it lies in a part of the index that does not answer.
        """
        opened = self.current()
        photograph, found = self.photograph(key, opened), self.photograph(hit, opened)
        if found.upload is not None:
            raise RequestError(404, "the hit is an uploaded photograph: only those of the index are found")
        retriever = opened.retriever
        ways = (False, True) if mirror else (False,)
        queries = [self._features(opened, photograph, box, expand, one) for one in ways]
        by_votes = retriever.by_votes(verify=True, expand=expand)
        explained = explain(retriever.steps, queries, photograph.name, found.name, by_votes, EXPLAINED)
        tree = as_json.explanation_tree(explained)
        tree["query"]["id"], tree["image"]["id"] = photograph.id, found.id
        return tree

    def _indexed(self, opened: Opened, name: str) -> Photograph:
        collection = opened.retriever.collection
        number, snapshot = collection.ids[name], collection.snapshot
        width, height = snapshot.sizes[number]
        return Photograph(image_id(name), name, (int(width), int(height)), int(snapshot.counts[number]))

    def _features(
        self, opened: Opened, photograph: Photograph, box: Box | None, expand: str | None, mirror: bool = False
    ) -> QueryFeatures:
        """The query; what is wrong with it is the client's affair, so paths are not told."""
        retriever = opened.retriever
        signatures = retriever.collection.snapshot.has_signatures
        if expand == "hqe" and not signatures:
            raise RequestError(400, "this index keeps no signatures, which Hamming query expansion (hqe) needs")
        try:
            if photograph.upload is None:
                return retriever.prepare(photograph.name, box, expand, mirror)
            several = retriever.config.hamming.assignments if expand == "hqe" else int(signatures)
            features = photograph.upload.features
            if mirror:
                features = self.uploads.mirrored(photograph.upload, retriever.queries.describing, opened.kind)
            return retriever.queries.encode(features, box, several, mirror)
        except ImageError as error:
            raise RequestError(410, "the photograph's file, which is read again for this, cannot be used") from error
        except BoxError as error:
            raise RequestError(400, str(error)) from error


def warm_up(retriever: Retriever) -> None:
    """Computes what is computed once: statistics of the index, so that the first search does not wait for them."""
    retriever.connect()
    collection = retriever.collection
    if not collection.names:
        return
    name = max(collection.names, key=lambda one: int(collection.snapshot.counts[collection.ids[one]]))
    query = retriever.prepare(name)
    for expand in (AUTO, None):
        retriever.search(query, 1, expand=expand)


def _opened(retriever: Retriever) -> Opened:
    names = {image_id(name): name for name in retriever.collection.names}
    if len(names) < retriever.collection.snapshot.images:  # one in 10^7 collections of a million photographs
        by_id: dict[str, str] = {}
        for name in retriever.collection.names:
            if (other := by_id.setdefault(image_id(name), name)) != name:
                raise RetrievalError(
                    f"{display_name(name)} and {display_name(other)} have the same id: rename one of them"
                )
    settings = retriever.collection.settings
    kind = json.dumps([settings[part] for part in ("images", "detector", "descriptor")], sort_keys=True)
    return Opened(retriever, names, hashlib.sha256(kind.encode()).hexdigest())
