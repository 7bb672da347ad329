"""Whether two views of a point get the same visual word, by what is done between patch and word.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.same_word [--rows hardnet rootsift ...] [--words 4000] [--sf300 300]

Regions are found in every photograph of boat, leuven and v_dogman, as an index has them: upright. HardNet was not
trained on these sequences, but its weights were chosen by them; `sf300` is among what it was trained on. A true
correspondence is a region of photograph 1 that the homography carries onto one of another photograph, one to one, with
at least 60 % of their union shared, and turned by 15 degrees at most. Words are learned on `sf300`.

- nearest: of all descriptors of the other photograph, the one nearest to that of photograph 1 is the right one;
- same word: both descriptors have the same word; or one of the 3 nearest words of photograph 1's, the query, is that of
  the other; or the 2 nearest words of both have one in common;
- chance: how many words features of two different sequences have in common, so taken, on average, in thousandths.
  Among the features that words were learned on it is less.

A row changes one thing of the first, "hardnet": descriptors as bytes, patches as in an index, 20 iterations of k-means
that begin with descriptors drawn at random, as an index's do. "another-seed" draws others: so much is noise. The rows
20k and 200k take long and run where they are named.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import hardnet
from benchmarks import record
from benchmarks.descriptors import SEQUENCES
from benchmarks.evaluate_real import VOCABULARY
from retrieval.config import DescriptorConfig, VocabularyConfig
from retrieval.features.detector import detect_regions
from retrieval.features.extractor import load_descriptor
from retrieval.features.patches import PATCH_BLUR, cut_patches
from retrieval.patchsets.overlap import found_again
from retrieval.patchsets.registration import register
from retrieval.patchsets.sequences import read_sequence
from retrieval.patchsets.transfer import inside, scaled, transfer
from retrieval.patchsets.writing import DEFAULTS
from retrieval.photographs.decoding import load_image
from retrieval.photographs.folder import list_images
from retrieval.vocabulary import kmeans
from retrieval.vocabulary.encoded import centre
from retrieval.vocabulary.faiss_blas import import_faiss
from retrieval.vocabulary.quantizer import Quantizer, exact_words

MOST_TURNED = np.radians(15)  # of a region: an upright one that is turned further shows something else
MOST_WORDS = 3
WAYS = {"same word": (1, 1), "3 words of the query": (3, 1), "2 words of both": (2, 2)}  # of the query, of the other
CHANCE = "chance, thousandths"


@dataclass(frozen=True)
class Setting:
    """What happens between patch and word.

    Attributes:
        descriptor: its name.
        blur: of a patch, patch pixels.
        size: of the measurement region, times that of an index.
        stored: descriptors go through bytes.
        change: what is done to them then: "none", "centred" or "whitened".
        words: None: as many as `--words` says.
        iterations: of k-means.
        drawn: it begins with descriptors drawn at random; otherwise as k-means++ (Arthur and Vassilvitskii 2007) does.
        seed: added to the benchmark's.
    """

    descriptor: str = "hardnet"
    blur: float = PATCH_BLUR
    size: float = 1.0
    stored: bool = True
    change: str = "none"
    words: int | None = None
    iterations: int = 20
    drawn: bool = True
    seed: int = 0


ROWS = {
    "hardnet": Setting(),
    "rootsift": Setting("rootsift"),
    "another-seed": Setting(seed=1),
    "blur-0.8": Setting(blur=0.8),
    "rootsift-blur-0.8": Setting("rootsift", blur=0.8),
    "size-0.75": Setting(size=0.75),
    "size-1.25": Setting(size=1.25),
    "centred": Setting(change="centred"),
    "whitened": Setting(change="whitened"),
    "float": Setting(stored=False),
    "2-iterations": Setting(iterations=2),
    "k-means++": Setting(drawn=False),
    "20k": Setting(words=20_000),
    "200k": Setting(words=200_000),
}


@dataclass(frozen=True, eq=False)
class Scene:
    """A sequence and what its photographs have in common.

    Attributes:
        name: of the sequence.
        photographs: their paths.
        places: for every photograph but the first (2, K) int64, true correspondences: places among the regions of the
            first and among its own.
    """

    name: str
    photographs: tuple[Path, ...]
    places: tuple[np.ndarray, ...]


def main() -> int:
    """Measures and prints; 1 if a bar is missed."""
    parser = record.parser(__doc__)
    default = [name for name, setting in ROWS.items() if setting.words is None]
    parser.add_argument("--rows", nargs="+", default=default, choices=ROWS, metavar="NAME", help=", ".join(ROWS))
    parser.add_argument("--words", type=int, default=4000, help="of the rows that name no number (default 4000)")
    parser.add_argument("--sf300", type=int, metavar="N", help="learn on the first N photographs of sf300 alone")
    parser.add_argument("--work", type=Path, default=Path("runs") / "same_word", help="where features are kept")
    arguments = parser.parse_args()
    data = record.real_data()
    images = list_images(data / VOCABULARY / "images")
    photographs = [images.path(name) for name in images.names[: arguments.sf300]]
    scenes = [scene_of(data / "sequences" / name, arguments.work / name) for name in SEQUENCES]
    figures: dict[str, Any] = {"photographs": len(photographs), "words": arguments.words, "rows": {}}
    for name in arguments.rows:
        setting = ROWS[name]
        words = setting.words or arguments.words
        figures["rows"][name] = measured(setting, words, photographs, scenes, arguments.work, arguments.seed)
        print(name, figures["rows"][name], file=sys.stderr)
    print(table(figures["rows"]))
    return record.report("same_word", figures, arguments.json, bars(figures["rows"]))


def bars(rows: dict[str, dict[str, Any]]) -> dict[str, bool]:
    """HardNet has to stand above RootSIFT, where both were measured."""
    if not {"hardnet", "rootsift"} <= rows.keys():
        return {}
    ours, theirs = rows["hardnet"], rows["rootsift"]
    return {"HardNet above RootSIFT in nearest": ours["nearest"] > theirs["nearest"]}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows in Markdown: per cent, and chance in thousandths behind them."""
    lines = [f"| row | correspondences | nearest | {' | '.join(WAYS)} |", "|---" * (3 + len(WAYS)) + "|"]
    for name, row in rows.items():
        ways = [f"{100 * row[way]:.1f} ({row[f'{way}, {CHANCE}']:.3f})" for way in WAYS]
        lines.append(f"| {name} | {row['correspondences']:,} | {100 * row['nearest']:.1f} | {' | '.join(ways)} |")
    return "\n".join(lines)


def measured(
    setting: Setting, words: int, photographs: Sequence[Path], scenes: Sequence[Scene], work: Path, seed: int
) -> dict[str, Any]:
    """The figures of a row."""
    bar = tqdm(photographs, desc=setting.descriptor, unit="image", disable=None)
    training = np.concatenate([described(path, work / VOCABULARY, setting) for path in bar])
    change = change_of(training, setting.change)
    centroids = learned(change(training), setting, words, seed + setting.seed)
    quantizer = Quantizer(centroids, VocabularyConfig(search="exact"))
    right, assigned = {}, {}
    for scene in scenes:
        rows = [change(described(path, work / scene.name, setting)) for path in scene.photographs]
        found = [quantizer.assign(each, MOST_WORDS) for each in rows]
        right[scene.name] = np.concatenate(
            [
                compared((rows[0], rows[k]), (found[0], found[k]), places)
                for k, places in enumerate(scene.places, start=1)
            ]
        )
        assigned[scene.name] = np.concatenate(found)
    chances = {
        way: [by_chance(one[:, :ours], other[:, :theirs]) for one, other in combinations(assigned.values(), 2)]
        for way, (ours, theirs) in WAYS.items()
    }
    return {
        "features learned on": len(training),
        **shares(np.concatenate(list(right.values()))),
        **{f"{way}, {CHANCE}": 1000 * float(np.mean(each)) for way, each in chances.items()},
        "of each sequence": {name: shares(each) for name, each in right.items()},
    }


def compared(
    rows: tuple[np.ndarray, np.ndarray], words: tuple[np.ndarray, np.ndarray], places: np.ndarray
) -> np.ndarray:
    """Whether the nearest descriptor is the right one, and whether words are shared in each of the `WAYS`.

    Args:
        rows: (N, D) and (M, D) float32 descriptors of two photographs.
        words: (N, 3) and (M, 3) int32, the nearest first.
        places: (2, K) int64, as `Scene` has them.

    Returns:
        (K, 1 + ways) bool.
    """
    one, other = places
    nearest = exact_words(rows[0][one], rows[1], 1)[:, 0] == other
    ways = [shared(words[0][one, :ours], words[1][other, :theirs]) for ours, theirs in WAYS.values()]
    return np.column_stack([nearest, *ways])


def shares(right: np.ndarray) -> dict[str, Any]:
    """What `compared` says, (K, 1 + ways) bool, as shares of the correspondences."""
    return {"correspondences": len(right), **dict(zip(("nearest", *WAYS), right.mean(axis=0).tolist(), strict=True))}


def shared(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(K,) bool: whether features have a word in common, by their words (K, n) and (K, m) int32."""
    return np.asarray((one[:, :, None] == other[:, None, :]).any(axis=(1, 2)))


def by_chance(one: np.ndarray, other: np.ndarray) -> float:
    """How many words two features have in common on average, one of the words (N, n) and one of (M, m) int32."""
    most = 1 + max(one.max(), other.max())
    ours, theirs = (np.bincount(words.ravel(), minlength=most) for words in (one, other))
    return float(ours @ theirs) / (len(one) * len(other))


def change_of(rows: np.ndarray, change: str) -> Callable[[np.ndarray], np.ndarray]:
    """What a row does to descriptors, learned on some (N, D); what comes out are unit rows again.

    "whitened": turned to the principal axes, each divided by its deviation.
    """
    if change == "none":
        return lambda some: some
    mean = rows.mean(axis=0, dtype=np.float64)
    basis = np.eye(len(mean))
    if change == "whitened":
        variances, axes = np.linalg.eigh(np.cov(rows, rowvar=False))
        basis = axes / np.sqrt(variances)
    turned, middle = basis.astype(np.float32), (mean @ basis).astype(np.float32)
    return lambda some: centre(some @ turned, middle)


def learned(rows: np.ndarray, setting: Setting, words: int, seed: int) -> np.ndarray:
    """(words, D) float32 words of descriptors."""
    if setting.drawn:
        return kmeans.train(rows, VocabularyConfig(words=words, iterations=setting.iterations), seed).centroids
    faiss = import_faiss()
    limits = {"max_points_per_centroid": len(rows), "min_points_per_centroid": 1}
    first = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS
    found = faiss.Kmeans(rows.shape[1], words, niter=setting.iterations, seed=seed, init_method=first, **limits)
    found.train(rows)
    return np.asarray(found.centroids)


def scene_of(folder: Path, work: Path) -> Scene:
    """A sequence with its true correspondences, found where they are not kept yet."""
    sequence = read_sequence(folder)
    one, *others = sequence.images
    places = []
    for other, homography in zip(others, sequence.homographies[1:], strict=True):
        find = functools.partial(correspondences, one, other, homography, work)
        places.append(kept(work / other.stem / "correspondences.npy", find))
    return Scene(sequence.name, sequence.images, tuple(places))


def correspondences(one: Path, other: Path, homography: np.ndarray, work: Path) -> np.ndarray:
    """(2, K) int64: which regions of two photographs show the same, as `Scene` keeps them."""
    reference, photograph = (load_image(path, DEFAULTS.images).gray for path in (one, other))
    homography = register(reference, photograph, homography, DEFAULTS).homography
    expected, valid = transfer(regions_of(one, work), homography)
    turned = np.abs(np.angle(np.exp(1j * expected[:, 5]))) > MOST_TURNED
    usable = np.flatnonzero(valid & ~turned & inside(expected, photograph.shape))
    places, found = found_again(expected[usable], regions_of(other, work))
    return np.stack([usable[places], found])


def regions_of(path: Path, work: Path) -> np.ndarray:
    """(N, 6) float32 regions of a photograph."""

    def find() -> np.ndarray:
        return detect_regions(load_image(path, DEFAULTS.images).gray, DEFAULTS.detector)

    return kept(work / path.stem / "regions.npy", find)


def described(path: Path, work: Path, setting: Setting) -> np.ndarray:
    """(N, D) float32 descriptors of a photograph's regions."""
    descriptor = load_descriptor(DescriptorConfig(setting.descriptor))

    def describe() -> np.ndarray:
        regions = scaled(regions_of(path, work), setting.size)
        gray = load_image(path, DEFAULTS.images).gray
        return descriptor.describe(cut_patches(gray, regions, descriptor.patch_size, setting.blur))

    name = f"{descriptor.name}-{descriptor.fingerprint[:16]}-{descriptor.precision}-{setting.blur}-{setting.size}.npy"
    rows = kept(work / path.stem / name, describe)
    if not setting.stored:
        return rows
    return hardnet.dequantise(hardnet.quantise(rows, descriptor.quantisation), descriptor.quantisation)


def kept(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array that is made once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}")
        np.save(partial, make(), allow_pickle=False)
        partial.replace(path)
    return np.asarray(np.load(path, allow_pickle=False))


if __name__ == "__main__":
    sys.exit(main())
