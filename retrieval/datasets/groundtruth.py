"""Ground truth: queries, the labels of their images, and protocols that say which labels count.

A protocol is data. Philbin et al. 2007 take good and ok as positives and ignore junk; the revisited benchmarks
(Radenovic et al. 2018, section 3.3) read one set of labels in three ways. `retrieval.evaluation.measures`
knows neither.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from retrieval.errors import DatasetError, RetrievalError
from retrieval.geometry.frames import Box
from retrieval.photographs.folder import ImageSet, by_stem
from retrieval.photographs.names import Names
from retrieval.photographs.places import stem_of


@dataclass(frozen=True)
class Protocol:
    """Which labels are to be found and which are ignored; an image without label is negative.

    Attributes:
        name: for example ``medium``; results are keyed by it.
        positive: labels of the images that a query should find.
        ignored: labels of the images that count as absent.
        skip_empty: whether a query without positives is left out of the mean, rather than an error.

    Example:
        >>> Protocol("medium", positive=("easy", "hard"), ignored=("junk",)).skip_empty
        False
    """

    name: str
    positive: tuple[str, ...]
    ignored: tuple[str, ...]
    skip_empty: bool = False


OXFORD = Protocol("oxford", ("good", "ok"), ("junk",))  # Philbin et al. 2007, section 5.1
EASY = Protocol("easy", ("easy",), ("hard", "junk"), skip_empty=True)  # these three: Radenovic et al. 2018, section 3.3
MEDIUM = Protocol("medium", ("easy", "hard"), ("junk",), skip_empty=True)
HARD = Protocol("hard", ("hard",), ("easy", "junk"), skip_empty=True)
REVISITED = (EASY, MEDIUM, HARD)
OWN = Protocol("own", ("positive",), ("junk",))  # `retrieval.datasets.own`


@dataclass(frozen=True)
class Query:
    """One query: a region of a photograph and what is known of the database.

    Benchmarks name images by stem, a set of one's own by the full names of an index.

    Attributes:
        name: for example ``all_souls_1``.
        image: the query's photograph; in a set of one's own the absolute path of one that is not indexed.
        box: x1, y1, x2, y2, pixels, or None for the whole photograph. Those of benchmarks, where every query has one,
            are in raw pixels, EXIF orientation not applied; those of one's own in the photograph as the index sees it.
        labels: label -> images that have it, for example ``good``, ``ok`` and ``junk``.

    Example:
        >>> query = Query("tower_1", "tower", (120, 40, 420, 600), {"good": frozenset({"tower_2"})})
        >>> query.box
        (120, 40, 420, 600)
    """

    name: str
    image: str
    box: Box | None
    labels: Mapping[str, frozenset[str]]

    def relevant(self, protocol: Protocol) -> tuple[frozenset[str], frozenset[str]]:
        """The positives and the ignored images under a protocol.

        Raises:
            DatasetError: the protocol has a label that this ground truth does not have.

        Example:
            >>> query = Query("tower_1", "tower", None, {"easy": frozenset({"tower_2"}), "junk": frozenset()})
            >>> query.relevant(Protocol("easy", ("easy",), ("junk",)))
            (frozenset({'tower_2'}), frozenset())
        """
        return self._labelled(protocol, protocol.positive), self._labelled(protocol, protocol.ignored)

    def _labelled(self, protocol: Protocol, labels: tuple[str, ...]) -> frozenset[str]:
        unknown = [label for label in labels if label not in self.labels]
        if unknown:
            raise DatasetError(
                f"the query {self.name} has no label '{unknown[0]}' (it has {', '.join(self.labels)}): the protocol "
                f"'{protocol.name}' is not for this ground truth"
            )
        return frozenset().union(*(self.labels[label] for label in labels))


@dataclass(frozen=True)
class GroundTruth:
    """All queries of a benchmark and the protocols it is scored by.

    Attributes:
        queries: in a fixed order, with names that are unique.
        protocols: one result each.
        queries_in_database: whether the queries' photographs are images of the database, as in Oxford5k and
            Paris6k; the revisited benchmarks take them out, and one's own queries may come from anywhere.

    Example:
        >>> query = Query("tower_1", "tower", None, {"good": frozenset({"tower_2"})})
        >>> GroundTruth((query,), (Protocol("good", ("good",), ()),)).main.name
        'good'
    """

    queries: tuple[Query, ...]
    protocols: tuple[Protocol, ...]
    queries_in_database: bool = True

    @property
    def main(self) -> Protocol:
        """The protocol of a result's ``map``: medium where there are several."""
        return next((one for one in self.protocols if one.name == MEDIUM.name), self.protocols[0])


def spelled_as_stored(ground_truth: GroundTruth, images: ImageSet) -> GroundTruth:
    """Ground truth with its images spelled as the database has them, where the two differ in Unicode's spelling.

    Args:
        ground_truth: names images by stem.
        images: the database.

    Returns:
        The same where every name is spelled as stored, or unknown; who needs it looks for it (`match_images`).

    Raises:
        DatasetError: a name is spelled like none of several stems that look like it.
    """
    stems = Names(dict.fromkeys(stem_of(name) for name in images.names))

    def spelled(stem: str) -> str:
        try:
            return stems.find(stem) or stem
        except RetrievalError as error:
            raise DatasetError(f"{images.root}: {error}") from error

    queries = tuple(
        replace(
            query,
            image=spelled(query.image),
            labels={label: frozenset(map(spelled, known)) for label, known in query.labels.items()},
        )
        for query in ground_truth.queries
    )
    return replace(ground_truth, queries=queries)


def match_images(ground_truth: GroundTruth, images: ImageSet) -> dict[str, str]:
    """Finds every database image that the ground truth mentions.

    Args:
        ground_truth: of any benchmark.
        images: the database, without added distractors, which may have any stem (`Benchmark.match` leaves them out).

    Returns:
        stem -> name in `images`, for labelled images and, where they are in the database, query images.

    Raises:
        DatasetError: an image is missing (the first is named, and how many), or a stem is ambiguous.
    """
    mentioned: set[str] = set()
    for query in ground_truth.queries:
        mentioned.update(*query.labels.values())
        if ground_truth.queries_in_database:
            mentioned.add(query.image)
    return find_stems(mentioned, images, "the ground truth")


def find_stems(stems: set[str], images: ImageSet, who: str) -> dict[str, str]:
    """The names of photographs given by stem.

    Args:
        stems: what to find.
        images: where to find it.
        who: what mentions the stems, for the message.

    Returns:
        stem -> name in `images`, sorted by stem.

    Raises:
        DatasetError: an image is missing (the first is named, and how many), or a stem is ambiguous.
    """
    names = by_stem(images)
    missing = sorted(stems - names.keys())
    if missing:
        raise DatasetError(
            f"{images.root} lacks {missing[0]}, which {who} mentions ({len(missing)} of {len(stems)} images are "
            "missing); give the folder that holds the whole set"
        )
    return {stem: names[stem] for stem in sorted(stems)}
