"""The connection to a Dask cluster that was started elsewhere or, for ``local:4``, is started on this machine."""

import asyncio
import contextlib
import logging
import re
import signal
import threading
from collections.abc import Iterator

import dask
import distributed
import joblib

from retrieval.errors import ClusterError

logger = logging.getLogger(__name__)

REACHED = 6.0  # seconds until a scheduler has to answer, and to have a worker
_LOCAL = "local"
_ADDRESS = re.compile(r"(tcp|tls)://([^/:\s]+|\[[0-9a-fA-F:.]+\]):\d+")


class Connection:
    """A scheduler and its workers.

    Args:
        client: connected.
        address: as the user named it.
        local: what was started for it here, and is ended with it.
    """

    def __init__(self, client: "distributed.Client", address: str, local: "distributed.LocalCluster | None" = None):
        self.client = client
        self.address = address
        self._local = local
        self._wanted = 0 if local is None else len(local.workers)

    @classmethod
    def open(cls, address: str) -> "Connection":
        """Connects to a scheduler, or starts one with workers here.

        Args:
            address: ``tcp://host:port``, ``tls://host:port`` (with dask's settings of certificates), or ``local:4``.

        Raises:
            ClusterError: no such scheduler, or no workers.
        """
        if not logger.isEnabledFor(logging.DEBUG):
            _silence()
        kind, _, rest = address.partition(":")
        local = None
        if kind == _LOCAL:
            try:
                local = _start(address, rest)
            except (OSError, RuntimeError, TimeoutError) as error:
                raise ClusterError(f"{address}: workers cannot be started here ({told(error)})") from error
        elif not _ADDRESS.fullmatch(address):
            raise ClusterError(f"scheduler {address}: expected tcp://HOST:PORT, tls://HOST:PORT or local:NUMBER")
        try:
            client = _client(address, local)
            connection = cls(client, address, local)
        except BaseException:
            if local is not None:
                local.close()
            raise
        try:
            connection._require_workers()
        except BaseException:
            connection.close()
            raise
        logger.info("connected to %d workers of %s", connection.workers, address)
        return connection

    @property
    def connected(self) -> bool:
        """Whether there is a scheduler, or one that went lately and may come back."""
        return self.client.status in ("running", "connecting")

    @property
    def workers(self) -> int:
        """How many there are now."""
        return len(self.addresses())

    def addresses(self) -> list[str]:
        """The workers that there are now."""
        with self.reached():
            return sorted(self.client.nthreads())

    def seen(self) -> dict[str, float]:
        """The workers that there are now, and when the scheduler last heard from each, in seconds by its clock."""
        with self.reached():
            workers = self.client.scheduler_info(n_workers=-1)["workers"]
        return {address: float(worker["last_seen"]) for address, worker in workers.items()}

    def close(self) -> None:
        """Ends the connection, and what was started here."""
        if self.client.asynchronous:  # by the thread of the event loop, which would wait for itself
            threading.Thread(target=self._close).start()
        else:
            self._close()

    def _close(self) -> None:
        with contextlib.suppress(Exception):
            self.client.close(timeout=REACHED)
        if self._local is not None:
            with contextlib.suppress(Exception):
                self._local.close(timeout=REACHED)

    def mend(self) -> None:
        """Starts workers of this machine anew that are not started again by themselves, as they died on starting."""
        if self._local is not None and len(self._local.workers) < self._wanted:
            with contextlib.suppress(Exception):  # it is tried again
                self._local.scale(self._wanted)

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        """Something is asked of the scheduler.

        Raises:
            ClusterError: it has gone.
        """
        try:
            yield
        except (OSError, TimeoutError, asyncio.CancelledError) as error:
            raise ClusterError(self.gone()) from error

    def gone(self) -> str:
        """What is said when the scheduler has gone."""
        return f"the scheduler {self.address} has gone: start it and its workers, and run the same command again"

    def _require_workers(self) -> None:
        try:
            self.client.wait_for_workers(1, timeout=REACHED)
        except TimeoutError as error:
            raise ClusterError(
                f"the scheduler {self.address} has no workers: start some, for example "
                f"`dask worker {self.address} --nworkers 4 --nthreads 1`"
            ) from error


def _silence() -> None:
    """What matters of what distributed has to say is told here, in a line."""
    for name in ["distributed", "asyncio", *logging.root.manager.loggerDict]:
        if name.split(".")[0] in ("distributed", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _start(address: str, number: str) -> "distributed.LocalCluster":
    """Workers on this machine, each a process."""
    if number and not (number.isdecimal() and int(number)):
        raise ClusterError(f"scheduler {address}: expected local:NUMBER of workers, for example local:4")
    # nobody looks at its samples, and taking them is much of what workers do that have nothing to do
    with dask.config.set({"distributed.worker.profile.enabled": False}):
        return distributed.LocalCluster(
            n_workers=int(number) if number else joblib.cpu_count(),
            threads_per_worker=1,
            processes=True,
            memory_limit=None,  # files that are mapped would count
            dashboard_address="127.0.0.1:0",  # of None, distributed takes one that others on this machine may have
            host="127.0.0.1",
            silence_logs=logging.CRITICAL,
            preload=[__name__],
        )


def dask_setup(worker: "distributed.Worker") -> None:
    """In a worker of this machine, which Dask calls by this name: Ctrl-C in a terminal is for all, and its parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _client(address: str, local: "distributed.LocalCluster | None") -> "distributed.Client":
    security = _certificates(address) if address.startswith("tls") else None
    try:
        return distributed.Client(
            address if local is None else local, timeout=REACHED, set_as_default=False, security=security
        )
    except (OSError, TimeoutError, ValueError, ImportError, RuntimeError) as error:
        raise ClusterError(
            f"the scheduler {address} cannot be reached ({told(error)}): start one with `dask scheduler`, and see "
            f"that nothing is between{'' if security else ', and whether it takes tls:// alone'}"
        ) from error


def _certificates(address: str) -> "distributed.Security":
    """Dask's settings of TLS; looked at first, as a client that cannot begin takes seconds to end.

    Raises:
        ClusterError: there are none, or the files cannot be read.
    """
    security = distributed.Security(require_encryption=True)
    try:
        context = security.get_connection_args("client")["ssl_context"]
    except OSError as error:
        raise ClusterError(
            f"scheduler {address}: the certificates of dask's settings for TLS: {told(error)}"
        ) from error
    if context is None:
        raise ClusterError(
            f"scheduler {address}: TLS takes certificates, which dask's settings name: distributed.comm.tls.ca-file, "
            "client.cert and client.key (docs/scaling.md)"
        )
    return security


def told(error: BaseException) -> str:
    """An exception in one line."""
    return " ".join(str(error).split()) or type(error).__name__
