"""Memory that a step frees is kept for the next one.

A step on CPUs takes and frees gigabytes in large blocks. glibc gives each back to the system as it is freed and gets it
again as pages that the system fills with zeros first: 40 % of the time of HardNet's steps of 512 pairs on two cores.
Such a library is told to keep what it has; others are left as they are.
"""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed_memory() -> bool:
    """From here on this process keeps what it frees, and takes large blocks from there. Whether the library does so."""
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(_M_MMAP_MAX, 0) and library.mallopt(_M_TRIM_THRESHOLD, -1))
