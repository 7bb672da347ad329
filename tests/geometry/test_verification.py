"""Putatives and spatial verification against plain-loop transcriptions of their definitions."""

from dataclasses import replace

import numpy as np
import pytest

from retrieval.config import VerificationConfig
from retrieval.geometry import frames, verification
from retrieval.geometry.putatives import QueryWords, concatenate_ranges, find_putatives
from retrieval.geometry.verification import verify
from retrieval.index.segment import Segment
from retrieval.index.snapshot import Snapshot

CONFIG = VerificationConfig()


def pair(query, words, offsets, document_frequencies, config, signatures=None):
    """`find_putatives` on images given one after another; rows are those of `words`, as the tests list them."""
    if not isinstance(query, QueryWords):
        query = QueryWords(query, np.arange(len(query)))
    image_of = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)).astype(np.int32)
    order = np.lexsort((np.arange(len(words)), image_of, words))
    n_words = len(document_frequencies)
    nothing = np.empty(0)
    segment = Segment(
        sizes=np.empty((len(offsets) - 1, 2)),
        offsets=offsets,
        rows=nothing,
        word_offsets=np.searchsorted(words[order], np.arange(n_words + 1)),
        images=image_of[order],
        positions=nothing,
        shapes=nothing,
        angles=nothing,
        document_frequencies=document_frequencies,
        signatures=None if signatures is None else signatures[order].T,
    )
    inverted = Snapshot.of(segment)
    found = find_putatives(query, np.arange(len(offsets) - 1), inverted, config)
    return replace(found, row=order[found.row])


def random_regions(rng, count, side=1000.0, upright=True):
    regions = np.empty((count, 6), np.float32)
    regions[:, :2] = rng.uniform(0, side, (count, 2))
    regions[:, 2] = rng.uniform(3, 20, count)
    regions[:, 3] = rng.uniform(-5, 5, count)
    regions[:, 4] = rng.uniform(3, 20, count)
    regions[:, 5] = 0 if upright else rng.uniform(-3, 3, count)
    return regions


def make_case(seed, n_images=6, n_query=60, n_words=40, upright=True):
    """A query and images; some images are noisy affine views of the query, with wrong words mixed in."""
    rng = np.random.default_rng(seed)
    query_regions = random_regions(rng, n_query, upright=upright)
    query_words = rng.integers(0, n_words, n_query).astype(np.int32)
    words, regions, lengths = [], [], []
    for i in range(n_images):
        count = int(rng.integers(0, 50))
        image_words = rng.integers(0, n_words, count).astype(np.int32)
        image_regions = random_regions(rng, count, upright=upright)
        if i % 2 and count:
            seen = rng.choice(n_query, min(count, n_query) // 2, replace=False)
            turn = rng.uniform(-0.2, 0.2)
            linear = rng.uniform(0.6, 1.6) * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            transform = np.hstack([linear, rng.uniform(-50, 50, (2, 1))])
            view = frames.carry(transform, query_regions[seen])
            view[:, :2] += rng.normal(0, 3, (len(seen), 2))
            if upright:
                view[:, 5] = 0
            image_words[: len(seen)] = query_words[seen]
            image_regions[: len(seen)] = view
        order = np.argsort(image_words, kind="stable")
        words.append(image_words[order])
        regions.append(image_regions[order])
        lengths.append(count)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    document_frequencies = rng.integers(1, 10, n_words)
    sides = rng.uniform(700, 1500, n_images)
    all_regions = np.concatenate([np.empty((0, 6), np.float32), *regions])
    return (
        query_regions,
        query_words,
        np.concatenate(words),
        all_regions,
        offsets,
        document_frequencies,
        sides,
    )


def putatives_by_loops(query_words, words, offsets, document_frequencies, config):
    result = []
    for image in range(len(offsets) - 1):
        rows = range(offsets[image], offsets[image + 1])
        groups = []
        for word in sorted(set(query_words.tolist())):
            pairs = [(q, r) for r in rows if words[r] == word for q in np.flatnonzero(query_words == word)]
            if pairs and len(pairs) <= config.max_pairs_per_word:
                groups.append((document_frequencies[word], word, pairs))
        total, taken = 0, []
        for _, word, pairs in sorted(groups, key=lambda group: group[:2]):
            total += len(pairs)
            if total > config.max_putatives:
                break
            taken += [(word, q, r) for q, r in pairs]
        result.append(taken)
    return result


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("config", [CONFIG, VerificationConfig(max_pairs_per_word=3, max_putatives=17)])
def test_putatives_equal_loops(seed, config):
    _, query_words, words, _, offsets, frequencies, _ = make_case(seed)
    found = pair(query_words, words, offsets, frequencies, config)
    expected = putatives_by_loops(query_words, words, offsets, frequencies, config)
    for image, pairs in enumerate(expected):
        part = slice(found.starts[image], found.starts[image + 1])
        assert (found.slot[part] == image).all()
        assert list(zip(found.query[part], found.row[part], strict=True)) == [(q, r) for _, q, r in pairs]
        groups = found.group[part]
        for k, (word, _, _) in enumerate(pairs):
            same = [(q, r) for w, q, r in pairs if w == word]
            assert found.capacity[groups[k]] == min(len({q for q, _ in same}), len({r for _, r in same}))


def similar_putatives_by_loops(query, words, offsets, document_frequencies, signatures, config):
    """(query feature, row) pairs of every image: close signatures only, the closest of a word, then of the image."""
    result = []
    for image in range(len(offsets) - 1):
        groups = []
        for word in set(words[offsets[image] : offsets[image + 1]].tolist()) & set(query.words.tolist()):
            pairs = []
            for row in range(offsets[image], offsets[image + 1]):
                for entry in np.flatnonzero(query.words == word):
                    differing = int(signatures[row][0] ^ query.signatures[entry][0]).bit_count()
                    if words[row] == word and differing <= config.max_hamming:
                        pairs.append((differing, row, entry))
            pairs.sort()
            groups.append((document_frequencies[word], word, pairs[: config.max_pairs_per_word]))
        flat = [
            (differing, rank, row, entry)
            for rank, (_, _, pairs) in enumerate(sorted(groups, key=lambda group: group[:2]))
            for differing, row, entry in pairs
        ]
        taken = sorted(flat)[: config.max_putatives]
        result.append(sorted((int(query.owners[entry]), int(row)) for _, _, row, entry in taken))
    return result


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "config",
    [VerificationConfig(max_hamming=30), VerificationConfig(max_hamming=33, max_pairs_per_word=3, max_putatives=9)],
)
def test_putatives_with_signatures_equal_loops(seed, config):
    _, query_words, words, _, offsets, frequencies, _ = make_case(seed)
    rng = np.random.default_rng(seed)
    # every feature has two words, as with multiple assignment
    second = (query_words + rng.integers(1, 40, len(query_words))) % 40
    both = np.stack([query_words, second.astype(np.int32)], axis=1).ravel()
    query = QueryWords(
        both, np.repeat(np.arange(len(query_words)), 2), rng.integers(0, 2**64, (len(both), 1), np.uint64)
    )
    signatures = rng.integers(0, 2**64, (len(words), 1), np.uint64)
    found = pair(query, words, offsets, frequencies, config, signatures)
    expected = similar_putatives_by_loops(query, words, offsets, frequencies, signatures, config)
    assert sum(map(len, expected)) > 20
    for image, pairs in enumerate(expected):
        part = slice(found.starts[image], found.starts[image + 1])
        assert sorted(zip(found.query[part].tolist(), found.row[part].tolist(), strict=True)) == pairs
    for group in range(len(found.capacity)):
        inside = found.group == group
        assert found.capacity[group] == min(len(set(found.query[inside])), len(set(found.row[inside])))
        assert len(set(words[found.row[inside]])) == 1
    assert (np.diff(found.group) >= 0).all()


def verify_by_loops(pairs, query_regions, query_side, image_regions, image_side, config):
    """One image; `pairs` are (word, query, row); image_regions is indexed by row. Float64 throughout."""
    query_scale, image_scale = 1024 / query_side, 1024 / image_side
    if len(pairs) < config.min_inliers:
        return 0, None, []
    query = [query_regions[q, :2].astype(float) * query_scale for _, q, _ in pairs]
    image = [image_regions[r, :2].astype(float) * image_scale for _, _, r in pairs]
    query_frame = [frames.to_frames(query_regions[q : q + 1])[0] * query_scale for _, q, _ in pairs]
    image_frame = [frames.to_frames(image_regions[r : r + 1])[0] * image_scale for _, _, r in pairs]
    area = [np.linalg.det(d) / np.linalg.det(s) for s, d in zip(query_frame, image_frame, strict=True)]

    def errors(linear, shift):
        inverse = np.linalg.inv(linear)
        result = []
        for i in range(len(pairs)):
            forward = linear @ query[i] + shift - image[i]
            backward = inverse @ (image[i] - shift) - query[i]
            error = forward @ forward + backward @ backward
            change = area[i] / abs(np.linalg.det(linear))
            similar = 1 / config.max_area_ratio < change < config.max_area_ratio
            result.append(error if similar and error < config.tolerance**2 else np.inf)
        return result

    def limited(found):
        count = 0
        for word in {pairs[i][0] for i in found}:
            same = [(q, r) for w, q, r in pairs if w == word]
            capacity = min(len({q for q, _ in same}), len({r for _, r in same}))
            count += min(capacity, sum(pairs[i][0] == word for i in found))
        return count

    def greedy(error):
        chosen, used_query, used_row = [], set(), set()
        for i in sorted(range(len(pairs)), key=lambda i: (error[i], i)):
            _, q, r = pairs[i]
            if np.isfinite(error[i]) and q not in used_query and r not in used_row:
                chosen.append(i)
                used_query.add(q)
                used_row.add(r)
        return sorted(chosen)

    best_count, best = -1, None
    for h in range(len(pairs)):
        linear = image_frame[h] @ np.linalg.inv(query_frame[h])
        shift = image[h] - linear @ query[h]
        count = limited([i for i, e in enumerate(errors(linear, shift)) if np.isfinite(e)])
        if count > best_count:
            best_count, best = count, (linear, shift)
    if best_count < config.min_inliers:
        return 0, None, []
    linear, shift = best
    chosen = greedy(errors(linear, shift))
    if len(chosen) >= max(4, config.min_inliers):
        for _ in range(config.refinements):
            design = np.array([[*query[i], 1.0] for i in chosen])
            solution = np.linalg.lstsq(design, np.array([image[i] for i in chosen]), rcond=None)[0].T
            if np.linalg.det(solution[:, :2]) <= 1e-6:
                break
            again = greedy(errors(solution[:, :2], solution[:, 2]))
            if len(again) <= len(chosen):
                break
            chosen, linear, shift = again, solution[:, :2], solution[:, 2]
    if len(chosen) < config.min_inliers:
        return 0, None, []
    transform = np.hstack([linear * query_scale / image_scale, shift[:, None] / image_scale])
    return len(chosen), transform, [(pairs[i][1], pairs[i][2]) for i in chosen]


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("seed", range(10))
def test_verification_equals_loops(seed, upright):
    regions_q, words_q, words, regions, offsets, frequencies, sides = make_case(seed, upright=upright)
    found = pair(words_q, words, offsets, frequencies, CONFIG)
    outcome = verify(found, regions_q, 1100.0, regions[found.row], sides, CONFIG)
    expected = putatives_by_loops(words_q, words, offsets, frequencies, CONFIG)
    for image, pairs in enumerate(expected):
        count, transform, matches = verify_by_loops(pairs, regions_q, 1100.0, regions, sides[image], CONFIG)
        assert outcome.inliers[image] == count
        if transform is None:
            assert np.isnan(outcome.transforms[image]).all()
            assert len(outcome.matches[image]) == 0
        else:
            np.testing.assert_allclose(outcome.transforms[image], transform, rtol=1e-4, atol=1e-2)
            assert sorted(map(tuple, outcome.matches[image].tolist())) == sorted(matches)
    assert (outcome.inliers > 0).any()


def test_views_are_found_and_strangers_are_not():
    rng = np.random.default_rng(5)
    query = random_regions(rng, 80)
    words = np.arange(80, dtype=np.int32)
    transform = np.array([[0.8, 0.0, 30.0], [0.1, 0.9, -20.0]])
    view = frames.carry(transform, query)
    stranger = random_regions(rng, 80)
    offsets = np.array([0, 80, 160, 160])  # the third image is empty
    all_words = np.concatenate([words, words])
    found = pair(words, all_words, offsets, np.ones(80, int), CONFIG)
    regions = np.concatenate([view, stranger])
    outcome = verify(found, query, 1024.0, regions[found.row], np.array([1024.0, 1024.0, 1024.0]), CONFIG)
    assert outcome.inliers[0] == 80
    np.testing.assert_allclose(outcome.transforms[0], transform, atol=1e-3)
    assert outcome.inliers[1] < 10
    assert outcome.inliers[2] == 0


def test_without_one_to_one_a_repeated_feature_would_count_often():
    """Five image features of one word at one place pair with one query feature: one inlier, not five."""
    query = random_regions(np.random.default_rng(0), 1)
    image = np.repeat(query, 5, axis=0)
    word = np.zeros(1, np.int32)
    found = pair(word, np.zeros(5, np.int32), np.array([0, 5]), np.array([1]), CONFIG)
    assert len(found.query) == 5
    assert verify(found, query, 1024.0, image[found.row], np.array([1024.0]), CONFIG).inliers[0] == 0


@pytest.mark.parametrize("seed", range(20))
def test_one_to_one_equals_sequential_greedy(seed):
    """All pairs lie within the tolerance of the identity, at whole distances, so that there are ties."""
    rng = np.random.default_rng(seed)
    slot = np.sort(rng.integers(0, 3, 60))
    query, row, distance = rng.integers(0, 8, 60), rng.integers(0, 8, 60), rng.integers(0, 20, 60)
    chosen, used = [], set()
    for i in sorted(range(60), key=lambda i: (distance[i], i)):
        if ("q", slot[i], query[i]) not in used and ("r", slot[i], row[i]) not in used:
            chosen.append(i)
            used |= {("q", slot[i], query[i]), ("r", slot[i], row[i])}
    points = np.zeros((4, 60), np.float32)
    points[2] = distance
    found = verification._agreeing(
        np.arange(3),
        np.searchsorted(slot, np.arange(4)),
        query,
        row,
        np.tile(np.eye(2, 3), (3, 1, 1)),
        points,
        np.zeros(60, np.float32),
        1000.0,
        1.0,
    )
    assert found.tolist() == sorted(chosen)


def test_concatenate_ranges():
    starts, ends = np.array([3, 7, 7, 0]), np.array([5, 7, 9, 1])
    assert concatenate_ranges(starts, ends).tolist() == [3, 4, 7, 8, 0]
    assert concatenate_ranges(np.array([], int), np.array([], int)).tolist() == []


def test_images_of_a_batch_do_not_share_their_shortcut():
    """One image whose pairs are all of different words, and one of fewer pairs where a word pairs up five times."""
    rng = np.random.default_rng(2)
    query = random_regions(rng, 30)
    query[1:6] = query[0]  # five copies of a place
    words = np.arange(30, dtype=np.int32)
    words[1:6] = 0
    singles = query[6:].copy()
    singles[:, :2] = rng.uniform(0, 1000, (24, 2))
    burst = np.concatenate([query[:1], random_regions(rng, 3)])
    all_words = np.concatenate([np.arange(6, 30), [0, 6, 7, 8]]).astype(np.int32)
    offsets = np.array([0, 24, 28])
    found = pair(words, all_words, offsets, np.ones(30, int), CONFIG)
    regions = np.concatenate([singles, burst])
    outcome = verify(found, query, 1024.0, regions[found.row], np.array([1024.0, 1024.0]), CONFIG)
    pairs = putatives_by_loops(words, all_words, offsets, np.ones(30, int), CONFIG)
    for image in range(2):
        count, _, _ = verify_by_loops(pairs[image], query, 1024.0, regions, 1024.0, CONFIG)
        assert outcome.inliers[image] == count
    counts, _ = verification._best_hypotheses(
        found, verification._pairs(found, query, 1.0, regions[found.row], np.ones(2)), CONFIG
    )
    assert counts[1] < 4  # the burst is one inlier, not six
