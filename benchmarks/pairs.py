"""Pairs of a collection: what they cost on 5,000 images, and which of those that see one surface are found.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.pairs [cost scenes] [--work runs/choice]

Features and words are those of `benchmarks.choice`, in its work folder: 20,000 words of HardNet, learned on `sf300`.

**cost** resamples 5,000 images of 400 features with signatures (`benchmarks.resampled`) from `paris250`, and makes
their pairs with 50 neighbours: milliseconds a photograph by the clock and of processor time, and the memory of all
processes. The bar is of the processor time that two cores have, as other work may share the machine.

**scenes** makes the pairs of castle-P30, entry-P10, fountain-P11 (`strecha/`) among the 300 photographs of `sf300`.
By their cameras, two photographs of a scene see one surface where of the points that either shows, triangulated over
all photographs, the other shows at least `SEEN`: they project into it, in front of it, from a direction at most `ANGLE`
degrees apart, and no nearer point of its own lies before them. Recall is of these pairs, by 20 neighbours of each
photograph, whichever of the two lists the other. Beside it COLMAP, where it is installed: its SIFT of the same
photographs, a vocabulary tree of as many words learned on the same 300, its 20 best as it votes and with all verified.
Its features take three minutes of a core, its tree of 20,000 words more than eight, once.
"""

import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from benchmarks import record
from benchmarks.choice import index_folder, of_index, settings_of_paris
from benchmarks.colmap import Colmap, environment
from benchmarks.evaluate_real import VOCABULARY
from benchmarks.resampled import Resampled, words_of
from benchmarks.scale import Case, write_index
from hardnet import dequantise
from retrieval.config import Config
from retrieval.evaluation.pipeline import obtain_index, obtain_vocabulary
from retrieval.features.extractor import extract_collection
from retrieval.features.store import FeatureStore, ImageFeatures
from retrieval.index.building import Instalment
from retrieval.index.collection import Collection
from retrieval.pairs.making import make
from retrieval.pairs.stored import beside
from retrieval.patchsets.matching import mutual_matches
from retrieval.patchsets.multiview import Agreement, Tracks, find_tracks, neighbour_pairs
from retrieval.patchsets.views import View, epipolar_distance, fundamental, project, read_views
from retrieval.photographs.folder import ImageSet

SCENES = ("castle-P30", "entry-P10", "fountain-P11")
LABEL = "hardnet"
IMAGES, FEATURES, NEIGHBOURS = 5000, 400, 50
MILLISECONDS, GIGABYTES = 60, 2
LISTED = 20  # neighbours of a photograph, for recall
SEEN = 0.2  # of the points of a photograph
ANGLE = 60.0  # degrees
HIDDEN = 0.97  # of a point's depth: a point that lies before it within `BESIDE` pixels hides it
BESIDE = 6.0
NEAREST = 8  # so many of those points are looked at


def main() -> int:
    """Runs the benchmark and prints it; 1 if a bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("what", nargs="*", default=["cost", "scenes"], metavar="cost|scenes")
    parser.add_argument("--work", type=Path, default=Path("runs") / "choice")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    config = settings_of_paris([f"seed={arguments.seed}", *arguments.overrides])
    figures: dict[str, Any] = {}
    bars: dict[str, bool] = {}
    of_index("paris250", config, arguments.work)  # features and words
    for what in arguments.what:
        found, met = {"cost": cost, "scenes": scenes}[what](config, arguments.work)
        figures[what] = found
        bars |= met
    return record.report("pairs", figures, arguments.json, bars)


def cost(config: Config, work: Path) -> tuple[dict[str, Any], dict[str, bool]]:
    """Pairs of 5,000 resampled images."""
    store, words = (FeatureStore.open(work / "features" / name / LABEL) for name in ("paris250", VOCABULARY))
    folder = work / f"index-{IMAGES}x{FEATURES}-pairs"
    if not folder.exists():
        vocabulary = obtain_vocabulary(words, work / f"seed-{config.seed}" / "vocabulary" / LABEL, config)
        drawn = Resampled(store, words_of(store, vocabulary), vocabulary.counts, FEATURES, config.seed, 2)
        unsigned = replace(vocabulary, signer=None)  # signatures are drawn
        case = Case(IMAGES, folder, drawn, unsigned, store, config, 0, True)
        write_index(case, drawn.images(IMAGES))
    shutil.rmtree(beside(folder), ignore_errors=True)
    with record.memory_of_children() as most:
        pairs, took = make(Collection.open(folder), beside(folder), NEIGHBOURS)
    each = {
        "clock, ms": 1000 * took.seconds / took.photographs,
        "processor, ms": 1000 * took.processor_seconds / took.photographs,
    }
    memory = (most[0] + record.resident_memory()) / 2**30
    figures = {**each, "memory of all processes, GiB": memory, "pairs": len(pairs)}
    figures["pairs a photograph"] = 2 * len(pairs) / IMAGES
    return figures, {
        f"cost: {MILLISECONDS} ms a photograph on two cores": each["processor, ms"] <= 2 * MILLISECONDS,
        f"cost: below {GIGABYTES} GiB": memory < GIGABYTES,
    }


def scenes(config: Config, work: Path) -> tuple[dict[str, Any], dict[str, bool]]:
    """Recall of pairs that see one surface, and pairs between scenes."""
    data = record.real_data()
    images = ImageSet(
        data,
        tuple(sorted(str(path.relative_to(data)) for one in SCENES for path in (data / "strecha" / one).glob("*.jpg"))),
    )
    store = extract_collection(images, work / "features" / "strecha" / LABEL, config, "strecha")
    clutter = FeatureStore.open(work / "features" / VOCABULARY / LABEL)
    vocabulary = obtain_vocabulary(clutter, work / f"seed-{config.seed}" / "vocabulary" / LABEL, config)
    folder = index_folder("strecha", work, config.seed) / LABEL
    collection = obtain_index(store, vocabulary, folder, config, data, [Instalment(VOCABULARY, lambda _: clutter)])
    wanted = {(first, second) for one in SCENES for first, second in seen_together(one, data / "strecha" / one, store)}
    shutil.rmtree(beside(folder), ignore_errors=True)
    pairs, took = make(collection, beside(folder), LISTED)
    found = {(pair.first, pair.second): pair for pair in pairs}
    of = {name: name.split("/")[0] for name in collection.names}  # the three scenes are parts of one castle
    sure = [pair for pair in pairs if pair.grade == "sure" and of[pair.first] != of[pair.second]]
    figures: dict[str, Any] = {
        "pairs that see one surface": len(wanted),
        "of": {one: sum(first.startswith(f"strecha/{one}/") for first, _ in wanted) for one in SCENES},
        "recall": len(wanted & found.keys()) / len(wanted),
        "recall of pairs very likely or perhaps": sum(key in found and found[key].grade != "chance" for key in wanted)
        / len(wanted),
        "listed pairs of the scenes": sum(
            first.startswith("strecha/") or second.startswith("strecha/") for first, second in found
        ),
        "very likely between castle and clutter": [(pair.first, pair.second, pair.inliers) for pair in sure],
        "cost": vars(took),
    }
    bars = {"scenes: no pair of castle and clutter is very likely": not sure}
    peer = colmap_recall(work / "colmap", data, collection.names, wanted, config)
    if peer is not None:
        figures["COLMAP"] = peer
        best = max(peer["recall, votes"], peer["recall, verified"])
        bars["scenes: recall above COLMAP's"] = figures["recall"] > best
    return figures, bars


def seen_together(scene: str, folder: Path, store: FeatureStore) -> list[tuple[str, str]]:
    """The pairs of photographs of a scene that see one surface, by name in the store."""
    views, agreement = read_views(folder), Agreement()
    images = [store.image(f"strecha/{scene}/{view.image.name}") for view in views]
    matches = {(i, j): _matched(views, images, i, j, store, agreement) for i, j in neighbour_pairs(views, agreement, 8)}
    tracks = find_tracks(views, [image.regions for image in images], matches, agreement)
    shares = np.array([[_share(views, images, tracks, i, j) for j in range(len(views))] for i in range(len(views))])
    names = [image.name for image in images]
    return [
        (names[i], names[j]) for i, j in combinations(range(len(views)), 2) if min(shares[i, j], shares[j, i]) >= SEEN
    ]


def _matched(
    views: list[View], images: list[ImageFeatures], i: int, j: int, store: FeatureStore, agreement: Agreement
) -> np.ndarray:
    """(m, 2) rows of features that match and agree with the cameras."""
    first, second = (dequantise(images[k].codes, store.quantisation) for k in (i, j))
    pairs = mutual_matches(first, second, agreement.ratio)
    points = images[i].regions[pairs[:, 0], :2], images[j].regions[pairs[:, 1], :2]
    distance = epipolar_distance(*points, fundamental(views[i], views[j]))
    return pairs[distance < agreement.epipolar]


def _share(views: list[View], images: list[ImageFeatures], tracks: Tracks, i: int, j: int) -> float:
    """The share of the points that photograph i shows which j could show as well."""
    points = tracks.points[np.unique(tracks.track[tracks.view == i])]
    if not len(points):
        return 0.0
    pixels, depth = project(views, np.full(len(points), j), points)
    size = np.array([images[j].width, images[j].height])
    seen = (depth > 0) & ((pixels > 0) & (pixels < size)).all(axis=1)
    rays = [points - views[k].centre for k in (i, j)]
    cosine = (rays[0] * rays[1]).sum(axis=1) / np.linalg.norm(rays[0], axis=1) / np.linalg.norm(rays[1], axis=1)
    seen &= cosine > np.cos(np.radians(ANGLE))
    at = np.flatnonzero(seen)
    shown = tracks.points[np.unique(tracks.track[tracks.view == j])]  # what j is known to show may stand before them
    if len(at) and len(shown):
        own, nearer = project(views, np.full(len(shown), j), shown)
        _, near = cKDTree(own).query(pixels[at], k=NEAREST, distance_upper_bound=BESIDE)
        seen[at] = ~(np.append(nearer, np.inf)[near] < HIDDEN * depth[at, None]).any(axis=1)
    return float(seen.mean())


def colmap_recall(
    folder: Path, data: Path, names: tuple[str, ...], wanted: set[tuple[str, str]], config: Config
) -> dict[str, Any] | None:
    """What COLMAP's vocabulary tree finds of the wanted pairs with its own SIFT; None where it is not installed."""
    program = shutil.which("colmap")
    if program is None:
        print("COLMAP left out: it is not installed: apt-get install --no-install-recommends colmap", file=sys.stderr)
        return None
    folder.mkdir(parents=True, exist_ok=True)
    colmap, words, photographs = Colmap(program, folder, config.seed), folder / "words.db", folder / "photographs.db"
    clutter = [name for name in names if name.startswith(f"{VOCABULARY}/")]
    if not photographs.exists():
        _extract(program, words, data, folder / "words.txt", clutter)
        partial = folder / "photographs.partial"
        shutil.copy(words, partial)
        _extract(program, partial, data, folder / "photographs.txt", [name for name in names if name not in clutter])
        partial.replace(photographs)
    tree, index = folder / "words.tree", folder / "photographs.index"
    if not tree.exists():
        options = ("--num_visual_words", config.vocabulary.words, "--num_iterations", config.vocabulary.iterations)
        colmap.run("vocab_tree_builder", words, tree.with_suffix(".partial"), *options)
        tree.with_suffix(".partial").replace(tree)
    if not index.exists():
        partial = index.with_suffix(".partial")
        colmap.run("vocab_tree_retriever", photographs, tree, "--output_index_path", partial)
        partial.replace(index)
    asked = [name for name in names if name not in clutter]
    figures: dict[str, Any] = {"version": colmap.version()}
    for label, verify in (("votes", False), ("verified", True)):
        found = colmap.retrieve(index, photographs, names, asked, 5, verify)
        listed = {
            (min(query, other), max(query, other))
            for query, ranking in found.rankings.items()
            for other in [one for one in ranking if one != query][:LISTED]
        }
        figures[f"recall, {label}"] = len(wanted & listed) / len(wanted)
    return figures


def _extract(program: str, database: Path, data: Path, listed: Path, names: list[str]) -> None:
    listed.write_text("".join(f"{name}\n" for name in names))
    command = [program, "feature_extractor", "--database_path", str(database), "--image_path", str(data)]
    command += ["--image_list_path", str(listed), "--SiftExtraction.use_gpu", "0"]
    command += ["--SiftExtraction.num_threads", "1"]
    subprocess.run(command, env=environment(), check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
