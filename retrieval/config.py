"""Every setting of the system: frozen dataclasses, one per stage, with YAML in and out.

A default is commented with its source; ``protocol`` sections are cited by paper. An unknown key or a
wrong type is an error that names the nearest right key. `digest` fingerprints the settings that change
results, so that artefacts made with different settings refuse to be mixed.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from hardnet import settings
from hardnet.errors import SettingsError
from retrieval.errors import ConfigError

_SHIPPED = (Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs")  # in a wheel, in a checkout


@dataclass(frozen=True)
class ImageConfig:
    """How bytes become pixels.

    Example:
        >>> Config(images=ImageConfig(max_side=None)).images.max_side is None
        True
    """

    exif: str = "apply"  # "apply" | "ignore": benchmark boxes belong to raw pixels, so benchmarks ignore
    max_side: int | None = 1024  # longest side in pixels before detection (area resampling); null = as is
    # refused before decoding: a bomb must not reach the decoder. AVIF, GIF, JPEG XL and further frames of PNG and WebP
    # have a limit of Pillow's beside it, 178
    max_megapixels: float = 64.0
    # "all": every picture of a file (pages of a TIFF, frames of an animation) is a photograph, the second one of
    # scan.tif is scan.tif#2; "first": the first is. Does not change the digest, as features are the same either way
    pages: str = "all"
    max_pages: int = 100  # of a file; what has more is a film. Does not change the digest

    def __post_init__(self) -> None:
        _one_of("images.exif", self.exif, ("apply", "ignore"))
        _one_of("images.pages", self.pages, ("all", "first"))
        _at_least("images.max_pages", self.max_pages, 1)
        _at_least("images.max_side", self.max_side, 16)
        _at_least("images.max_megapixels", self.max_megapixels, 0.001)


@dataclass(frozen=True)
class DetectorConfig:
    """Hessian-affine detector; defaults are those of Perdoch et al. 2009 (reference implementation).

    Example:
        >>> DetectorConfig(orientation="dominant", max_features=2000).max_features
        2000
    """

    threshold: float = 16.0 / 3.0  # squared against the sigma^4-normalised det(Hessian); Mishchuk et al. 2017
    max_features: int | None = None  # strongest responses kept; off, as in the published experiments
    # "upright": the gravity-vector assumption (Perdoch et al. 2009, section 3); "dominant": turned to the one or two
    # dominant gradient orientations (Lowe 2004, section 5), for what is photographed at any angle; "learned": turned as
    # OriNet says (Mishkin et al. 2018)
    orientation: str = "upright"
    orientation_weights: str = "orinet"  # of "learned": a name of `hardnet weights`, or a path
    # "baumberg": Baumberg's iteration; "affnet": AffNet (Mishkin et al. 2018); "none": circles
    shape: str = "baumberg"
    shape_weights: str = "affnet-open"  # of "affnet": the bundled ones, a name of `hardnet weights`, or a path
    precision: str = "auto"  # of the networks of shapes and orientations: "int8" and, where it does not run, "float32"
    scales_per_octave: int = 3
    initial_sigma: float = 1.6
    input_sigma: float = 0.5  # blur assumed in the input photograph
    edge_ratio: float = 10.0  # largest ratio of principal curvatures of the response
    border: int = 5  # pixels ignored at the border of every octave
    max_shift: float = 0.6  # sub-pixel shift that moves the extremum to the next pixel
    localise_iterations: int = 5
    shape_window: int = 19  # side of the second-moment window, pixels (Baumberg iteration)
    shape_iterations: int = 16
    shape_convergence: float = 0.05  # deviation from an isotropic second-moment matrix at convergence
    max_anisotropy: float = 6.0  # ratio of the axes beyond which a region is dropped

    def __post_init__(self) -> None:
        _one_of("detector.orientation", self.orientation, ("upright", "dominant", "learned"))
        _one_of("detector.shape", self.shape, ("baumberg", "affnet", "none"))
        _one_of("detector.precision", self.precision, ("auto", "float32", "int8"))
        _at_least("detector.threshold", self.threshold, 0.0)
        _at_least("detector.max_features", self.max_features, 1)
        _at_least("detector.scales_per_octave", self.scales_per_octave, 1)
        _at_least("detector.border", self.border, 2)
        _at_least("detector.edge_ratio", self.edge_ratio, 1.0)
        _at_least("detector.localise_iterations", self.localise_iterations, 1)
        _at_least("detector.max_shift", self.max_shift, 0.5)
        _at_least("detector.shape_iterations", self.shape_iterations, 1)
        _at_least("detector.shape_window", self.shape_window, 3)
        _at_least("detector.max_anisotropy", self.max_anisotropy, 1.0)
        _at_least("detector.input_sigma", self.input_sigma, 0.0)
        if self.shape_window % 2 == 0:
            raise ConfigError(f"detector.shape_window: expected an odd number of pixels, got {self.shape_window}")
        if self.initial_sigma <= self.input_sigma:
            raise ConfigError("detector.initial_sigma must exceed detector.input_sigma")


@dataclass(frozen=True)
class DescriptorConfig:
    """Which patch descriptor, and where it runs.

    Example:
        >>> DescriptorConfig("rootsift").device
        'auto'
    """

    name: str = "hardnet"  # "hardnet" (bundled), "rootsift", a name of `hardnet weights`, or a path to a weights file
    device: str = "auto"  # "auto" | "cpu" | "cuda" | "cuda:N"; does not change the digest
    batch_size: int = 512  # patches per forward pass; does not change the digest
    # "int8": HardNet and L2-Net several times faster, on processors with VNNI; "float16": on a GPU; "float32"; "auto":
    # as what is there was described, else float16 on a GPU, and int8 where it runs. Does not change the digest: see
    # docs/decisions/0030-int8-with-torch-alone.md
    precision: str = "auto"

    def __post_init__(self) -> None:
        _one_of("descriptor.precision", self.precision, ("auto", "float32", "float16", "int8"))
        _at_least("descriptor.batch_size", self.batch_size, 1)


@dataclass(frozen=True)
class VocabularyConfig:
    """k-means vocabulary and the search for the nearest word.

    Example:
        >>> VocabularyConfig(words=20_000).search
        'auto'
    """

    words: int = 100_000
    iterations: int = 20  # Lloyd iterations; Philbin et al. 2007 style calibration uses 20
    train_descriptors: int | None = None  # sample size; null = all, at most 256 per word (faiss's own cap)
    search: str = "auto"  # "auto" | "exact" | "ivf" | "hnsw"
    exact_up_to: int = 65_536  # auto: exact search up to this many words, approximate beyond
    probes: int | None = None  # ivf: cells visited; hnsw: efSearch = 4 * probes; null = what 98.5 % agreement takes
    centre: bool = False  # subtract the training descriptors' mean and normalise again (Tolias & Jegou 2014)

    def __post_init__(self) -> None:
        _one_of("vocabulary.search", self.search, ("auto", "exact", "ivf", "hnsw"))
        _at_least("vocabulary.words", self.words, 1)
        _at_least("vocabulary.iterations", self.iterations, 1)
        _at_least("vocabulary.train_descriptors", self.train_descriptors, 1)
        _at_least("vocabulary.probes", self.probes, 1)


@dataclass(frozen=True)
class IndexConfig:
    """What an index stores of each feature beside its word and its geometry.

    Example:
        >>> IndexConfig(signatures=("hamming", "asmk")).signatures
        ('hamming', 'asmk')
    """

    # "hamming": 16 bytes a feature, for HQE, which searches by default take; "asmk": 16 bytes a word of an image. Of a
    # benchmark's index the rows decide
    signatures: tuple[str, ...] = ("hamming",)

    def __post_init__(self) -> None:
        for name in self.signatures:
            _one_of("index.signatures", name, ("hamming", "asmk"))


@dataclass(frozen=True)
class HammingConfig:
    """Hamming embedding (Jegou et al. 2008), with the parameters of Tolias & Jegou 2014.

    Example:
        >>> HammingConfig(bits=64, threshold=24).assignments
        3
    """

    bits: int = 128  # of a signature, a multiple of 64
    threshold: int = 48  # a match has at most so many different bits
    sigma: float = 32.0  # bits; a match weighs exp(-(distance / sigma)^2)
    assignments: int = 3  # words of a query descriptor where a row asks for several (MA)
    device: str = "cpu"  # where votes compare signatures: "cpu" | "cuda" | "cuda:N"; results are the same

    def __post_init__(self) -> None:
        _at_least("hamming.bits", self.bits, 64)
        _at_least("hamming.threshold", self.threshold, 0)
        _at_least("hamming.sigma", self.sigma, 0.001)
        _at_least("hamming.assignments", self.assignments, 1)
        if self.bits % 64:
            raise ConfigError(f"hamming.bits: expected a multiple of 64, got {self.bits}")


@dataclass(frozen=True)
class HqeConfig:
    """Hamming query expansion (Tolias & Jegou 2014).

    Example:
        >>> HqeConfig(depth=50).min_matches
        5
    """

    depth: int = 100  # images that may be reliable: the best of the first pass or, with geometry, of its verified list
    strict: int = 32  # bits; closer matches are counted for reliability
    min_matches: int = 5  # strict matches of a reliable image
    significance: float = 0.0  # with geometry: of a reliable image's inliers; measured, see docs/results.md
    min_inliers: int = 4  # with geometry: fewest inliers of a reliable image, beside their significance
    new_words: float = 0.5  # words that expansion may add, in shares of the query's distinct words

    def __post_init__(self) -> None:
        _at_least("hqe.depth", self.depth, 1)
        _at_least("hqe.strict", self.strict, 0)
        _at_least("hqe.min_matches", self.min_matches, 1)
        _at_least("hqe.significance", self.significance, 0.0)
        _at_least("hqe.min_inliers", self.min_inliers, 3)
        _at_least("hqe.new_words", self.new_words, 0.0)


@dataclass(frozen=True)
class AsmkConfig:
    """Aggregated selective match kernel (Tolias et al. 2013).

    Example:
        >>> AsmkConfig(binary=False).alpha
        3.0
    """

    binary: bool = True  # ASMK*: signs of the aggregated residuals; otherwise half-precision vectors, 8 times the size
    alpha: float = 3.0  # selectivity: sign(u) |u|^alpha
    threshold: float = 0.0  # least similarity that counts, -1..1
    assignments: int = 5  # words of a query descriptor
    idf: bool = True  # weight words by idf squared

    def __post_init__(self) -> None:
        _at_least("asmk.alpha", self.alpha, 0.001)
        _at_least("asmk.threshold", self.threshold, -1.0)
        _at_least("asmk.assignments", self.assignments, 1)


@dataclass(frozen=True)
class VerificationConfig:
    """Spatial verification (Philbin et al. 2007, section 5).

    Example:
        >>> VerificationConfig(depth=200).min_inliers
        4
    """

    depth: int = 1000  # shortlist length that is verified; 1000 in Mishchuk et al. 2017's experiments
    tolerance: float = 40.0  # pixels at a 1024-pixel longest side; forward^2 + backward^2 < tolerance^2
    max_area_ratio: float = math.sqrt(1000.0)  # largest change of region area beside the transform's own
    min_inliers: int = 4  # fewest one-to-one inliers that count as verified
    max_pairs_per_word: int = 30  # words with more (query x image) pairs are left out: they say little
    max_putatives: int = 800  # pairs per image: rarest words first, or most similar signatures where there are any
    max_hamming: int = 48  # with signatures: bits in which a pair may differ; as for votes (Tolias & Jegou 2014)
    refinements: int = 4  # least-squares re-estimations of the full affine transform

    def __post_init__(self) -> None:
        _at_least("verification.depth", self.depth, 1)
        _at_least("verification.tolerance", self.tolerance, 0.001)
        _at_least("verification.max_area_ratio", self.max_area_ratio, 1.0)
        _at_least("verification.min_inliers", self.min_inliers, 3)
        _at_least("verification.max_pairs_per_word", self.max_pairs_per_word, 1)
        _at_least("verification.max_putatives", self.max_putatives, 1)
        _at_least("verification.max_hamming", self.max_hamming, 0)
        _at_least("verification.refinements", self.refinements, 0)


@dataclass(frozen=True)
class ExpansionConfig:
    """Average query expansion (Chum et al. 2007).

    Example:
        >>> ExpansionConfig(rerank="none").significance
        1.0
    """

    significance: float = 1.0  # of a source: chance gives its inliers in less than one photograph of 10^1
    min_inliers: int = 4  # fewest inliers of a source, beside its significance; Chum et al. 2007 asked for 21
    max_images: int = 50  # at most so many sources (Chum et al. 2007: top m < 50)
    rerank: str = "expanded"  # second verification: "original" query, "expanded" query, or "none"
    max_features: int = 3000  # features of the expanded query that are verified; measured, see docs/results.md

    def __post_init__(self) -> None:
        _one_of("expansion.rerank", self.rerank, ("original", "expanded", "none"))
        _at_least("expansion.significance", self.significance, 0.0)
        _at_least("expansion.min_inliers", self.min_inliers, 3)
        _at_least("expansion.max_images", self.max_images, 1)
        _at_least("expansion.max_features", self.max_features, 1)


@dataclass(frozen=True)
class ParallelConfig:
    """Where work is done, and in how many processes; never changes results.

    Example:
        >>> ParallelConfig(jobs=1).shard_images
        200
    """

    jobs: int = -1  # counted as joblib counts n_jobs: -1 = all cores; 1 = everything in this process
    shard_images: int = 200  # most photographs per shard, fewer in small collections: a restart redoes at most one
    scheduler: str | None = None  # of Dask: tcp://HOST:PORT, tls://HOST:PORT, or local:4 for workers here; null: jobs
    wait: float | None = 10.0  # seconds that a search waits for a part of the index; null: as long as it takes

    def __post_init__(self) -> None:
        if self.jobs == 0:
            raise ConfigError("parallel.jobs must not be 0: use 1 for no parallelism, -1 for all cores")
        _at_least("parallel.shard_images", self.shard_images, 1)
        if self.wait is not None and not self.wait > 0:
            raise ConfigError(f"parallel.wait must be positive, or null, got {self.wait}")


@dataclass(frozen=True)
class DatasetConfig:
    """What run_oxford5k.py runs on.

    Example:
        >>> DatasetConfig(name="demo", vocabulary_from="demo").rows
        ('bow', 'bow+sv', 'bow+sv+qe')
    """

    name: str = "oxford5k"  # "oxford5k" | "paris6k" | "roxford5k" | "rparis6k" | "demo" | "folder"
    vocabulary_from: str = "paris6k"  # "oxford5k" | "paris6k" | "demo" | "folder": the independent set
    rows: tuple[str, ...] = ("bow", "bow+sv", "bow+sv+qe")
    distractors: bool = False  # revisited protocol: add the million distractors of R1M

    def __post_init__(self) -> None:
        names = ("oxford5k", "paris6k", "demo", "folder")
        _one_of("dataset.name", self.name, (*names, "roxford5k", "rparis6k"))
        _one_of("dataset.vocabulary_from", self.vocabulary_from, names)
        if (self.name in names[2:] or self.vocabulary_from in names[2:]) and self.vocabulary_from != self.name:
            raise ConfigError(
                f"dataset.vocabulary_from: {self.name!r} and {self.vocabulary_from!r} do not go together; "
                "demo and folder bring their own vocabulary photographs"
            )
        if not self.rows:
            raise ConfigError("dataset.rows: expected at least one row")


@dataclass(frozen=True)
class Config:
    """All stages together; `Config()` is as in the published experiments.

    What an index is made with where nobody names a configuration is ``load("buildings")``.

    Example:
        >>> config = Config(detector=DetectorConfig(max_features=2000), seed=1)
        >>> config.detector.max_features, config.verification.depth
        (2000, 1000)
    """

    images: ImageConfig = field(default_factory=ImageConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    descriptor: DescriptorConfig = field(default_factory=DescriptorConfig)
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    hamming: HammingConfig = field(default_factory=HammingConfig)
    asmk: AsmkConfig = field(default_factory=AsmkConfig)
    verification: VerificationConfig = field(default_factory=VerificationConfig)
    expansion: ExpansionConfig = field(default_factory=ExpansionConfig)
    hqe: HqeConfig = field(default_factory=HqeConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    seed: int = 0  # every random choice derives from it

    def __post_init__(self) -> None:
        _at_least("seed", self.seed, 0)
        if self.hqe.strict > self.hamming.threshold:
            raise ConfigError(
                f"hqe.strict ({self.hqe.strict} bits) exceeds hamming.threshold ({self.hamming.threshold}): lower it"
            )


def load(path: str | Path | None = None, overrides: Iterable[str] = (), base: "Config | None" = None) -> Config:
    """Reads a YAML file (or the defaults) and applies ``key.sub=value`` overrides.

    Args:
        path: YAML file, or None for the defaults; a string may also be the name of a shipped configuration, such as
            ``objects`` (see `hardnet.settings.find`).
        overrides: strings such as ``detector.threshold=4``; the value is parsed as YAML.
        base: where there is no file, what the overrides apply to; None = the defaults.

    Raises:
        ConfigError: unreadable file, unknown key, wrong type, or a value outside its range.

    Example:
        >>> load(None, ["detector.threshold=4", "descriptor.name=rootsift"]).descriptor
        DescriptorConfig(name='rootsift', device='auto', batch_size=512, precision='auto')
    """
    tree: dict[str, Any] = to_tree(base) if base is not None else {}
    try:
        if path is not None:
            tree = settings.read_tree(settings.find(path, *_SHIPPED) if isinstance(path, str) else path)
        settings.override(tree, overrides)
    except SettingsError as error:
        raise ConfigError(str(error)) from error
    return from_tree(tree)


def from_tree(tree: Mapping[str, Any]) -> Config:
    """Builds a `Config` from nested mappings, as `to_tree` returns them.

    Raises:
        ConfigError: unknown key, wrong type, or a value outside its range.
    """
    try:
        return settings.build(Config, tree)
    except SettingsError as error:
        raise ConfigError(str(error)) from error


def to_tree(config: Any) -> dict[str, Any]:
    """The configuration (or one stage of it) as plain nested dicts, ready for YAML or JSON."""
    return settings.to_tree(config)


def to_yaml(config: Config) -> str:
    """The configuration as YAML text that `load` reads back to an equal `Config`.

    Example:
        >>> to_yaml(Config(seed=1)).splitlines()[-1]
        'seed: 1'
    """
    return yaml.safe_dump(to_tree(config), sort_keys=False)


def differences(tree: Mapping[str, Any]) -> list[str]:
    """The settings of a tree (from `to_tree`) that are not the defaults, as ``section.key: value``."""
    default = to_tree(Config())
    found = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            known = default.get(key, {})
            found += [f"{key}.{name}: {one}" for name, one in value.items() if known.get(name) != one]
        elif default.get(key) != value:
            found.append(f"{key}: {value}")
    return found


DETECTOR_WEIGHTS = ("shape_weights", "orientation_weights")
"""Settings of the detector that name weights, or a file of them."""


def weights_of(config: Config) -> dict[str, str]:
    """The settings that name weights which are used, or a file of them, as ``section.key``."""
    found = {"descriptor.name": config.descriptor.name}
    if config.detector.shape == "affnet":
        found["detector.shape_weights"] = config.detector.shape_weights
    if config.detector.orientation == "learned":
        found["detector.orientation_weights"] = config.detector.orientation_weights
    return found


def with_whole_paths(config: Config) -> Config:
    """A configuration whose weights by path are found from any folder."""

    def whole(name: str) -> str:
        return str(Path(name).resolve()) if Path(name).is_file() else name

    found: dict[str, Any] = {key: whole(getattr(config.detector, key)) for key in DETECTOR_WEIGHTS}
    detector = replace(config.detector, **found)
    descriptor = replace(config.descriptor, name=whole(config.descriptor.name))
    return replace(config, detector=detector, descriptor=descriptor)


def without_scheduler(config: Config) -> Config:
    """The configuration of a process that does the work itself, and of what is kept of it."""
    return replace(config, parallel=replace(config.parallel, scheduler=None))


def feature_settings(config: Config) -> dict[str, Any]:
    """The settings that decide what features a photograph has (for digests and for error messages)."""
    tree = to_tree(config)
    descriptor, detector = {"name": tree["descriptor"]["name"]}, tree["detector"]
    images = {key: value for key, value in tree["images"].items() if key not in ("pages", "max_pages")}
    del detector["precision"]
    if detector["orientation"] != "learned":
        del detector["orientation_weights"]
    if detector["shape"] != "affnet":
        del detector["shape_weights"]
    if detector["shape"] == "baumberg":  # there was no other in earlier versions, which did not name it
        del detector["shape"]
    return {"images": images, "detector": detector, "descriptor": descriptor}


def described_as(config: Config, stored: Mapping[str, Any]) -> Config:
    """A configuration whose photographs are described as those were that something was made of.

    Args:
        config: for all else, and for everything where features were made elsewhere.
        stored: its settings, as `feature_settings` returns them, with names or with names and checksums of weights;
            sections may be missing.
    """
    if any("source" in part for part in stored.values() if isinstance(part, Mapping)):
        return config
    tree = to_tree(config)
    plain = {"images": tree["images"], "detector": to_tree(DetectorConfig()), "descriptor": tree["descriptor"]}
    for section, known in plain.items():
        found = stored.get(section)
        if isinstance(found, Mapping):
            kept = {key: value for key, value in found.items() if key in known}
            names = {key: value["name"] if isinstance(value, Mapping) else value for key, value in kept.items()}
            tree[section] = {**known, **names}
    return from_tree(tree)


def vocabulary_settings(config: Config) -> dict[str, Any]:
    """The settings that decide which word a descriptor gets, the features' settings aside."""
    return {"vocabulary": to_tree(config.vocabulary), "seed": config.seed}


def without_open_probes(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two trees to be compared, without `vocabulary.probes` where either leaves these open.

    Where it is what is wanted, those that were chosen when the words were learned serve (earlier versions stored 64);
    where it is what is stored, the words are searched exactly, and probes play no part.
    """
    trees = dict(stored), dict(wanted)
    if all("vocabulary" in tree for tree in trees) and None in [tree["vocabulary"].get("probes") for tree in trees]:
        for tree in trees:
            tree["vocabulary"] = {key: value for key, value in tree["vocabulary"].items() if key != "probes"}
    return trees


def digest(settings: Mapping[str, Any]) -> str:
    """A short fingerprint of a settings tree: equal settings, equal digest."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> str | None:
    """The first key whose value differs between two settings trees, as ``key: ours != theirs``."""
    for key in sorted(set(ours) | set(theirs)):
        one, other = ours.get(key), theirs.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found = first_difference(one, other, f"{prefix}{key}.")
            if found:
                return found
        elif one != other:
            return f"{prefix}{key}: {one!r} != {other!r}"
    return None


def known_keys() -> list[str]:
    """Every dotted key of the configuration, in order."""
    return settings.known_keys(Config)


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{key}: expected one of {', '.join(allowed)}, got {value!r}")


def _at_least(key: str, value: float | None, least: float) -> None:
    if value is not None and value < least:
        raise ConfigError(f"{key}: expected at least {least}, got {value!r}")
