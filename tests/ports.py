"""Ports for programs that cannot choose one themselves."""

import random
import socket
from pathlib import Path

_CHOSEN = Path("/proc/sys/net/ipv4/ip_local_port_range")  # by the system, for who asks for any


def free_port():
    """One that is free on 127.0.0.1, and that nobody who asks the system for any is given meanwhile."""
    first = int(_CHOSEN.read_text().split()[0]) if _CHOSEN.exists() else 32768
    for port in random.SystemRandom().sample(range(max(1024, first // 2), first), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"100 ports below {first} are taken")
