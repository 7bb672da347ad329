"""What the system allows a process, and takes back from it.

Each memory-mapped array keeps its file open, four of them a shard of features.
"""

import contextlib
import ctypes
import functools
import resource

_MOST = 1 << 20  # files; what is called unlimited may be refused
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_KEPT_MEMORY, _LARGE = 256 << 20, 32 << 20  # bytes at the end of the heap that are kept; arrays that lie elsewhere


def raise_open_files() -> None:
    """Lets this process, and those that it starts, have as many open files as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@functools.cache
def keep_memory() -> None:
    """Memory of arrays that were let go stays for those that come: in a worker of Dask's, once.

    Dask has its workers give it back to the system each time (``MALLOC_TRIM_THRESHOLD_``), and to get it anew takes as
    long as a third of a search, or of a photograph. Of other C libraries than GNU's nothing is asked.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        for option, size in ((_TRIM_THRESHOLD, _KEPT_MEMORY), (_MMAP_THRESHOLD, _LARGE)):
            library.mallopt(option, size)
