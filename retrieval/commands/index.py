"""``retrieval index | add | remove | compact | check | info``: an index is made, changed and looked after."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval import config as settings_module
from retrieval.commands.shared import (
    SOME_FAILED,
    add_no_signatures,
    add_scheduler,
    add_settings,
    add_verb,
    chosen_config,
    shown,
    without_signatures,
)
from retrieval.errors import RetrievalError
from retrieval.features.store import FAILED, Failure
from retrieval.search.grades import WITHOUT

if TYPE_CHECKING:
    from retrieval.index.opened import OpenedIndex

_TOLD = 20  # most photographs that are named one by one
_NAMED = 3  # in a line
FEW = WITHOUT.sure  # features; with fewer a photograph cannot be called very likely the same, whatever it matches


def add_parser(verbs: Any) -> None:
    """Adds the verbs.

    Args:
        verbs: what `ArgumentParser.add_subparsers` returned.
    """
    index = add_verb(
        verbs,
        "index",
        _index,
        "Index a folder of photographs.",
        "retrieval index holidays/ -o holidays.index --set vocabulary.words=20000",
        "retrieval index covers/ -o covers.index --config objects",
        "retrieval index church/ -o church.index --features database.db",
        "retrieval index /shared/archive -o /shared/archive.index --scheduler tcp://10.0.0.1:8786",
        "retrieval index s3://bucket/holidays -o holidays.index",
    )
    index.set_defaults(goes_on=True)
    index.add_argument(
        "photos", help="folder of photographs, searched recursively; also an address: s3://BUCKET/FOLDER, gs://, az://"
    )
    index.add_argument("-o", "--output", type=Path, required=True, metavar="INDEX", help="index folder to create")
    index.add_argument(
        "--vocabulary",
        type=Path,
        metavar="VOCAB",
        help="vocabulary folder; without it one is trained on the photographs themselves or, where they are few, "
        "the one that comes with this program is used",
    )
    index.add_argument(
        "--features",
        type=Path,
        metavar="SOURCE",
        help="take another program's features instead of making some: a database of COLMAP's, features.h5 of hloc's, "
        "or a folder of .npy files; such an index is searched by the names of its photographs",
    )
    add_no_signatures(index)
    add_settings(index)
    add_scheduler(index)

    add = add_verb(
        verbs,
        "add",
        _add,
        "Add photographs to an index. Those whose content is in it already are left out.",
        "retrieval add holidays.index holidays/2026 tower.jpg",
        "retrieval add holidays.index s3://bucket/2026",
    )
    add.set_defaults(goes_on=True)
    add.add_argument("index", type=Path, help="the index's folder")
    add.add_argument(
        "photos", nargs="+", metavar="PHOTO|FOLDER", help="folders are searched recursively; addresses as for index"
    )
    add.add_argument(
        "--replace", action="store_true", help="a photograph takes the place of one of its name with other content"
    )
    add.add_argument(
        "--prefix",
        default="",
        help="put before the names of photographs that lie elsewhere than those of the index, for example 2026/",
    )
    add.add_argument("--json", action="store_true", help="print one JSON object")
    add_settings(add, with_config=False)
    add_scheduler(add)

    remove = add_verb(
        verbs,
        "remove",
        _remove,
        "Remove photographs from an index, by name or pattern. The files stay where they are.",
        "retrieval remove holidays.index 2019/tower.jpg",
        "retrieval remove holidays.index '2018/*' --dry-run",
    )
    remove.add_argument("index", type=Path, help="the index's folder")
    remove.add_argument(
        "names", nargs="+", metavar="NAME|GLOB", help="* stands for any characters, also across folders; quote it"
    )
    remove.add_argument("--dry-run", action="store_true", help="only print what would be removed")
    remove.add_argument("--json", action="store_true", help="print one JSON object")

    compact = add_verb(
        verbs,
        "compact",
        _compact,
        "Merge the parts that additions left and give back the space of what was removed.",
        "retrieval compact holidays.index",
        "retrieval compact holidays.index --segments 4",
    )
    compact.add_argument("index", type=Path, help="the index's folder")
    compact.add_argument(
        "--segments",
        type=int,
        metavar="N",
        help="make N segments of about the same size, for N workers to search them (--scheduler); without it one",
    )

    check = add_verb(
        verbs,
        "check",
        _check,
        "Compare everything stored in an index with its checksums and rules.",
        "retrieval check holidays.index",
        "retrieval check holidays.index --repair",
    )
    check.add_argument("index", type=Path, help="the index's folder")
    check.add_argument("--repair", action="store_true", help="remove what stopped commands left")
    check.add_argument("--json", action="store_true", help="print one JSON object")

    info = add_verb(verbs, "info", _info, "Describe an index.", "retrieval info holidays.index --json")
    info.add_argument("index", type=Path, help="the index's folder")
    info.add_argument("--names", action="store_true", help="also list the names of the photographs")
    info.add_argument("--json", action="store_true", help="print one JSON object")


def _index(arguments: argparse.Namespace) -> int:
    from retrieval.evaluation import pipeline
    from retrieval.photographs.folder import list_images

    config = without_signatures(arguments, chosen_config(arguments))
    images = list_images(arguments.photos, config.images)
    collection, failures = pipeline.build_collection(
        images, arguments.output, config, arguments.vocabulary, arguments.features
    )
    print(
        f"{arguments.output}: {collection.snapshot.images} photographs, {collection.features} features, "
        f"{len(collection.vocabulary.centroids)} words"
    )
    _tell_of_few(_few(collection))
    return _told(failures, arguments.output)


def _add(arguments: argparse.Namespace) -> int:
    from retrieval.index.changes import add
    from retrieval.index.collection import Collection

    fixed = [text for text in arguments.overrides if text.split(".")[0] not in ("parallel", "descriptor")]
    if fixed:
        raise RetrievalError(f"--set {fixed[0]}: photographs are added as the index was made; see `retrieval info`")
    config = settings_module.load(None, arguments.overrides, base=Collection.open(arguments.index).config)
    done = add(arguments.index, arguments.photos, config=config, replace=arguments.replace, prefix=arguments.prefix)
    if arguments.json:
        facts = {
            "index": str(arguments.index),
            "images": done.collection.snapshot.images,
            "added": list(done.names),
            "replaced": list(done.replaced),
            "removed": list(done.removed),
            "known": [{"path": str(path), "name": name} for path, name in done.known],
            "failed": [{"name": failure.name, "reason": failure.reason} for failure in done.failures],
            "few_features": [{"name": name, "features": count} for count, name in _few(done.collection, done.names)],
        }
        print(json.dumps(facts))
        return SOME_FAILED if done.failures else 0
    others = [(path, name) for path, name in done.known if done.collection.path(name) != path.absolute()]
    for path, name in others[:_TOLD]:
        print(f"{shown(path)} is in the index already as {shown(name)}")
    if len(others) > _TOLD:
        print(f"... and {len(others) - _TOLD} more that are in the index already under another name")
    replaced = f", {len(done.replaced)} replaced" if done.replaced else ""
    removed = f", {len(done.removed)} removed" if done.removed else ""
    print(
        f"{arguments.index}: {_photographs(len(done.names) - len(done.replaced))} added{replaced}{removed}, "
        f"{len(done.known)} there already, "
        f"{len(done.failures)} failed; {done.collection.snapshot.images} in all"
    )
    _tell_of_few(_few(done.collection, done.names))
    return _told(done.failures, done.collection.folder)


def _remove(arguments: argparse.Namespace) -> int:
    from retrieval.index.changes import remove

    names = remove(arguments.index, arguments.names, dry_run=arguments.dry_run)
    if arguments.json:
        print(json.dumps({"index": str(arguments.index), "removed": list(names), "dry_run": arguments.dry_run}))
        return 0
    if arguments.dry_run:
        for name in names:
            print(shown(name))
    what = "would be removed" if arguments.dry_run else "removed"
    print(f"{arguments.index}: {_photographs(len(names))} {what}")
    return 0


def _compact(arguments: argparse.Namespace) -> int:
    from retrieval.index.collection import Collection

    collection = Collection.open(arguments.index)
    before, after = collection.info(), collection.compact(arguments.segments).info()
    segments = f"{before['segments']} segment{'' if before['segments'] == 1 else 's'}"
    if after["generation"] == before["generation"]:
        print(f"{arguments.index} is compact already" + ("" if arguments.segments is None else f": {segments}"))
        return 0
    segments = f"{segments} -> {after['segments']}"
    print(
        f"{arguments.index}: {segments}, {before['removed']} removed images forgotten, "
        f"{before['bytes'] / 1e6:.1f} -> {after['bytes'] / 1e6:.1f} MB"
    )
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from retrieval.index.checking import check

    report = check(arguments.index, arguments.repair)
    if arguments.json:
        facts = {
            "index": str(arguments.index),
            "problems": list(report.problems),
            "leftovers": list(report.leftovers),
            "repaired": report.repaired,
            "arrays": report.arrays,
        }
        print(json.dumps(facts))
        return 2 if report.problems else 0
    for problem in report.problems:
        print(f"damaged: {problem}", file=sys.stderr)
    for path in report.leftovers:
        print(f"{'removed' if report.repaired else 'left over by a stopped (or a running) command'}: {shown(path)}")
    if report.leftovers and not report.repaired:
        print("--repair removes what is left over; an addition that was stopped is finished by the same command")
    if report.problems:
        found = "1 problem" if len(report.problems) == 1 else f"{len(report.problems)} problems"
        print(
            f"{arguments.index}: {found}; damage cannot be repaired: restore the index from a copy, or make it anew "
            "from the photographs",
            file=sys.stderr,
        )
        return 2
    print(f"{arguments.index}: {report.arrays} arrays as they were written, all rules kept")
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from retrieval.index.collection import Collection

    collection = Collection.open(arguments.index)
    facts = collection.info()
    if arguments.names:
        facts["names"] = list(collection.names)
    if arguments.json:
        print(json.dumps(facts))
        return 0
    per_image = facts["features_per_image"]
    signatures = ", ".join(facts["signatures"]) or "none"
    rows = {
        "index": f"{facts['index']} (format {facts['format']}, {facts['written_by']})",
        "photographs": f"{facts['images']} of {shown(facts['photographs'])}",
        "without features": facts["without_features"],
        "failed": f"{facts['failed']} (see {FAILED})" if facts["failed"] else 0,
        "removed": f"{facts['removed']} (`retrieval compact` gives their space back)" if facts["removed"] else 0,
        "features": f"{facts['features']}; {per_image['min']} to {per_image['max']} a photograph, median "
        f"{per_image['median']:.0f}",
        "words": facts["words"],
        "descriptor": f"{facts['descriptor']}, described in {facts['precision']}",
        "signatures": signatures,
        "segments": facts["segments"],
        "size": f"{facts['bytes'] / 1e6:.1f} MB in all, {facts['bytes_per_feature']} bytes a feature",
    }
    for key, value in rows.items():
        print(f"{key:<17} {value}")
    print("settings that differ from those of the published experiments:")
    for line in settings_module.differences(facts["config"]) or ["none"]:
        print(f"  {line}")
    for name in facts.get("names", ()):
        print(shown(name))
    return 0


def _few(collection: "OpenedIndex", names: Sequence[str] | None = None) -> list[tuple[int, str]]:
    """Photographs, of some or all, with fewer than `FEW` features: how many, and the name; the fewest first."""
    counts, asked = collection.snapshot.counts, None if names is None else set(names)
    ids = (counts < FEW).nonzero()[0]
    found = zip(counts[ids].tolist(), collection.names_of(ids), strict=True)
    return sorted(one for one in found if asked is None or one[1] in asked)


def _tell_of_few(few: Sequence[tuple[int, str]]) -> None:
    """A line about photographs that will hardly be found, with those that have the fewest features."""
    if not few:
        return
    named = ", ".join(f"{shown(name)} {count}" for count, name in few[:_NAMED]) + (", ..." if few[_NAMED:] else "")
    print(
        f"{_photographs(len(few))} with fewer than {FEW} features will hardly be found ({named}): small, blurred, "
        "faint or plain ones have few, and a larger or clearer copy has more"
    )


def _told(failures: Sequence[Failure], index: Path) -> int:
    """Counts photographs that could not be used; the exit code that goes with it. The log has named each."""
    if not failures:
        return 0
    files = "1 file" if len(failures) == 1 else f"{len(failures)} files"
    print(f"{files} could not be used, see {index / FAILED}", file=sys.stderr)
    return SOME_FAILED


def _photographs(count: int) -> str:
    return f"{count} photograph{'' if count == 1 else 's'}"
