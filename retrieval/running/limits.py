"""What the system allows a process. Each memory-mapped array keeps its file open, four of them a shard of features."""

import contextlib
import resource

_MOST = 1 << 20  # files; what is called unlimited may be refused


def raise_open_files() -> None:
    """Lets this process, and those that it starts, have as many open files as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
