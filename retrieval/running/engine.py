"""Where work is done: by processes of this machine (joblib's) or by the workers of a Dask cluster; one interface.

Work is named by shards, and what comes out of a shard does not depend on who makes it. Workers write shards of their
own (`retrieval.storage.delivery`), and the process that asked for them puts them into place: a worker that is lost
costs the shard that it was at.
"""

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from retrieval.errors import ClusterError
from retrieval.running import processes

if TYPE_CHECKING:
    from retrieval.running.cluster import Cluster

Item = TypeVar("Item")


class Engine(Protocol):
    """Does tasks on items."""

    @property
    def elsewhere(self) -> bool:
        """Whether other machines may do it: they share folders, and nothing else."""

    def jobs(self, items: int) -> int:
        """How many of so many items are done at once, at least 1."""

    def require(self, check: Callable[..., str | None], *arguments: Any) -> int:
        """Has all workers that there are check something before work begins.

        Args:
            check: returns what is wrong, or None; picklable, as its arguments.
            arguments: of it.

        Returns:
            How many workers have checked it.

        Raises:
            ClusterError: something is wrong with a worker, or it does not answer.
        """

    def listening(self, heard: Callable[..., None]) -> contextlib.AbstractContextManager[str]:
        """Calls a function with what workers tell (`retrieval.running.cluster.tell`) of a topic, which is yielded."""

    def completed(
        self, task: Callable[[Item], Any], items: Sequence[Item], named: Sequence[str], sure: bool = True
    ) -> Generator[tuple[int, Any], None, None]:
        """What a task makes of items, as they come.

        Args:
            task: takes an item; picklable. An exception that it raises is raised here.
            items: picklable.
            named: what each of them is called, for those who look at the workers.
            sure: whether a `processes.Death` has to be the item's own doing; otherwise others were at work as well.

        Yields:
            The number of an item and the task's result for it, or a `processes.Death` where it kills what works at it.

        Raises:
            processes.WorkersDieError: one process after another died.
            ClusterError: the workers cannot be reached any more, or are not fit for it.
        """


@dataclass(frozen=True)
class Processes:
    """Processes of this machine.

    Attributes:
        most: joblib's n_jobs: -1 = one for each core; 1 = everything in this process.
    """

    most: int

    @property
    def elsewhere(self) -> bool:
        """Nothing is done elsewhere."""
        return False

    def jobs(self, items: int) -> int:
        """See `Engine.jobs`."""
        return processes.effective_jobs(self.most, items)

    def require(self, check: Callable[..., str | None], *arguments: Any) -> int:
        """See `Engine.require`; processes to come are as this one."""
        wrong = check(*arguments)
        if wrong is not None:
            raise ClusterError(wrong)
        return 1

    @contextlib.contextmanager
    def listening(self, heard: Callable[..., None]) -> Iterator[str]:
        """See `Engine.listening`; processes of this machine tell nothing before they are done."""
        yield ""

    def completed(
        self, task: Callable[[Item], Any], items: Sequence[Item], named: Sequence[str] = (), sure: bool = True
    ) -> Generator[tuple[int, Any], None, None]:
        """See `Engine.completed`; in the order of the items."""
        with contextlib.closing(processes.results(task, items, self.jobs(len(items)))) as results:
            yield from enumerate(results)


def in_order(results: Iterator[tuple[int, Any]]) -> Generator[Any, None, None]:
    """What `Engine.completed` gives, in the order of the items: what comes early waits."""
    early: dict[int, Any] = {}
    expected = 0
    for number, result in results:
        early[number] = result
        while expected in early:
            yield early.pop(expected)
            expected += 1


_opened: "dict[str, tuple[Cluster, int]]" = {}  # clusters by address, with how many use them
_opening = threading.RLock()


@contextlib.contextmanager
def working(scheduler: str | None, jobs: int) -> Iterator[Engine]:
    """The engine of a setting, while the block runs. A cluster that a block around this one uses is the same one.

    Args:
        scheduler: ``tcp://host:port`` or ``tls://host:port`` of a Dask scheduler, ``local:4`` for so many workers on
            this machine, or None.
        jobs: of `Processes`, where there is no scheduler.

    Raises:
        ClusterError: it cannot be reached, has no workers, or workers of another version; or dask is not installed.
    """
    if scheduler is None:
        yield Processes(jobs)
        return
    with connected(scheduler) as cluster:
        if not cluster.compared:
            cluster.require_versions()
        yield cluster


def require_dask() -> None:
    """To be called before a module is imported that takes it: `retrieval.running.cluster` and what searches by it.

    Raises:
        ClusterError: it is not installed.
    """
    try:
        import distributed  # noqa: F401
    except ImportError as missing:
        raise ClusterError(
            f"work on a scheduler takes dask ({missing}): pip install 'hardnet-retrieval[dask]'"
        ) from missing


@contextlib.contextmanager
def connected(scheduler: str) -> "Iterator[Cluster]":
    """As `working`, of a scheduler, for who compares its workers himself: some may not answer.

    Raises:
        ClusterError: it cannot be reached, or has no workers; or dask is not installed.
    """
    require_dask()
    from retrieval.running.cluster import Cluster
    from retrieval.running.connection import Connection

    with _opening:
        cluster, users = _opened.get(scheduler, (None, 0))
        if cluster is not None and not cluster.connection.connected:  # for good: others who have it notice themselves
            cluster.close()
            cluster, users = None, 0
        if cluster is None:
            cluster = Cluster(Connection.open(scheduler))
        _opened[scheduler] = cluster, users + 1
    try:
        yield cluster
    finally:
        with _opening:
            current, users = _opened.get(scheduler, (None, 0))
            if current is cluster and users > 1:
                _opened[scheduler] = cluster, users - 1
            elif current is cluster:
                del _opened[scheduler]
                cluster.close()
