"""What all commands share: how a verb is declared, ``--log-level``, ``--config`` and ``--set``, and the exit codes.

0 fine; 1 some photographs failed, they are listed; 2 wrong use or damaged data, one line on stderr says what happened
and what to do; 130 interrupted, 143 terminated.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hardnet
from retrieval import config as settings_module
from retrieval.config import Config, IndexConfig, ParallelConfig
from retrieval.errors import RetrievalError
from retrieval.photographs.addresses import require_local
from retrieval.running import interrupts, limits

Command = Callable[[argparse.Namespace], int]
SOME_FAILED = 1
PHOTOGRAPHS = "buildings"
"""The shipped configuration of indexes for which nobody names one: what is known to find most for its time."""


def add_verb(verbs: Any, name: str, command: Command, summary: str, *examples: str) -> argparse.ArgumentParser:
    """Declares a verb, with ``--log-level`` and examples in its help.

    Args:
        verbs: what `ArgumentParser.add_subparsers` returned.
        name: on the command line.
        command: gets the parsed arguments and returns the exit code. A parser of long work that can be taken up again
            says so with ``set_defaults(goes_on=True)``.
        summary: one sentence or more.
        examples: command lines.
    """
    parser = verbs.add_parser(
        name,
        help=summary,
        description=summary,
        epilog="\n  ".join(["examples:" if len(examples) > 1 else "example:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    assert isinstance(parser, argparse.ArgumentParser)
    add_common(parser)
    parser.set_defaults(command=command)
    return parser


def run_command(command: Command, arguments: argparse.Namespace) -> int:
    """Runs a command function with logging set up, and turns errors into one line and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names may hold bytes that are not text
    logging.basicConfig(
        level=arguments.log_level.upper(), format="%(levelname)s: %(message)s", stream=sys.stderr, force=True
    )
    limits.raise_open_files()
    try:
        _require_local(arguments)
        with interrupts.terminable():
            return command(arguments)
    except (RetrievalError, hardnet.HardnetError) as error:
        print(f"error: {error}", file=sys.stderr)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt as interrupt:
        return interrupts.stopped(interrupt, getattr(arguments, "goes_on", False))
    return 2


def _require_local(arguments: argparse.Namespace) -> None:
    """Refuses addresses in stores for all arguments that are paths; those of photographs, which may, are text."""
    for name, value in vars(arguments).items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Path):
                require_local(one, name)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Options that every command has."""
    parser.add_argument(
        "--log-level", default="info", choices=("debug", "info", "warning", "error"), help="default: info"
    )


def add_settings(parser: argparse.ArgumentParser, with_config: bool = True) -> None:
    """``--config`` and ``--set``; with both, `chosen_config` reads them."""
    if with_config:
        parser.add_argument(
            "--config",
            metavar="FILE",
            help="YAML configuration, or the name of a shipped one, such as objects (a file of that name: ./objects); "
            f"it says all that is not as in the published experiments. Without it {PHOTOGRAPHS} or, with a vocabulary, "
            "regions and descriptors as its words were learned from (compact words say the descriptor alone)",
        )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override one setting, for example detector.threshold=4 (repeatable)",
    )


def chosen_config(arguments: argparse.Namespace, *further: str) -> Config:
    """What ``--config`` and ``--set`` say; see `add_settings` for what they leave open.

    Args:
        arguments: with `config`, `overrides` and perhaps a `vocabulary`.
        further: overrides.
    """
    overrides = [*arguments.overrides, *further]
    if arguments.config is not None:
        return settings_module.load(arguments.config, overrides)
    base, words = settings_module.load(PHOTOGRAPHS), getattr(arguments, "vocabulary", None)
    if words is None:
        return settings_module.load(None, overrides, base=base)

    from retrieval.vocabulary.store import open_vocabulary

    config = settings_module.load(
        None, overrides, base=settings_module.described_as(base, open_vocabulary(words).settings)
    )
    for key, weights in settings_module.weights_of(config).items():
        if Path(weights).suffix and not Path(weights).is_file():  # of what a file is called, its folder is not kept
            raise RetrievalError(
                f"the words of {words} were learned with weights in a file {weights}: say where it lies, "
                f"with --set {key}=PATH"
            )
    return config


def add_scheduler(parser: argparse.ArgumentParser, searches: bool = False) -> None:
    """``--scheduler``, and of verbs that search ``--wait``: shorthand for ``--set parallel.scheduler=...``.

    Args:
        parser: that has `add_settings` too, whose overrides it adds to.
        searches: the verb searches an index.
    """
    what = (
        "let the workers of a Dask scheduler search, each a part of the index's segments: retrieval compact INDEX "
        "--segments 4 makes parts for four of them"
        if searches
        else "have the work done by the workers of a Dask scheduler, which see the same folders under the same paths"
    )
    parser.add_argument(
        "--scheduler",
        action=_Setting,
        key="parallel.scheduler",
        text=True,
        metavar="ADDRESS|local:N",
        help=f"{what}; for example tcp://10.0.0.1:8786, tls://10.0.0.1:8786, or local:4 for four processes of this "
        "machine; needs the extra dask",
    )
    if searches:
        parser.add_argument(
            "--wait",
            action=_Setting,
            key="parallel.wait",
            metavar="SECONDS",
            help="with --scheduler: how long each step of a search waits for a part of the index, before it goes on "
            f"without it and says so (default {ParallelConfig().wait:g}; none: as long as it takes)",
        )


class _Setting(argparse.Action):
    """An option that stands for a setting."""

    def __init__(self, *arguments: Any, key: str, text: bool = False, **options: Any):
        super().__init__(*arguments, **options)
        self.key, self.text = key, text  # what is text is not read as YAML

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Adds to the overrides."""
        text = str(values).strip()
        if not text:
            raise argparse.ArgumentError(self, "expected a value")
        setattr(namespace, self.dest, values)
        value = "null" if text.lower() == "none" else json.dumps(text) if self.text else text
        override = f"{self.key}={value}"
        try:
            settings_module.load(None, [override])
        except RetrievalError as error:
            raise argparse.ArgumentError(self, str(error)) from error
        namespace.overrides = [*(namespace.overrides or []), override]


def add_no_signatures(parser: argparse.ArgumentParser) -> None:
    """``--no-signatures``, of the verbs that make an index or plan one."""
    parser.add_argument(
        "--no-signatures",
        action="store_true",
        help="keep no signatures: 19 bytes a feature instead of 35, and searches by words and geometry alone",
    )


def without_signatures(arguments: argparse.Namespace, config: Config) -> Config:
    """The configuration, without signatures where ``--no-signatures`` says so.

    Raises:
        RetrievalError: the settings ask for some.
    """
    if not arguments.no_signatures:
        return config
    if config.index.signatures not in ((), IndexConfig().signatures):
        raise RetrievalError(
            f"--no-signatures, and index.signatures=[{','.join(config.index.signatures)}]: leave one of them out"
        )
    return replace(config, index=replace(config.index, signatures=()))


class Listed(argparse.Action):
    """An option of several values that may be parted by spaces or commas.

    What is a file, or a path with a folder in it, is one value, whatever commas it holds.
    """

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Takes the values apart."""
        parts = [[value] if os.sep in value or os.path.exists(value) else value.split(",") for value in values]
        found = [part for several in parts for part in several if part]
        if not found:
            raise argparse.ArgumentError(self, f"expected names, got {' '.join(values)!r}")
        setattr(namespace, self.dest, found)


def open_retriever(arguments: argparse.Namespace) -> Any:
    """The retriever of ``arguments.index``, with ``--set`` applied to the index's own configuration."""
    from retrieval.search.retriever import Retriever

    retriever = Retriever.open(arguments.index)
    if arguments.overrides:
        config = settings_module.load(None, arguments.overrides, base=retriever.config)
        retriever = Retriever(retriever.collection, config)
    if getattr(arguments, "wait", None) is not None and retriever.config.parallel.scheduler is None:
        raise RetrievalError("--wait says how long workers are waited for: name their --scheduler, too")
    return retriever


def shown(text: object) -> str:
    """A name as one line that can be printed, whatever characters are in it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
