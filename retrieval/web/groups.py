"""The groups that the pairs beside the index make of it: read when they are asked for, and never made here."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retrieval.errors import ArtefactError
from retrieval.pairs import stored
from retrieval.pairs.groups import Group, Member, groups
from retrieval.pairs.pair import Pairs
from retrieval.web.problems import RequestError
from retrieval.web.service import Opened, Service, image_id

logger = logging.getLogger(__name__)

STRIP = 12  # photographs of each group that a list of groups shows
_AGAIN = 30.0  # seconds after which pairs that could not be read are tried again, as something may have mended them


@dataclass(frozen=True, eq=False)
class _Grouped:
    """Groups, and which of them each photograph is in: (n,) int32, -1 for none."""

    groups: tuple[Group, ...]
    of: np.ndarray


@dataclass
class _Known:
    """What was read, or why it could not be; of one state of the index and of the pairs.

    Attributes:
        opened: the index.
        checksum: of the pairs; None where there are none.
        at: when they were read, by the monotonic clock.
        pairs: None likewise, and where they could not be read.
        refusal: what a client is told in that case.
        grouped: by confidence, those that have been asked for.
    """

    opened: Opened
    checksum: str | None
    at: float
    pairs: Pairs | None = None
    refusal: str | None = None
    grouped: dict[str, _Grouped] = field(default_factory=dict)

    def stands(self, opened: Opened, checksum: str | None) -> bool:
        """Whether it holds of the index and the pairs as they are now."""
        if self.opened is not opened or self.checksum != checksum:
            return False
        return self.refusal is None or (checksum is not None and time.monotonic() < self.at + _AGAIN)


class Groups:
    """Groups of one index. Memory holds the pairs as they are now, and no others.

    Args:
        service: searches the index.
    """

    def __init__(self, service: Service):
        self._service = service
        self._known: _Known | None = None
        self._lock = threading.Lock()

    def page(self, confidence: str, page: int, size: int) -> dict[str, Any]:
        """Some of the groups, the largest first, each with its first photographs.

        Args:
            confidence: as for `retrieval.pairs.groups.groups`.
            page: from 1.
            size: groups on a page.

        Raises:
            RequestError: the pairs cannot be used.
        """
        known, grouped = self._now(confidence)
        first = (page - 1) * size
        return {
            "groups": [
                {
                    "total": len(group.images),
                    "copies": sum(image.copy_of is not None for image in group.images),
                    "images": [self._tree(known.opened, image) for image in group.images[:STRIP]],
                }
                for group in grouped.groups[first : first + size]
            ],
            **_pages(page, len(grouped.groups), size),
            **_facts(known, grouped, confidence),
        }

    def of(self, key: str, confidence: str, page: int | None, size: int) -> dict[str, Any]:
        """The group of a photograph, and the links that it has with others of it.

        A photograph in no group is alone in one.

        Args:
            key: id of a photograph of the index.
            confidence: as for `page`.
            page: from 1; None: the one that the photograph is on.
            size: photographs on a page.

        Raises:
            RequestError: no such photograph, or the pairs cannot be used.
        """
        known, grouped = self._now(confidence)
        opened = known.opened
        name = self._service.photograph(key, opened).name
        number = opened.retriever.collection.ids.get(name) if key in opened.names else None
        if number is None:
            raise RequestError(404, "this photograph is an uploaded one: only those of the index are in groups")
        group = grouped.of[number]
        images = grouped.groups[group].images if group >= 0 else (Member(name, number, 0),)
        if page is None:
            page = [image.image_id for image in images].index(number) // size + 1
        first = (page - 1) * size
        return {
            "id": key,
            "name": name,
            "images": [self._tree(opened, image) for image in images[first : first + size]],
            "links": _links(known.pairs, grouped, number) if known.pairs is not None and group >= 0 else [],
            **_pages(page, len(images), size),
            **_facts(known, grouped, confidence),
        }

    def sizes(self, keys: Sequence[str], confidence: str) -> dict[str, Any]:
        """How many photographs are in the group of each; photographs without a group are left out.

        Args:
            keys: ids; those that are of no photograph of the index are left out too.
            confidence: as for `page`.

        Raises:
            RequestError: the pairs cannot be used.
        """
        known, grouped = self._now(confidence)
        names, ids = known.opened.names, known.opened.retriever.collection.ids
        found = {key: grouped.of[ids[names[key]]] for key in keys if key in names}
        return {"sizes": {key: len(grouped.groups[group].images) for key, group in found.items() if group >= 0}}

    def _now(self, confidence: str) -> tuple[_Known, _Grouped]:
        with self._lock:
            known = self._read()
            if known.refusal is not None:
                raise RequestError(409, known.refusal)
            if confidence not in known.grouped:
                known.grouped[confidence] = _grouped(known, confidence)
            return known, known.grouped[confidence]

    def _read(self) -> _Known:
        """The pairs as they are now, as far as they are of photographs of the index as it is now."""
        opened = self._service.current()
        collection = opened.retriever.collection
        folder = stored.beside(collection.folder.absolute())
        checksum, pairs, refusal = None, None, None
        try:
            checksum = stored.checksum(folder)
            known = self._known
            if known is not None and known.stands(opened, checksum):
                return known
            known = self._known = None  # before others are read: memory holds one
            pairs = None if checksum is None else stored.open_pairs(collection, folder)
        except (ArtefactError, OSError) as error:
            logger.warning("groups cannot be shown: %s", error)
            refusal = (
                f"the pairs beside the index ({folder.name}) are damaged or of other settings: delete them, and run "
                f"`retrieval groups {folder.name.removesuffix(stored.SUFFIX)}`, which makes them anew"
            )
        self._known = _Known(opened, checksum, time.monotonic(), pairs, refusal)
        return self._known

    def _tree(self, opened: Opened, image: Member) -> dict[str, Any]:
        photograph = self._service.photograph(image_id(image.name), opened)
        return {**photograph.tree(), "links": image.links, "copy_of": image.copy_of}


def _grouped(known: _Known, confidence: str) -> _Grouped:
    found = () if known.pairs is None else groups(known.pairs, confidence, incomplete=True)
    of = np.full(known.opened.retriever.collection.snapshot.images, -1, np.int32)
    for number, group in enumerate(found):
        of[[image.image_id for image in group.images]] = number
    return _Grouped(found, of)


def _links(pairs: Pairs, grouped: _Grouped, number: int) -> list[dict[str, Any]]:
    """The pairs of a photograph within its group, the most significant first."""
    links = pairs.links
    others = np.where(links.first == number, links.second, links.first)
    inside = grouped.of[others] == grouped.of[number]
    rows = np.flatnonzero(((links.first == number) | (links.second == number)) & inside)
    some = links[rows]
    found = []
    for pair, turned in zip(Pairs(pairs.collection, some, pairs.config), some.turned, strict=True):
        name = pair.first if pair.second_id == number else pair.second
        found.append(
            {
                "id": image_id(name),
                "name": name,
                "inliers": pair.inliers,
                "stamped": pair.stamped,
                "significance": round(pair.significance, 2),
                "grade": pair.grade,
                "query": image_id(pair.second if turned else pair.first),
            }
        )
    return sorted(found, key=lambda link: -link["significance"])


def _pages(page: int, total: int, size: int) -> dict[str, int]:
    return {"page": page, "pages": max(1, -(-total // size)), "total": total}


def _facts(known: _Known, grouped: _Grouped, confidence: str) -> dict[str, Any]:
    """What every answer says of the pairs that it goes by."""
    photographs = len(grouped.of)
    return {
        "confidence": confidence,
        "photographs": photographs,
        "grouped": int((grouped.of >= 0).sum()),
        "pairs": None if known.pairs is None else len(known.pairs),
        "missing": photographs if known.pairs is None else len(known.pairs.missing),
    }
