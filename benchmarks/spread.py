"""Searches of an index by one process and by the workers of a cluster, interleaved in one run.

    python -m benchmarks.spread INDEX --workers 4 [--scheduler ADDRESS] [--queries 40]

INDEX has at least as many segments as there are workers (`retrieval compact INDEX --segments 4`). The queries are
photographs of the index, searched as by default. Every query is searched by both, in turns who comes first. Names have
to be the same, and the largest difference of scores is printed. The round trip is that of a question to every worker
that has nothing to do; beside it that of as many tasks of the scheduler, which is not how workers are asked.
"""

import functools
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np

from benchmarks import record
from retrieval.index.collection import Collection
from retrieval.search.ranking import Hits
from retrieval.search.retriever import Retriever

WARM_UP, QUERIES, ROUND_TRIPS = 5, 40, 50
BAR = 1.5  # times the seconds of one process
EQUAL = 1e-6


def main() -> int:
    """Runs the benchmark and prints it; 1 if a bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("index", type=Path)
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="started here (default 4)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of others, instead")
    parser.add_argument("--queries", type=int, default=QUERIES, metavar="N")
    arguments = parser.parse_args()
    logging.basicConfig(level="WARNING")
    one = Retriever(Collection.open(arguments.index))
    where = arguments.scheduler or f"local:{arguments.workers}"
    parallel = replace(one.config.parallel, scheduler=where, wait=None)
    with Retriever(one.collection, replace(one.config, parallel=parallel)) as spread:
        start = time.perf_counter()
        spread.connect()
        connecting = time.perf_counter() - start
        trips, tasks = round_trips(spread), round_trips_of_tasks(spread)
        names = np.random.default_rng(arguments.seed).permutation(one.collection.names)
        steps = count_steps(spread)
        alone: list[float] = []
        together: list[float] = []
        furthest, same = 0.0, True
        for number, name in enumerate(names[: WARM_UP + arguments.queries].tolist()):
            query = one.prepare(name)
            found: dict[str, Hits] = {}
            for which, retriever, times in [("one", one, alone), ("spread", spread, together)][:: 1 - 2 * (number % 2)]:
                start = time.perf_counter()
                found[which] = retriever.search(query)
                times.append(time.perf_counter() - start)
            same &= [hit.name for hit in found["one"]] == [hit.name for hit in found["spread"]]
            differences = [abs(a.score - b.score) for a, b in zip(found["one"], found["spread"], strict=False)]
            furthest = max(furthest, *differences, 0.0)
    alone, together = alone[WARM_UP:], together[WARM_UP:]
    ratio = float(np.median(together) / np.median(alone))
    figures = {
        "images": one.collection.snapshot.images,
        "segments": len(one.collection.state.segments),
        "workers": where,
        "cores": joblib.cpu_count(),
        "queries": len(alone),
        "connecting and opening, seconds": connecting,
        "round trip to all workers, ms": record.spread([1e3 * trip for trip in trips]),
        "round trip of tasks, ms": record.spread([1e3 * trip for trip in tasks]),
        "questions to every worker in a search": steps,
        "one process, ms": record.spread([1e3 * seconds for seconds in alone]),
        "workers, ms": record.spread([1e3 * seconds for seconds in together]),
        "times the seconds of one process": ratio,
        "largest difference of scores": furthest,
        "names equal": same,
    }
    bars = {
        f"at most {BAR} times one process": ratio <= BAR,
        "the same names": same,
        f"scores within {EQUAL}": furthest <= EQUAL,
    }
    of = f"a search among {one.collection.snapshot.images:,} images, by {where}"
    measures = [record.Measure(of, "seconds", together, "one process", alone, joblib.cpu_count())]
    return record.report("spread", figures, arguments.json, bars, measures)


def round_trips(retriever: Retriever) -> list[float]:
    """Seconds until all workers have answered that they are there."""
    spread = retriever._workers.spread
    assert spread is not None
    times = []
    for _ in range(ROUND_TRIPS):
        start = time.perf_counter()
        spread.answers(range(len(spread.parts)), "ready")
        times.append(time.perf_counter() - start)
    return times


def round_trips_of_tasks(retriever: Retriever) -> list[float]:
    """Seconds until the scheduler's tasks that do nothing, one for each worker, are done."""
    spread = retriever._workers.spread
    assert spread is not None
    connection, times = spread.cluster.connection, []
    for _ in range(ROUND_TRIPS):
        start = time.perf_counter()
        tasks = [connection.client.submit(abs, -1, workers=[one], pure=False) for one in connection.addresses()]
        connection.client.gather(tasks)
        times.append(time.perf_counter() - start)
    return times


def count_steps(retriever: Retriever) -> int:
    """How often a default search asks every worker."""
    spread = retriever._workers.spread
    assert spread is not None
    counted, answers = 0, spread.answers

    @functools.wraps(answers)
    def counting(*given: object) -> object:
        nonlocal counted
        counted += 1
        return answers(*given)  # type: ignore[arg-type]

    spread.answers = counting  # type: ignore[method-assign, assignment]
    try:
        retriever.query(retriever.collection.names[0])
    finally:
        del spread.answers
    return counted


if __name__ == "__main__":
    sys.exit(main())
