"""The rows of the results table: what each of them does with a query, and what it needs of the index.

A row costs only what it adds to the one before. Names are those of the configuration's `dataset.rows`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from retrieval.errors import ConfigError
from retrieval.features.store import ImageFeatures
from retrieval.geometry.frames import Box
from retrieval.search.queries import QueryFeatures
from retrieval.search.ranking import Ranking
from retrieval.search.retriever import Retriever

ROWS = ("bow", "bow+sv", "bow+sv+qe", "hqe", "hqe+ma", "hqe+sv", "hqe+sv+ma", "asmk", "asmk+sv")
HEADINGS = {
    "bow": "BoW",
    "bow+sv": "BoW + SV",
    "bow+sv+qe": "BoW + SV + QE",
    "hqe": "HQE",
    "hqe+ma": "HQE + MA",
    "hqe+sv": "HQE + SV",
    "hqe+sv+ma": "HQE + SV + MA",
    "asmk": "ASMK*",
    "asmk+sv": "ASMK* + SV",
}


def check_rows(rows: Iterable[str]) -> tuple[str, ...]:
    """The rows to run, in the order of the table.

    Raises:
        ConfigError: none, or an unknown row.
    """
    rows = tuple(rows)
    if not rows:
        raise ConfigError(f"no row to run: choose of {', '.join(ROWS)}")
    unknown = [row for row in rows if row not in ROWS]
    if unknown:
        raise ConfigError(f"unknown row {unknown[0]!r}: this version has {', '.join(ROWS)}")
    return tuple(row for row in ROWS if row in rows)


def rows_of(results: Mapping[str, Mapping[str, object]]) -> tuple[str, ...]:
    """The rows that any descriptor of a report's ``results`` has, in the order of the table."""
    return tuple(row for row in ROWS if any(row in cells for cells in results.values()))


def signatures_for(rows: Iterable[str]) -> tuple[str, ...]:
    """What an index must store for some rows (`index.signatures`); verification after ASMK compares signatures too."""
    rows = tuple(rows)
    needed = {
        "hamming": any(row.startswith("hqe") or row == "asmk+sv" for row in rows),
        "asmk": any(row.startswith("asmk") for row in rows),
    }
    return tuple(kind for kind, wanted in needed.items() if wanted)


def need_descriptors(rows: Iterable[str]) -> bool:
    """Whether some rows take a query's descriptors, which an index does not keep; it keeps words and signatures."""
    return any(row.startswith("asmk") or row.endswith("+ma") for row in rows)


@dataclass(frozen=True)
class BenchmarkQuery:
    """A query of a benchmark.

    Attributes:
        name: the query photograph's name in the index, or None where it is not there.
        box: of the query object, original pixels; None = the whole photograph.
        load: reads the photograph's features; called only for rows that need descriptors, and without `name`.
    """

    name: str | None
    box: Box | None
    load: Callable[[], ImageFeatures]

    @cached_property
    def features(self) -> ImageFeatures:
        """The photograph's features with their descriptors."""
        return self.load()


def rank(retriever: Retriever, query: BenchmarkQuery, rows: Iterable[str]) -> Iterator[tuple[str, Ranking | None]]:
    """The ranking of every row, one after another.

    Args:
        retriever: on an index with what `signatures_for` says.
        query: the query.
        rows: from `check_rows`.

    Yields:
        First ``("", None)`` when what the rows start from is read, then every row's name with its ranking; so that
        the caller can time them.
    """
    rows = tuple(rows)
    plain = _stored(retriever, query, signatures=False) if any(row.startswith("bow") for row in rows) else None
    if need_descriptors(rows):
        _ = query.features
    yield "", None
    if plain is not None:
        yield from _bow(retriever, plain, rows)
    for row in rows:
        if row.startswith("hqe"):
            if row.endswith("+ma"):
                several = retriever.config.hamming.assignments
                entries = retriever.queries.encode(query.features, query.box, several)
            else:
                entries = _stored(retriever, query, signatures=True)
            yield row, retriever.ranker.expand_hamming(entries, geometry="+sv" in row)
    if any(row.startswith("asmk") for row in rows):
        matched = retriever.ranker.match(query.features, query.box)
        if "asmk" in rows:
            yield "asmk", matched
        if "asmk+sv" in rows:
            yield "asmk+sv", retriever.ranker.verify(matched)


def _stored(retriever: Retriever, query: BenchmarkQuery, signatures: bool) -> QueryFeatures:
    """One word of every feature, from the index where it holds the photograph."""
    if query.name is None:
        return retriever.queries.encode(query.features, query.box, int(signatures))
    return retriever.queries.features(query.name, query.box, signatures)


def _bow(retriever: Retriever, query: QueryFeatures, rows: tuple[str, ...]) -> Iterator[tuple[str, Ranking]]:
    ranking = retriever.ranker.shortlist(query)
    if "bow" in rows:
        yield "bow", ranking
    if "bow+sv" in rows or "bow+sv+qe" in rows:
        verified = retriever.ranker.verify(ranking)
        if "bow+sv" in rows:
            yield "bow+sv", verified
        if "bow+sv+qe" in rows:
            yield "bow+sv+qe", retriever.ranker.expand(verified)
