"""From a dataset's name to its photographs, ground truth and the independent set that its vocabulary comes from."""

from dataclasses import dataclass
from pathlib import Path

from retrieval.config import DatasetConfig
from retrieval.datasets.folder import ImageSet, list_images
from retrieval.datasets.oxford import PARIS_CORRUPT, GroundTruth, read_groundtruth
from retrieval.errors import DatasetError


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark run is made on.

    Attributes:
        name: dataset name; published values are looked up by it.
        images: the database.
        ground_truth: queries with their positives and junk.
        vocabulary_name: name of the independent set.
        vocabulary_images: the photographs the vocabulary is trained on.
    """

    name: str
    images: ImageSet
    ground_truth: GroundTruth
    vocabulary_name: str
    vocabulary_images: ImageSet


@dataclass(frozen=True)
class Source:
    """Where data lies.

    Attributes:
        data: the data folder, with one folder per downloaded or generated set.
        images, groundtruth, vocabulary_images: folders of a collection of one's own (dataset "folder").
    """

    data: Path
    images: Path | None = None
    groundtruth: Path | None = None
    vocabulary_images: Path | None = None


def open_benchmark(source: Source, config: DatasetConfig) -> Benchmark:
    """Opens the configured dataset.

    Raises:
        DatasetError: something is not there; the message says how to get it.
    """
    if config.name == "folder":
        if source.images is None or source.groundtruth is None or source.vocabulary_images is None:
            raise DatasetError("the dataset 'folder' needs --images, --groundtruth and --vocabulary-images")
        images, truth = list_images(source.images), read_groundtruth(source.groundtruth)
        return Benchmark("folder", images, truth, "vocabulary", list_images(source.vocabulary_images))
    images = database_images(source, config.name)
    truth_folder = source.data / config.name / "groundtruth"
    _require(truth_folder, config.name)
    if config.name == "demo":
        vocabulary_name, vocabulary_images = (
            "demo-vocabulary",
            list_images(source.data / "demo" / "vocabulary-images"),
        )
    else:
        vocabulary_name, vocabulary_images = (
            config.vocabulary_from,
            database_images(source, config.vocabulary_from),
        )
    return Benchmark(config.name, images, read_groundtruth(truth_folder), vocabulary_name, vocabulary_images)


def database_images(source: Source, name: str) -> ImageSet:
    """The photographs of a downloaded or generated set (without Paris6k's corrupt ones)."""
    folder = source.data / name / "images"
    _require(folder, name)
    return list_images(folder, exclude_stems=PARIS_CORRUPT if name == "paris6k" else frozenset())


def _require(folder: Path, name: str) -> None:
    if not folder.is_dir():
        how = (
            f"python -m retrieval.datasets.planar {folder.parent}"
            if name == "demo"
            else f"retrieval download {name} --data {folder.parent.parent}"
        )
        raise DatasetError(f"{folder} is not there: get it with '{how}'")
