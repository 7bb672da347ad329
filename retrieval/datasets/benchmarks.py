"""From a dataset's name to its photographs, ground truth and the independent set that its vocabulary comes from."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from retrieval.config import DatasetConfig
from retrieval.datasets.distractors import ARCHIVES, PREFIX
from retrieval.datasets.groundtruth import GroundTruth, match_images, spelled_as_stored
from retrieval.datasets.oxford import is_damaged, read_groundtruth
from retrieval.datasets.revisited import crop_queries, photograph_sizes, read_revisited, revisited_images
from retrieval.errors import DatasetError
from retrieval.features.imported import open_source
from retrieval.photographs.folder import ImageSet, list_images
from retrieval.photographs.places import stem_of

logger = logging.getLogger(__name__)

PHOTOGRAPHS = {"roxford5k": "oxford5k", "rparis6k": "paris6k"}  # a revisited benchmark -> the set it is made of


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark run is made on.

    Attributes:
        name: dataset name, with ``+r1m`` where distractors were added; published values are looked up by it.
        images: the database.
        ground_truth: queries, the labels of database images, and the protocols.
        vocabulary_name: name of the independent set.
        vocabulary_images: the photographs the vocabulary is trained on.
        queries: None: queries are database photographs with boxes. Otherwise cropped photographs, one per query,
            named ``<query name>.png``, in the order of the ground truth.
        query_sizes: width, height of the photographs that `queries` were cut out of, pixels, by query name.
        distractors: prefix of the names of database photographs that ground truth does not speak of; None: there are
            none.
        archives: of distractors that are searched as well and are not in `images`: they are fetched and unpacked one
            after another (`distractors.photographs`), for a data folder that is the root of `images`.
    """

    name: str
    images: ImageSet
    ground_truth: GroundTruth
    vocabulary_name: str
    vocabulary_images: ImageSet
    queries: ImageSet | None = None
    query_sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    distractors: str | None = None
    archives: tuple[str, ...] = ()

    def label(self, name: str) -> str:
        """What a database photograph is called in a ranking that is evaluated.

        Its stem, as ground truth has it; for a distractor its whole name, so that it cannot pass for an image of
        the benchmark that has the same stem.
        """
        return name if self._is_distractor(name) else stem_of(name)

    def match(self) -> dict[str, str]:
        """Finds every database image that the ground truth mentions: stem -> name, see `match_images`.

        Raises:
            DatasetError: an image is missing or a stem is ambiguous; distractors are not looked at.
        """
        return match_images(self.ground_truth, ImageSet(self.images.root, self.own_names))

    @property
    def own_names(self) -> tuple[str, ...]:
        """The names in `images` without the distractors."""
        return tuple(name for name in self.images.names if not self._is_distractor(name))

    def _is_distractor(self, name: str) -> bool:
        return self.distractors is not None and name.startswith(self.distractors)


@dataclass(frozen=True)
class Source:
    """Where data lies.

    Attributes:
        data: the data folder, with one folder per downloaded or generated set (docs/formats.md).
        images, groundtruth, vocabulary_images: folders of a collection of one's own (dataset "folder").
        features: folder of features made elsewhere, which stand for the photographs of Oxford5k and Paris6k.
    """

    data: Path
    images: Path | None = None
    groundtruth: Path | None = None
    vocabulary_images: Path | None = None
    features: Path | None = None


def open_benchmark(source: Source, config: DatasetConfig) -> Benchmark:
    """Opens the configured dataset.

    For a revisited one the queries are cropped into ``DATA/<name>/queries``, unless they are there.

    Raises:
        DatasetError: something is not there; the message says how to get it.
    """
    if config.distractors and config.name not in PHOTOGRAPHS:
        raise DatasetError(
            f"dataset.distractors goes with {' and '.join(PHOTOGRAPHS)}, not with {config.name}: leave it false"
        )
    if source.features is not None and config.name not in ("oxford5k", "paris6k"):
        raise DatasetError(f"--features goes with oxford5k and paris6k, not with {config.name}")
    if config.name in PHOTOGRAPHS:
        return _open_revisited(source, config)
    if config.name == "folder":
        if source.images is None or source.groundtruth is None or source.vocabulary_images is None:
            raise DatasetError("the dataset 'folder' needs --images, --groundtruth and --vocabulary-images")
        images = list_images(source.images)
        truth = spelled_as_stored(read_groundtruth(source.groundtruth), images)
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
    """The photographs of a downloaded or generated set (without Paris6k's corrupt ones).

    With features made elsewhere, what they name, likewise; the files themselves need not be there.
    """
    if source.features is not None:
        images = ImageSet(source.features, tuple(open_source(source.features, name).names))
    else:
        folder = source.data / name / "images"
        _require(folder, name)
        images = list_images(folder)
    if name != "paris6k":
        return images
    return ImageSet(images.root, tuple(image for image in images.names if not is_damaged(image)))


def _open_revisited(source: Source, config: DatasetConfig) -> Benchmark:
    """ROxford5k or RParis6k: photographs of the original set, ground truth and crops in a folder of their own."""
    folder = source.data / config.name
    candidates = [folder / f"gnd_{config.name}{extension}" for extension in (".pkl", ".json")]
    truth = next((path for path in candidates if path.is_file()), None)
    if truth is None:
        raise DatasetError(
            f"{candidates[0]} is not there: get it with 'retrieval download {config.name} --data {source.data}'"
        )
    revisited = read_revisited(truth)
    photographs = database_images(source, PHOTOGRAPHS[config.name])
    images = revisited_images(revisited, photographs)
    vocabulary_images = database_images(source, config.vocabulary_from)
    name, prefix = config.name, None
    archives: tuple[str, ...] = ()
    if config.distractors:
        name, prefix = f"{name}+r1m", PREFIX
        images, archives = _with_distractors(source, images)
    return Benchmark(
        name,
        images,
        revisited.ground_truth,
        config.vocabulary_from,
        vocabulary_images,
        queries=crop_queries(revisited, photographs, folder / "queries"),
        query_sizes=photograph_sizes(revisited, photographs),
        distractors=prefix,
        archives=archives,
    )


def _with_distractors(source: Source, images: ImageSet) -> tuple[ImageSet, tuple[str, ...]]:
    """The database and R1M under one root, the data folder; the folder in a name keeps equal stems apart.

    Where the photographs of R1M are not there, the database alone and the archives that they come from.
    """
    folder = source.data / PREFIX
    own = images.root.relative_to(source.data).as_posix()
    names = [f"{own}/{name}" for name in images.names]
    archives: tuple[str, ...] = ARCHIVES
    if folder.is_dir():
        names += [f"{PREFIX}{name}" for name in list_images(folder).names]
        archives = ()
    else:
        logger.info("%s is not there: %d archives of distractors will be taken one by one", folder, len(archives))
    return ImageSet(source.data, tuple(sorted(names, key=os.fsencode))), archives


def _require(folder: Path, name: str) -> None:
    if not folder.is_dir():
        how = (
            f"python -m retrieval.datasets.planar {folder.parent}"
            if name == "demo"
            else f"retrieval download {name} --data {folder.parent.parent}"
        )
        raise DatasetError(f"{folder} is not there: get it with '{how}'")
