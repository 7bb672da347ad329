import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("skimage", reason="the demo extra is not installed")
pytest.importorskip("sklearn", reason="the demo extra is not installed")

from retrieval.datasets import planar
from retrieval.datasets.groundtruth import OXFORD
from retrieval.datasets.oxford import match_images, read_groundtruth
from retrieval.datasets.planar import generate
from retrieval.datasets.planar_views import Crop, View, ViewRange, load_crop, sample_view, visible_part
from retrieval.errors import DatasetError
from retrieval.photographs.folder import list_images

SMALL = ViewRange(good=3, ok=2, junk=1, distractors=4, vocabulary=4)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> planar.PlanarSet:
    return generate(tmp_path_factory.mktemp("planar") / "small", seed=3, views=SMALL)


def fingerprint(root: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        found.update(path.relative_to(root).as_posix().encode())
        if path.is_file():
            found.update(path.read_bytes())
    return found.hexdigest()


def test_counts_and_sizes(small: planar.PlanarSet) -> None:
    images = list_images(small.image_folder)
    vocabulary = list_images(small.vocabulary_folder)
    assert len(images.names) == small.images == 8 * 6 + 4
    assert len(vocabulary.names) == small.vocabulary_images == 4
    for path in [*map(images.path, images.names), *map(vocabulary.path, vocabulary.names)]:
        pixels = cv2.imread(str(path))
        assert pixels is not None
        assert max(pixels.shape) <= 640


def test_default_set_stays_small() -> None:
    views = ViewRange()
    total = len(planar.LANDMARKS) * (views.good + views.ok + views.junk) + views.distractors + views.vocabulary
    assert total <= 200
    assert max(max(frame) for frame in views.frames) <= 640
    assert 9 <= views.good + views.ok <= 12


def test_ground_truth_is_a_benchmark(small: planar.PlanarSet) -> None:
    truth = read_groundtruth(small.groundtruth_folder)
    images = list_images(small.image_folder)
    match_images(truth, images)
    assert len(truth.queries) == small.queries == 40
    assert len(list(small.groundtruth_folder.iterdir())) == 160
    for query in truth.queries:
        landmark = query.name.rsplit("_", 1)[0]
        positives, junk = query.relevant(OXFORD)
        assert query.image in positives
        assert (len(positives), len(junk)) == (5, 1)
        assert not positives & junk
        assert all(stem.startswith(f"{landmark}_") for stem in positives | junk)
        height, width = cv2.imread(str(small.image_folder / f"{query.image}.jpg")).shape[:2]
        x1, y1, x2, y2 = query.box
        assert -0.5 <= x1 < x2 <= width - 0.5
        assert -0.5 <= y1 < y2 <= height - 0.5
    assert len({query.image for query in truth.queries}) == 40


def test_same_seed_same_bytes_and_another_seed_others(small: planar.PlanarSet, tmp_path: Path) -> None:
    views = ViewRange(good=1, ok=1, junk=1, distractors=1, vocabulary=1)
    prints = [fingerprint(generate(tmp_path / name, seed, views).root) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    assert prints[0] == prints[1] != prints[2]


def test_second_call_does_nothing(small: planar.PlanarSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planar, "render", None)
    assert generate(small.root, seed=3, views=SMALL) == small
    about = json.loads((small.root / "about.json").read_text())
    assert (about["seed"], about["version"]) == (3, planar.VERSION)


def test_another_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("-")
    with pytest.raises(DatasetError, match="something else"):
        generate(tmp_path, views=SMALL)
    assert planar.main([str(tmp_path)]) == 2
    assert (tmp_path / "mine.txt").exists()


def test_interrupted_generation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(planar, "_write_others", interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "set", views=ViewRange(good=1, ok=1, junk=1))
    assert not list(tmp_path.iterdir())


def test_visible_fraction_of_known_views() -> None:
    identity, frame = np.eye(3), (200, 100)
    left = np.array([[-9, -9], [49, -9], [49, 200], [-9, 200]])
    assert visible_part(identity, (200, 100), frame, [])[0] == 1.0
    assert visible_part(identity, (400, 100), frame, [])[0] == pytest.approx(0.5, abs=0.01)
    assert visible_part(identity, (200, 100), frame, [left])[0] == pytest.approx(0.75, abs=0.01)
    away = np.array([[1, 0, 500], [0, 1, 0], [0, 0, 1.0]])
    assert visible_part(away, (200, 100), frame, []) == (0.0, (0.0, 0.0, 0.0, 0.0))
    _, box = visible_part(identity, (200, 100), frame, [left])
    assert box == pytest.approx((50, 0, 199, 99), abs=2.5)


def test_visible_fraction_agrees_with_warped_masks() -> None:
    rng, size = np.random.default_rng(0), (300, 200)
    for _ in range(60):
        view = sample_view(rng, size, ViewRange())
        hidden = np.zeros((view.frame[1], view.frame[0]), np.uint8)
        for polygon in view.occluders:
            cv2.fillConvexPoly(hidden, np.rint(polygon).astype(np.int32), 1)
        # pull the frame's free pixels back onto the landmark: an independent way round
        free = cv2.warpPerspective(1 - hidden, np.linalg.inv(view.transform), size, flags=cv2.INTER_NEAREST)
        assert view.visible == pytest.approx(free.mean(), abs=0.02)


def view(visible: float, sharpness: float) -> View:
    return View((640, 480), np.eye(3), (), 0.0, visible, sharpness, (0, 0, 1, 1))


@pytest.mark.parametrize(
    ("visible", "sharpness", "label"),
    [
        (0.9, 0.5, "good"),
        (0.7, 0.5, "ok"),
        (0.26, 0.5, "ok"),
        (0.24, 0.5, "junk"),
        (0.9, 0.0, "junk"),
        (0.9, 0.2, "ok"),
        (0.0, 0.5, "absent"),
    ],
)
def test_labels_follow_the_benchmark(visible: float, sharpness: float, label: str) -> None:
    assert view(visible, sharpness).label(ViewRange()) == label


def overlap(one: Crop, other: Crop) -> bool:
    def box(crop: Crop) -> tuple[int, int, int, int]:
        return crop.box or (0, 0, 100_000, 100_000)

    (x1, y1, w1, h1), (x2, y2, w2, h2) = box(one), box(other)
    return one.file == other.file and x1 < x2 + w2 and x2 < x1 + w1 and y1 < y2 + h2 and y2 < y1 + h1


def test_roles_do_not_share_pixels() -> None:
    others = (*planar.CONFUSERS, *planar.SCENERY)
    assert not [(a, b) for a in planar.VOCABULARY for b in (*planar.LANDMARKS, *others) if overlap(a, b)]
    assert not [(a, b) for a in planar.LANDMARKS for b in others if overlap(a, b)]
    assert not [(a, b) for i, a in enumerate(planar.LANDMARKS) for b in planar.LANDMARKS[:i] if overlap(a, b)]
    for crop in (*planar.LANDMARKS, *planar.VOCABULARY, *others):
        pixels = load_crop(crop)
        assert crop.box is None or pixels.shape[:2] == (crop.box[3], crop.box[2])


def test_missing_photograph_names_the_extra() -> None:
    with pytest.raises(DatasetError, match=r"hardnet-retrieval\[demo\]"):
        load_crop(Crop("none", "no_such_photograph.png"))
