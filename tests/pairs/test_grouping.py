"""Groups: what belongs together, what is kept apart, and which photographs are copies."""

import itertools
import json
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st

import retrieval
from retrieval import config as settings_module
from retrieval.commands.cli import main
from retrieval.datasets import planar
from retrieval.datasets.planar_views import ViewRange
from retrieval.errors import RetrievalError
from retrieval.evaluation.pipeline import build_collection
from retrieval.geometry.significance import significance
from retrieval.pairs import grouping
from retrieval.pairs.copies import aligned, common
from retrieval.pairs.grouping import grouped, parted
from retrieval.pairs.links import Links, cells_of, none
from retrieval.photographs.folder import list_images
from retrieval.vocabulary.hamming import pack

CONFIG = settings_module.VerificationConfig()
LEFT, RIGHT, ALL = (np.zeros((16, 16), bool) for _ in range(3))
LEFT[:, :8], RIGHT[:, 8:], ALL[:] = True, True, True


def links(*edges):
    """Links of (first, second, inliers, cells of the first, cells of the second); 60 pairs each."""
    if not edges:
        return none()
    first, second, inliers, one, other = zip(*((*edge, ALL, ALL)[:5] for edge in edges), strict=True)
    count = len(edges)
    cells = pack(np.stack([np.stack(one), np.stack(other)], axis=1).reshape(count, 2, 256))
    whole = np.array(inliers, np.int32)
    nothing = np.zeros(count, np.int32)
    transforms = np.tile(np.array([[1.0, 0, 0], [0, 1, 0]]), (count, 1, 1))
    numbers = np.array(first, np.int32), np.array(second, np.int32), np.ones(count), whole, nothing, nothing
    return Links(*numbers, nothing + 60, cells, transforms, np.full(count, 3, np.uint8), np.zeros(count, bool))


def sets(found):
    groups = {}
    for photograph, group in enumerate(found.tolist()):
        groups.setdefault(group, set()).add(photograph)
    assert all(group == min(members) for group, members in groups.items())
    return sorted((members for members in groups.values() if len(members) > 1), key=min)


def clique(members, inliers=30):
    return [(a, b, inliers) for a, b in itertools.combinations(members, 2)]


def test_the_links_of_these_tests_say_what_they_mean():
    sure = significance(np.array([30, 10, 8]), np.array([60] * 3), CONFIG)
    assert sure[0] > 15
    assert 0 < sure[2] < sure[1] < 8


def test_no_links_no_groups():
    assert sets(grouped(none(), 3, True, CONFIG)) == []
    assert grouped(none(), 0, True, CONFIG).shape == (0,)


def test_a_chain_of_significant_links_is_a_group():
    chain = links((0, 1, 30), (1, 2, 30), (2, 3, 30))
    assert sets(grouped(chain, 5, True, CONFIG)) == [{0, 1, 2, 3}]


def test_one_link_does_not_melt_two_groups():
    both = clique(range(5)) + clique(range(5, 10))
    for inliers in (8, 25):
        assert sets(grouped(links(*both, (0, 5, inliers)), 10, True, CONFIG)) == [{*range(5)}, {*range(5, 10)}]
    hub = [(0, other, 25) for other in range(5, 9)]  # many links of one photograph are one witness
    assert len(sets(grouped(links(*both, *hub), 10, True, CONFIG))) == 2


def test_several_photographs_that_agree_join_two_groups():
    both = clique(range(5)) + clique(range(5, 10))
    assert sets(grouped(links(*both, (0, 5, 8), (1, 6, 8)), 10, True, CONFIG)) == [{*range(10)}]


def test_a_photograph_joins_by_one_sure_link_or_several_weaker_ones():
    group = clique(range(5))
    for extra, joins in (([(0, 5, 30)], True), ([(0, 5, 8)], False), ([(0, 5, 8), (1, 5, 8)], True)):
        expected = {*range(6)} if joins else {*range(5)}
        assert sets(grouped(links(*group, *extra), 6, True, CONFIG)) == [expected]


def test_two_photographs_alone_take_a_sure_link():
    assert sets(grouped(links((0, 1, 10)), 2, True, CONFIG)) == []
    assert sets(grouped(links((0, 1, 10)), 2, True, CONFIG, "chance")) == [{0, 1}]
    assert sets(grouped(links((0, 1, 30)), 2, True, CONFIG)) == [{0, 1}]
    without = grouped(links((0, 1, 20)), 2, False, CONFIG)  # 20 inliers of words alone are "perhaps"
    assert sets(without) == []


def test_inliers_on_a_stamp_do_not_count():
    stamped = links((0, 1, 30))
    assert sets(grouped(replace(stamped, stamped=stamped.inliers - 3), 2, True, CONFIG)) == []


def test_a_photograph_of_two_things_belongs_to_the_one_of_more_evidence():
    towers = clique(range(4), 30)
    walls = [(a, b, 25) for a, b in itertools.combinations(range(5, 8), 2)]
    middle = [(i, 4, 30, ALL, LEFT) for i in range(4)] + [(4, i, 25, RIGHT, ALL) for i in range(5, 8)]
    found = sets(grouped(links(*towers, *walls, *middle), 8, True, CONFIG))
    assert found == [{*range(5)}, {*range(5, 8)}]
    melted = [(i, 4, 30, ALL, ALL) for i in range(4)] + [(4, i, 25, ALL, ALL) for i in range(5, 8)]
    both = links(*towers, *walls, *middle)
    parts, owners = parted(both, both.significance(CONFIG))
    assert sorted(Counter(owners.tolist()).values()) == [1] * 7 + [2]
    one = links(*towers, *walls, *melted)
    assert len(parted(one, one.significance(CONFIG))[1]) == 8
    assert parts.shape == (len(towers) + len(walls) + len(middle), 2)


@settings(max_examples=60)
@given(st.lists(st.sampled_from(range(8)), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_a_photograph_of_many_links_has_the_parts_that_it_has_with_few(spots, random):
    """Links in one of eight rows of cells, each in most of its row: however few are compared, a part is a row."""
    cells = np.zeros((len(spots), 256), bool)
    for link, spot in enumerate(spots):
        cells[link, spot * 32 + np.array(random.sample(range(32), 24))] = True  # two of them share 16 at least
    strengths = np.array([random.random() for _ in spots])
    for head in (1, 3, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(grouping, "HEAD", head)
            parts = grouping._parts_of(pack(cells), strengths).tolist()
        assert len(set(zip(parts, spots, strict=True))) == len(set(parts)) == len(set(spots))
        assert set(parts) == set(range(len(set(spots))))


def test_memory_does_not_grow_with_the_square_of_a_photographs_links():
    hub = links(*[(0, other, 30, RIGHT if other % 3 else LEFT, ALL) for other in range(1, 4001)])
    strengths = hub.significance(CONFIG)
    tracemalloc.start()
    try:
        parts, owners = parted(hub, strengths)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert Counter(owners.tolist())[0] == 2
    assert len(set(parts[2::3, 0])) == len(set(parts[np.arange(4000) % 3 != 2, 0])) == 1
    assert peak < 40 * 2**20  # a matrix of 4000 x 4000 float32 alone is 61 MiB


@settings(max_examples=40)
@given(st.data())
def test_the_numbers_of_photographs_do_not_matter(data):
    """Renaming photographs renames groups; and every group hangs together by links."""
    count = data.draw(st.integers(2, 9))
    pairs = data.draw(
        st.lists(st.sampled_from(list(itertools.combinations(range(count), 2))), unique=True, max_size=18)
    )
    # all join by themselves and differ in significance: no order is left to numbers
    edges = [(a, b, 24 + 2 * k) for k, (a, b) in enumerate(pairs)]
    order = data.draw(st.permutations(range(count)))
    found = sets(grouped(links(*edges), count, True, CONFIG))
    turned = [(min(order[a], order[b]), max(order[a], order[b]), i) for a, b, i in edges]
    again = sets(grouped(links(*turned), count, True, CONFIG))
    assert sorted(({order[member] for member in group} for group in found), key=min) == again
    for group in found:
        seen, new = set(), {min(group)}
        while new:
            seen |= new
            new = {b for a, b in [*pairs, *((b, a) for a, b in pairs)] if a in seen and b in group} - seen
        assert seen == group


def test_another_confidence_is_refused():
    with pytest.raises(RetrievalError, match="unknown confidence 'likely': use 'sure', 'perhaps', 'chance'"):
        grouped(none(), 1, True, CONFIG, "likely")


def test_cells_by_hand():
    size = np.array([160, 320])
    bits = np.zeros((16, 16), bool)
    bits[0, 0] = bits[15, 15] = bits[1, 2] = True
    points = np.array([[-0.5, -0.5], [159.4, 319.4], [20.0, 20.0], [25.0, 38.0]])
    assert np.array_equal(cells_of(points, size), pack(bits.ravel()))


def test_a_link_has_the_grade_of_a_hit():
    """The fewer cells of the two count: 12 inliers in 6 cells of either photograph are perhaps the same."""
    found = links((0, 1, 12), (0, 2, 25), (1, 2, 6))
    for cells, other, expected in ((7, 7, [2, 2, 0]), (7, 6, [1, 2, 0]), (6, 7, [1, 2, 0]), (7, 200, [2, 2, 0])):
        shown = np.stack([pack(np.arange(256) < count) for count in (cells, other)])
        assert replace(found, cells=np.tile(shown, (3, 1, 1))).levels(True).tolist() == expected


def test_aligned_by_hand():
    rng = np.random.default_rng(0)
    first = rng.uniform(0, 1000, (60, 2))
    transform = np.array([[0.5, 0, 30], [0, 0.5, -20]])
    second = first @ transform[:, :2].T + transform[:, 2]
    assert aligned(first, second, transform, 1000, 500) == 60
    moved = second.copy()
    moved[:20] += 30
    assert aligned(first, moved, transform, 1000, 500) == 40
    turn = np.deg2rad(5)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    assert aligned(first, first @ rotation.T, np.hstack([rotation, np.zeros((2, 1))]), 1000, 1000) < 12
    assert aligned(first[:5], second[:5], transform, 1000, 500) == 0


def test_the_common_part_by_hand():
    transforms = np.array([[[0.5, 0, 0], [0, 0.5, 0]], [[1, 0, 50], [0, 1, 0]], [[1, 0, 500], [0, 1, 0]]], float)
    transforms[0, :, 2] = -0.25  # halves a picture: (x + 0.5) / 2 - 0.5
    sizes = np.array([[200, 100]] * 3)
    others = np.array([[100, 50], [200, 100], [200, 100]])
    assert common(transforms, sizes, others) == pytest.approx([1, 0.75, 0])


@pytest.fixture(scope="module")
def landmarks(tmp_path_factory):
    """A collection of four photographs of each of the demo set's eight landmarks; they share seven backgrounds."""
    folder = tmp_path_factory.mktemp("landmarks")
    made = planar.generate(folder / "set", views=ViewRange(good=4, ok=0, junk=0, distractors=1, vocabulary=1))
    config = settings_module.load(None, ["parallel.jobs=1", "images.exif=ignore"])
    build_collection(list_images(made.image_folder), folder / "landmarks.index", config)
    return folder / "landmarks.index"


def test_eight_landmarks_are_eight_groups(landmarks):
    groups = retrieval.Collection.open(landmarks).groups()
    shown = [Counter(Path(image.name).name.rsplit("_", 1)[0] for image in group.images) for group in groups]
    found = {}
    for members in shown:
        of = {name: count for name, count in members.items() if name != "general" and count > 1}
        assert len(of) <= 1, shown
        for name, count in of.items():
            found[name] = max(found.get(name, 0), count)
    assert found.keys() == {crop.name for crop in planar.LANDMARKS}, shown
    assert sum(found.values()) >= 8 * 3


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A photograph, copies of it, and another photograph of the thing; and one of something else."""
    folder = tmp_path_factory.mktemp("copied")
    photos = folder / "photos"
    photos.mkdir()
    coffee = np.ascontiguousarray(skimage.data.coffee()[:, :, ::-1])
    height, width = coffee.shape[:2]
    cv2.imwrite(str(photos / "a.png"), coffee)
    cv2.imwrite(str(photos / "again.jpg"), coffee, [cv2.IMWRITE_JPEG_QUALITY, 50])
    cv2.imwrite(str(photos / "small.png"), cv2.resize(coffee, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA))
    cv2.imwrite(str(photos / "cut.png"), coffee[40:-30, 60:-50])
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    seen = corners + np.array([[60, 40], [-20, 10], [-50, -60], [15, -25]], np.float32)
    view = cv2.warpPerspective(
        coffee, cv2.getPerspectiveTransform(corners, seen), (width, height), borderValue=(99,) * 3
    )
    cv2.imwrite(str(photos / "view.png"), view)
    cv2.imwrite(str(photos / "cat.png"), skimage.data.chelsea()[:, :, ::-1])
    build_collection(list_images(photos), folder / "copied.index", settings_module.load(None, ["parallel.jobs=1"]))
    return folder / "copied.index"


def test_copies_are_told_from_other_photographs_of_the_thing(copied):
    (group,) = retrieval.Collection.open(copied).groups()
    assert [image.name for image in group.images] == ["a.png", "again.jpg", "cut.png", "small.png", "view.png"]
    assert group.copies == (("a.png", "again.jpg", "cut.png", "small.png"),)
    assert {image.name: image.copy_of for image in group.images}["view.png"] is None
    assert [one.images for one in group.of_copies()] == [group.images[:4]]


def test_the_command(copied, tmp_path, capsys):
    pairs = tmp_path / "copied"
    assert main(["groups", str(copied), "--json", "--pairs", str(pairs)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "groups": [
            {
                "images": [
                    {"name": name, "links": 4, "copy_of": copy}
                    for name, copy in (
                        ("a.png", None), ("again.jpg", "a.png"), ("cut.png", "a.png"), ("small.png", "a.png"),
                        ("view.png", None),
                    )
                ]
            }
        ]
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["copied.pairs"]
    assert main(["groups", str(copied), "--copies"]) == 0
    said = capsys.readouterr().out
    assert "again.jpg  copy of a.png" in said
    assert "1 groups of 4 photographs; 2 are in none" in said
    assert (copied.parent / "copied.index.pairs").is_dir()
