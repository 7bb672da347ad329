"""The `weights` verb of the `hardnet` command."""

import argparse
import json
from typing import Any

from hardnet.weights import table

_WEIGHTS_HELP = """\
Lists the named weights and which of them are at hand, or fetches one.
Published files lie in $HARDNET_WEIGHTS, else ~/.cache/hardnet; they may be put there by hand."""

_WEIGHTS_EXAMPLES = """\
examples:
  hardnet weights                        the table, with the path of each file that is at hand
  hardnet weights --json                 the same for programs
  hardnet weights --download hardnet++   fetch one into the cache folder"""


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the verb."""
    listing = verbs.add_parser(
        "weights",
        help="list or fetch named weights",
        description=_WEIGHTS_HELP,
        epilog=_WEIGHTS_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    listing.add_argument("--json", action="store_true", help="print JSON instead of a table")
    listing.add_argument("--download", metavar="NAME", help="fetch this one and print its path")
    listing.set_defaults(run=_weights)


def _weights(arguments: argparse.Namespace) -> int:
    if arguments.download:
        path = str(table.download(arguments.download))
        print(json.dumps({"name": arguments.download, "path": path}) if arguments.json else path)
        return 0
    rows = [_row(row) for row in table.TABLE.values()]
    if arguments.json:
        print(json.dumps({"weights": rows}, indent=1))
        return 0
    for row in rows:
        if row["available"]:
            state = row["path"] or "needs no weights"
        else:
            state = "not downloaded" if row["url"] else "not part of this version"
        print(f"{row['name']:<20}{row['network']:<10}{row['licence']:<13}{state}")
        if row["url"]:
            print(f"{'':<20}{row['url']}")
            print(f"{'':<20}sha256 {row['sha256'] or 'not known: recorded at the first download'}")
            if not row["verified"]:
                print(f"{'':<20}not verified against the published file")
        if row["note"]:
            print(f"{'':<20}{row['note']}")
    return 0


def _row(row: table.NamedWeights) -> dict[str, Any]:
    """One row for output; `path` is where the file lies or has to be put."""
    path = table.location(row.name)
    return {
        "name": row.name,
        "network": row.network,
        "available": path is None or path.is_file(),
        "path": None if path is None else str(path),
        "url": row.url or None,
        "sha256": row.sha256,
        "licence": row.licence,
        "citation": row.citation,
        "verified": row.verified,
        "note": row.note or None,
    }
