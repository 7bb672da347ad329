"""Pairs on disk: ``PAIRS/{manifest.json, *.npy}``, links by places in a list of photographs known by name and content.

So it says of any index of the same words which of its photographs have been searched with, whatever was added to it,
removed from it or replaced in it meanwhile.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from retrieval import config as settings_module
from retrieval.config import Config
from retrieval.errors import ArtefactError
from retrieval.index.collection import Collection
from retrieval.index.snapshot import Snapshot
from retrieval.pairs.links import Links
from retrieval.pairs.pair import Pairs
from retrieval.storage import artefacts

KIND, VERSION = "pairs", 1
SUFFIX = ".pairs"


def beside(path: str | Path) -> Path:
    """Where the pairs of an index lie when nobody names another place, and those that a list was written of.

    Example:
        >>> beside("holidays.index").name
        'holidays.index.pairs'
    """
    path = Path(path)
    return path if path.name.endswith(SUFFIX) else path.with_name(path.name + SUFFIX)


def open_pairs(collection: Collection, folder: str | Path) -> Pairs:
    """The pairs in a folder, as far as they are of photographs of the index.

    Args:
        collection: the index.
        folder: from `retrieval.pairs.making.make`.

    Raises:
        ArtefactError: no pairs there, damaged, or of an index of other words or features.
    """
    stored = read(Path(folder))
    config = _config(collection.config, stored.settings)
    stored.require(decided_by(collection, stored.settings["neighbours"], config))
    links, missing, _ = stored.of(collection, identities(collection))
    return Pairs(collection, links, config, collection.names_of(missing))


def checksum(folder: Path) -> str | None:
    """What changes with the pairs in a folder, without reading them; None where there is no such folder.

    Raises:
        ArtefactError: no pairs there.
    """
    return str(artefacts.read_manifest(folder, KIND, VERSION).get("checksum")) if folder.exists() else None


@dataclass(frozen=True, eq=False)
class Stored:
    """What a folder of pairs holds.

    Attributes:
        folder: where it lies.
        settings: from `decided_by`.
        checksum: of its manifest.
        names: (n,) of the photographs that were searched with.
        identities: (n, 32) uint8, from `identities`.
        links: by places in `names`.
    """

    folder: Path
    settings: dict[str, Any]
    checksum: str
    names: tuple[str, ...]
    identities: np.ndarray
    links: Links

    def require(self, settings: Mapping[str, Any]) -> None:
        """Refuses pairs that were made with other settings.

        Raises:
            ArtefactError: naming the first that differs.
        """
        artefacts.require_settings(f"the pairs {self.folder}", self.settings, settings)

    def of(self, collection: Collection, now: np.ndarray) -> tuple[Links, np.ndarray, int]:
        """What it says of an index.

        Args:
            collection: the index.
            now: (m, 32) uint8 `identities` of it.

        Returns:
            links: among photographs that the index has, by image id.
            missing: (k,) int64 image ids that have not been searched with.
            gone: how many photographs the index has not any more, or with other content.
        """
        ids, missing = np.full(len(self.names), -1, np.int32), np.ones(len(now), bool)
        for place, name in enumerate(self.names):
            image_id = collection.ids.get(name)
            if image_id is not None and np.array_equal(now[image_id], self.identities[place]):
                ids[place] = image_id
                missing[image_id] = False
        first, second = ids[self.links.first], ids[self.links.second]
        live = (first >= 0) & (second >= 0)
        links = replace(self.links[live], first=first[live], second=second[live])
        return links, np.flatnonzero(missing), int((ids < 0).sum())


def decided_by(collection: Collection, neighbours: int, config: Config) -> dict[str, Any]:
    """The settings that decide the pairs of some photographs, as JSON values; `verification.depth` does not."""
    index = {key: value for key, value in collection.settings.items() if key != "features"}
    verification = settings_module.to_tree(config.verification)
    del verification["depth"]
    hamming = settings_module.to_tree(config.hamming)
    del hamming["device"], hamming["assignments"]
    settings = {"index": index, "neighbours": neighbours, "verification": verification, "hamming": hamming}
    found: dict[str, Any] = json.loads(json.dumps(settings))
    return found


def identities(collection: Collection) -> np.ndarray:
    """(n, 32) uint8 that tell apart photographs of one name: the sha256 of the file or, unknown, of size and features.

    The file is unknown where features were imported: they may be others another time, and as many.
    """
    contents = collection.state.lines.contents(collection.order)
    rows = [
        bytes.fromhex(content) if content else _features_digest(collection.snapshot, image_id)
        for image_id, content in enumerate(contents)
    ]
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 32)


def _features_digest(snapshot: Snapshot, image_id: int) -> bytes:
    """The sha256 of what verification goes by: a photograph's size, words, regions and, if any, signatures."""
    rows = snapshot.image_rows(image_id)
    arrays = [snapshot.sizes[image_id], snapshot.words_at(rows), snapshot.regions(rows)]
    if snapshot.has_signatures:
        arrays.append(snapshot.signatures_at(rows))
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).digest()


def write(folder: Path, collection: Collection, now: np.ndarray, links: Links, settings: Mapping[str, Any]) -> None:
    """Writes the pairs of an index, whole or not at all."""
    encoded = [name.encode("utf-8", "surrogateescape") for name in collection.names]
    arrays = {
        **links.arrays(),
        "names": np.frombuffer(b"".join(encoded), np.uint8),
        "name_offsets": np.cumsum([0, *map(len, encoded)], dtype=np.int64),
        "identities": now,
    }
    facts = {"photographs": len(encoded), "pairs": len(links)}
    artefacts.write_artefact(folder, KIND, VERSION, arrays, settings, facts)


def read(folder: Path) -> Stored:
    """Reads a folder of pairs.

    Raises:
        ArtefactError: no pairs there, or damaged.
    """
    manifest = artefacts.read_manifest(folder, KIND, VERSION)
    arrays = artefacts.read_arrays(folder, manifest, verify=True)
    try:
        names, offsets, found = (arrays.pop(name) for name in ("names", "name_offsets", "identities"))
        links = Links(**{name: np.array(array) for name, array in arrays.items()})  # what is mapped may be replaced
        settings, checksum = manifest["settings"], str(manifest["checksum"])
    except (KeyError, TypeError) as error:
        raise ArtefactError(f"{folder} is no pairs of this version ({error}): make them anew") from error
    text = names.tobytes()
    bounds = offsets.tolist()
    listed = tuple(text[begin:end].decode("utf-8", "surrogateescape") for begin, end in pairwise(bounds))
    return Stored(folder, settings, checksum, listed, np.array(found), links)


def write_links(folder: Path, links: Links) -> None:
    """Writes links of image ids that are a part of the work towards `folder`'s parent."""
    artefacts.write_artefact(folder, f"{KIND} shard", VERSION, links.arrays(), {})


def read_links(folder: Path) -> Links:
    """Links that `write_links` wrote.

    Raises:
        ArtefactError: none there, or damaged.
    """
    arrays = artefacts.read_arrays(folder, artefacts.read_manifest(folder, f"{KIND} shard", VERSION), verify=True)
    return Links(**{field.name: np.array(arrays[field.name]) for field in fields(Links)})


def _config(config: Config, settings: Mapping[str, Any]) -> Config:
    """The configuration, with the settings that pairs were made with."""
    tree = settings_module.to_tree(config)
    for section in ("verification", "hamming"):
        tree[section] |= settings[section]
    return settings_module.from_tree(tree)
