"""The labelling mode: what somebody says of hits goes into one CSV file, the only one that the server ever writes."""

import logging
import os
from collections.abc import Sequence
from typing import Any, Literal

from retrieval.datasets.labels import ChangedError, Key, Label, Labels, UnlistableError
from retrieval.errors import BoxError, DatasetError
from retrieval.geometry.frames import Box
from retrieval.search.queries import check_box
from retrieval.web.problems import RequestError
from retrieval.web.service import Opened, Photograph, Service, image_id

logger = logging.getLogger(__name__)


class Labelling:
    """Labels of the hits of one index.

    Args:
        service: searches the index.
        labels: of its photographs.
        wanted: names of the photographs to be searched with, in this order; None: all that have features.
    """

    def __init__(self, service: Service, labels: Labels, wanted: Sequence[str] | None = None):
        self._service = service
        self._labels = labels
        self._wanted = None if wanted is None else tuple(wanted)
        self._list: tuple[Opened, dict[str, int]] | None = None

    @property
    def file(self) -> str:
        """The file's name, without its folder."""
        return self._labels.path.name

    def shown(self, key: str | None, box: Box | None) -> dict[str, Any]:
        """What was said of the hits of a query, and how far the list of queries is done.

        Args:
            key: id of the query; None: of none.
            box: in it.

        Raises:
            RequestError: the query is no photograph of the index, or the file has been changed for the worse.
        """
        opened = self._service.current()
        query = None if key is None else self._query(opened, key, box)
        return self._tree(opened, query)

    def mark(
        self, key: str, box: Box | None, hit: str, label: Label | None, expected: Label | Literal["any"] | None
    ) -> dict[str, Any]:
        """Says what a photograph is for a query; on disk when this returns.

        Args:
            key: id of the query.
            box: in it.
            hit: id of the photograph.
            label: None takes it back.
            expected: as in `Labels.mark`.

        Returns:
            As `shown`, and the label that it had, `before`.

        Raises:
            RequestError: as for `shown`; or somebody else has labelled it meanwhile, or it cannot be written.
        """
        opened = self._service.current()
        query, name = self._query(opened, key, box), self._indexed(opened, hit).name
        images = opened.retriever.collection.images
        try:
            before = self._labels.mark(images, query, name, label, expected)
        except DatasetError as error:
            raise self._refused(error) from error
        except OSError as error:
            logger.error("%s: %s", self._labels.path, error)
            reason = error.strerror or "the file cannot be written"
            raise RequestError(500, f"the label was not saved, and the others are as they were: {reason}") from error
        return {**self._tree(opened, query), "before": before}

    def _tree(self, opened: Opened, query: Key | None) -> dict[str, Any]:
        collection = opened.retriever.collection
        try:
            queries = self._labels.queries(collection.images)
        except DatasetError as error:
            raise self._refused(error) from error
        places = self._places(opened)
        done = {key[0] for key, judged in queries.items() if judged.marks}
        marks = queries[query].marks if query in queries else {}
        return {
            "labels": {image_id(name): label for name, label in marks.items() if name in collection.ids},
            "labelled": sum(name in places for name in done),
            "queries": len(places),
            "next": self._next(places, done, None if query is None else query[0]),
        }

    def _places(self, opened: Opened) -> dict[str, int]:
        """The photographs to be searched with -> their places in the list."""
        if self._list is None or self._list[0] is not opened:
            collection = opened.retriever.collection
            if self._wanted is None:
                counts = collection.snapshot.counts.tolist()
                names = [name for name, count in zip(collection.names, counts, strict=True) if count]
            else:
                names = [name for name in self._wanted if name in collection.ids]
            self._list = opened, {name: place for place, name in enumerate(names)}
        return self._list[1]

    def _next(self, places: dict[str, int], done: set[str], name: str | None) -> str | None:
        """The id of the next one to be searched with after this one, from the first again behind the last."""
        names = list(places)
        start = places[name] + 1 if name in places else 0
        order = (*range(start, len(names)), *range(start))
        found = next((names[i] for i in order if names[i] not in done and names[i] != name), None)
        return None if found is None else image_id(found)

    def _query(self, opened: Opened, key: str, box: Box | None) -> Key:
        photograph = self._indexed(opened, key)
        try:
            return photograph.name, check_box(box, *photograph.size)
        except BoxError as error:
            raise RequestError(400, str(error)) from error

    def _indexed(self, opened: Opened, key: str) -> Photograph:
        photograph = self._service.photograph(key, opened)
        if photograph.upload is not None:
            raise RequestError(
                409, "an uploaded photograph is not kept, and so has no labels: add it to the index, and search by name"
            )
        return photograph

    def _refused(self, error: DatasetError) -> RequestError:
        """What the client is told: without the folder that the file lies in."""
        told = str(error).replace(str(self._labels.path), self.file).replace(f"{self._labels.path.parent}{os.sep}", "")
        if isinstance(error, ChangedError | UnlistableError):
            return RequestError(409, told)
        logger.warning("%s", error)
        return RequestError(409, f"the file {told}")
