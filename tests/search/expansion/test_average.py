"""Average query expansion against its formula."""

import numpy as np

from retrieval.geometry import frames
from retrieval.search.expansion.average import Source, consolidate, expand, is_same_picture
from retrieval.search.queries import QueryFeatures


def query(box=None):
    rng = np.random.default_rng(0)
    regions = np.zeros((5, 6), np.float32)
    regions[:, :2] = rng.uniform(20, 80, (5, 2))
    regions[:, [2, 4]] = 3
    words = np.array([1, 1, 2, 3, 4], np.int32)
    return QueryFeatures(words, regions, np.ones(5, np.float32), (100, 90), box)


def test_average_of_term_vectors():
    """q_avg = (q0 + sum d_i) / (m + 1), counting only what falls inside the query box."""
    start = query((10, 10, 90, 85))
    transform = np.array([[2.0, 0, 5], [0, 2.0, -3]])
    inside = frames.carry(transform, start.regions[:3])
    outside = inside.copy()
    outside[:, 0] += 1000
    source = Source(transform, np.array([1, 7, 7, 8, 8, 8], np.int32), np.concatenate([inside, outside]))
    words, weights = expand(start, [source, source]).terms()
    expected = {1: (2 + 1 + 1) / 3, 2: 1 / 3, 3: 1 / 3, 4: 1 / 3, 7: (2 + 2) / 3}
    assert words.tolist() == sorted(expected)
    np.testing.assert_allclose(weights, [expected[w] for w in sorted(expected)], rtol=1e-6)


def test_back_projected_regions_lie_in_the_query_photograph():
    start = query()
    transform = np.array([[0.7, 0.1, 5], [-0.2, 0.9, 30]])
    source = Source(transform, start.words, frames.carry(transform, start.regions))
    expanded = expand(start, [source])
    np.testing.assert_allclose(frames.to_frames(expanded.regions[5:]), frames.to_frames(start.regions), atol=1e-3)
    np.testing.assert_allclose(expanded.regions[5:, :2], start.regions[:, :2], atol=1e-3)


def test_without_a_box_the_photograph_is_the_box():
    start = query()
    source = Source(np.eye(2, 3), np.array([9], np.int32), np.array([[150, 20, 3, 0, 3, 0]], np.float32))
    assert 9 not in expand(start, [source]).words


def test_consolidation_keeps_the_query_and_what_sources_agree_on():
    """Plain loops: the query as it is, then a feature per word and 32-pixel cell (at 1024 px) by what is behind it."""
    rng = np.random.default_rng(4)
    own, everything = 40, 400
    regions = np.zeros((everything, 6), np.float32)
    regions[:, :2] = rng.uniform(0, 300, (everything, 2))
    regions[:, [2, 4]] = 2
    words = rng.integers(0, 6, everything).astype(np.int32)
    weights = rng.choice([0.125, 0.25], everything).astype(np.float32)
    expanded = QueryFeatures(words, regions, weights, (512, 400), None)
    cells: dict[tuple[int, int, int], list[int]] = {}
    for i in range(everything):
        x, y = regions[i, :2] / 16
        cells.setdefault((int(words[i]), int(x // 1), int(y // 1)), []).append(i)
    for limit in (10, 60, 150, 1000):
        others = sorted((g for g in cells.values() if g[0] >= own), key=lambda g: (-sum(weights[g]), g[0]))
        expected = [*range(own), *sorted(g[0] for g in others[: max(0, limit - own)])]
        found = consolidate(expanded, own, limit)
        np.testing.assert_array_equal(found.regions, regions[expected])
        np.testing.assert_array_equal(found.words, words[expected])


def test_a_picture_is_known_by_its_matches_whole_or_cropped():
    rng = np.random.default_rng(2)
    regions = rng.uniform(0, 500, (40, 6)).astype(np.float32)
    assert is_same_picture(regions, regions)
    cropped = regions.copy()
    cropped[:, :2] -= (120, 35)
    cropped[:, :2] += rng.uniform(-0.4, 0.4, (40, 2))
    cropped[:3, :2] += 20  # some matches are with others of the same word
    assert is_same_picture(regions, cropped)
    another = regions.copy()
    another[:, :2] *= 1.02
    assert not is_same_picture(regions, another)
    shaken = regions.copy()
    shaken[:, :2] += rng.normal(0, 2, (40, 2))
    assert not is_same_picture(regions, shaken)
