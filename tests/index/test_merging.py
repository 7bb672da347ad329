"""Segments merged block by block equal the segment that is built of all their images at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.index import merging
from retrieval.index.assembly import IndexedImage, build_segment
from retrieval.index.segment import Segment, open_segment, write_segment

WORDS = 40


def drawn(rng, count, kind):
    images = []
    for _ in range(count):
        features = int(rng.integers(0, 30))
        regions = rng.uniform(1, 90, (features, 6)).astype(np.float32)
        words = rng.integers(0, WORDS, features).astype(np.int32) // int(rng.integers(1, 9))  # bursts
        distinct = len(np.unique(words))
        aggregates = {
            "signs": rng.integers(0, 2**63, (distinct, 2), dtype=np.uint64),
            "vectors": rng.normal(size=(distinct, 8)).astype(np.float16),
        }.get(kind)
        signatures = None if kind == "plain" else rng.integers(0, 2**63, (features, 1), dtype=np.uint64)
        images.append(IndexedImage((100, 120 + len(images)), regions, words, signatures, aggregates))
    return images


def stored(images, folder):
    write_segment(folder, build_segment(images, WORDS), {})
    return open_segment(folder)


@pytest.mark.parametrize("kind", ["plain", "signs", "vectors"])
@settings(max_examples=15)
@given(data=st.data())
def test_merged_segments_equal_one_built_of_all_images(kind, data, tmp_path_factory):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    counts = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=4))
    block, rows = data.draw(st.sampled_from([(1, 1), (7, 40), (1 << 20, 1 << 23)]))
    folder = tmp_path_factory.mktemp("merging")
    images = [drawn(rng, count, kind) for count in counts]
    segments = [stored(some, folder / str(i)) for i, some in enumerate(images)]
    segments[-1] = Segment(**build_segment(images[-1], WORDS))  # one is not on disk
    flat = [image for some in images for image in some]
    kept = np.flatnonzero(rng.random(len(flat)) < data.draw(st.sampled_from([0.5, 1.0])))
    ids = np.full(len(flat), -1, np.int32)
    ids[kept] = rng.permutation(len(kept))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(merging, "BLOCK", block)
        patched.setattr(merging, "ROWS", rows)
        bounds = np.cumsum([0, *counts])
        parts = [(segment, ids[bounds[i] : bounds[i + 1]]) for i, segment in enumerate(segments)]
        with merging.merged(parts, folder) as arrays:
            found = {name: np.array(array) for name, array in arrays.items()}
            assert len(list(folder.glob(".merging.*.tmp"))) == 1
    assert not list(folder.glob(".merging.*"))
    expected = build_segment([flat[i] for i in kept[np.argsort(ids[kept])]], WORDS)
    if not len(kept):  # of no images there is nothing to tell what they would have
        for name in {"signatures", "aggregates"} & found.keys():
            assert not found.pop(name).size
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_what_is_merged_at_once_does_not_grow_with_the_segments(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    segments = [stored(drawn(rng, 60, "signs"), tmp_path / str(i)) for i in range(3)]
    most, read = [], merging._read

    def watched(array, start, stop):
        most.append(stop - start)
        return read(array, start, stop)

    monkeypatch.setattr(merging, "_read", watched)
    monkeypatch.setattr(merging, "BLOCK", 50)
    monkeypatch.setattr(merging, "ROWS", 50)
    parts = [(segment, np.arange(i * 60, i * 60 + 60)) for i, segment in enumerate(segments)]
    heaviest = max(np.diff(segment.word_offsets).max() for segment in segments)
    with merging.merged(parts, tmp_path) as arrays:
        assert len(arrays["images"]) == sum(segment.features for segment in segments) > 1_000
    assert max(most) <= max(50, heaviest)
