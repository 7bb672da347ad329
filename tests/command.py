"""The command line as the tests call it."""

import signal

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


def error_line(err):
    """The one line that says what is wrong."""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in err
    return lines[0]
