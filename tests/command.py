"""The command line as the tests call it."""

import contextlib
import signal
from pathlib import Path

from retrieval.commands import cli


def run(capsys, *arguments):
    """The exit code, what was printed, and what went to stderr."""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def interruptible():
    """For `preexec_fn`: a child that Ctrl-C reaches, also where the tests run in the background of a script."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def children_of(process):
    """The processes that this one started, in whatever session they are."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(entry.name))
    return sorted(found)


def state_of(process):
    """A letter, as "T" of one that was stopped; None of one that there is not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return None


def alive(process):
    """Whether it has not ended; one that has may stay in the list, where nobody asks after it."""
    return state_of(process) not in (None, "Z")


def error_line(err):
    """The one line that says what is wrong."""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in err
    return lines[0]
