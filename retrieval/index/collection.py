"""`Collection`: an opened index with the verbs that change it; the public face of this room."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retrieval.config import Config
from retrieval.index import changes, checking
from retrieval.index.changes import Added
from retrieval.index.checking import Report
from retrieval.index.opened import OpenedIndex


@dataclass(frozen=True, repr=False, eq=False)
class Collection(OpenedIndex):
    """An opened index, as it was when it was opened, and what can be done to it on disk.

    A verb changes the index on disk, whole or not at all; this object stays as it is, and `newest` takes up the change.
    Its attributes are those of `retrieval.index.opened.OpenedIndex`: `names`, `features`, `config`, `folder` and more.

    Example:
        >>> Collection.open("holidays.index").names
        ('bridge.jpg', 'bridge_2.jpg', 'cat.jpg', 'old/tower_2.jpg', 'tower.jpg')
    """

    def add(
        self,
        photographs: Sequence[str | Path],
        *,
        config: Config | None = None,
        replace: bool = False,
        prefix: str = "",
    ) -> "Added[Collection]":
        """Adds photographs and folders of them; see `retrieval.index.changes.add`.

        Example:
            >>> Collection.open("holidays.index").add(["photo.jpg"]).names
            ('photo.jpg',)
        """
        return changes.add(self, photographs, config=config, replace=replace, prefix=prefix)

    def remove(self, patterns: Sequence[str], *, dry_run: bool = False) -> tuple[str, ...]:
        """Removes images by name or pattern and returns their names; see `retrieval.index.changes.remove`.

        Example:
            >>> Collection.open("holidays.index").remove(["old/*"], dry_run=True)
            ('old/tower_2.jpg',)
        """
        return changes.remove(self, patterns, dry_run=dry_run)

    def compact(self, segments: int | None = None) -> "Collection":
        """Merges or splits the segments and forgets removed images; see `retrieval.index.changes.compact`.

        Example:
            >>> Collection.open("holidays.index").compact()  # doctest: +ELLIPSIS
            Collection('holidays.index', 5 images, ... features)
        """
        compacted = changes.compact(self, segments)
        assert isinstance(compacted, Collection)  # it is of the class that was given
        return compacted

    def check(self, repair: bool = False) -> Report:
        """Compares everything stored with its checksum and its rules; see `retrieval.index.checking.check`.

        Example:
            >>> Collection.open("holidays.index").check().problems
            ()
        """
        return checking.check(self.folder, repair)
