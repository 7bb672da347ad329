"""A small collection of generated views, shared by the tests that need an index; and how processes share the tests."""

import logging
import os

if "PYTEST_XDIST_WORKER" in os.environ:  # a process for each core: none of them, nor what it starts, takes more
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
        os.environ.setdefault(variable, "1")
    os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")  # parallel.jobs=-1 starts no more; tests of processes name them

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # what runs on a GPU is tested on torch's CPU device

import cv2
import hypothesis
import numpy as np
import pytest
import skimage.data

from retrieval import config as settings
from retrieval.evaluation.pipeline import build_collection, remove_partial
from retrieval.photographs.folder import list_images
from tests import object_store
from tests.depth import THOROUGH

# no verdict hangs on how fast a machine is, and none of `.ci/run` on what is drawn: `make test` draws anew
hypothesis.settings.register_profile("retrieval", deadline=None, derandomize=THOROUGH)
hypothesis.settings.load_profile("retrieval")

ROOTSIFT = "descriptor.name=rootsift"  # quick; the default has tests of its own (vocabulary/test_bundled.py)
OVERRIDES = [
    ROOTSIFT, "vocabulary.words=400", "vocabulary.iterations=5", "index.signatures=[]", "parallel.jobs=1",
    "parallel.shard_images=3",
]  # fmt: skip


LONGEST = (  # begun first, so that no process is left alone with one of them in the end
    "training/test_loop.py", "running/test_interrupts.py", "index/test_survival.py", "features/test_extractor.py",
    "photographs/test_hostile.py", "search/test_ranker.py", "index/test_collection.py", "web/test_server.py",
    "search/test_spread.py",
    "datasets/test_planar.py", "patchsets/test_sequences.py", "evaluation/test_planning.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """By file; the files themselves in the order of `LONGEST`, then as they were."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get("/".join(item.path.parts[-2:]), len(LONGEST)))


def view(picture, scale, angle, shift=(0.0, 0.0), size=(480, 400)):
    """A similarity view of a picture on grey; returns it with its 2 x 3 transform."""
    transform = cv2.getRotationMatrix2D((picture.shape[1] / 2, picture.shape[0] / 2), angle, scale)
    transform[:, 2] += np.array([size[0] - picture.shape[1], size[1] - picture.shape[0]]) / 2 + shift
    return cv2.warpAffine(picture, transform, size, flags=cv2.INTER_AREA, borderValue=(127, 127, 127)), transform


@pytest.fixture
def one_thread():
    """Of torch: batches of a few patches gain nothing from more, and lose on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _no_log_left_behind():
    """A command run in the tests' own process logs to the stream that pytest closes behind it, from a level on."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)
    for handler in logging.getLogger().handlers[:]:
        if type(handler) is logging.StreamHandler:
            logging.getLogger().removeHandler(handler)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """What is measured of weights that tests draw does not lie in the user's cache."""
    if "HARDNET_WEIGHTS" not in os.environ:
        os.environ["HARDNET_WEIGHTS"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def store():
    """A store of objects on this machine, to which the environment leads."""
    with object_store.running() as found:
        yield found


@pytest.fixture(scope="session")
def config():
    return settings.load(None, OVERRIDES)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Three views each of two scenes, two strangers, one photograph without regions, and two bad files."""
    folder = tmp_path_factory.mktemp("photos")
    coffee, astronaut = skimage.data.coffee()[:, :, ::-1], skimage.data.astronaut()[:, :, ::-1]
    (folder / "scenes").mkdir()
    for name, picture in (("coffee", coffee), ("astronaut", astronaut)):
        for number, (scale, angle) in enumerate([(0.75, 0), (0.65, 4), (0.85, -5)]):
            image, _ = view(picture, scale, angle, (5 * number, -3 * number))
            cv2.imwrite(str(folder / "scenes" / f"{name}_{number}.jpg"), image)
    cv2.imwrite(str(folder / "brick.png"), skimage.data.brick()[:300, :300])
    cv2.imwrite(str(folder / "cat.png"), skimage.data.chelsea()[:, :, ::-1])
    y, x = np.mgrid[0:100, 0:120]
    cv2.imwrite(str(folder / "ramp.png"), (x + y / 2).astype(np.uint8))
    (folder / "notes.jpg").write_text("not a photograph")
    data = (folder / "scenes" / "coffee_0.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    return folder


@pytest.fixture(scope="session")
def index(photos, config, tmp_path_factory):
    """The folder of an index of `photos`."""
    target = tmp_path_factory.mktemp("indexes") / "photos.index"
    build_collection(list_images(photos), target, config)
    remove_partial(target)
    return target


@pytest.fixture(scope="session")
def signed(photos, config, tmp_path_factory):
    """The folder of an index of `photos` with Hamming signatures."""
    target = tmp_path_factory.mktemp("signed") / "photos.index"
    build_collection(list_images(photos), target, settings.load(None, ["index.signatures=[hamming]"], base=config))
    return target
