"""The command line as the tests call it."""

from retrieval.commands import cli


def run(capsys, *arguments):
    """The exit code, what was printed, and what went to stderr."""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def error_line(err):
    """The one line that says what is wrong."""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in err
    return lines[0]
