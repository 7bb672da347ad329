"""Hamming embedding, votes, ASMK and Hamming query expansion against plain-loop transcriptions of the formulas."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.config import AsmkConfig, HammingConfig, HqeConfig
from retrieval.errors import ArtefactError, RetrievalError
from retrieval.geometry.putatives import QueryWords
from retrieval.index import scoring
from retrieval.index.assembly import IndexedImage, build_segment
from retrieval.index.segment import Segment
from retrieval.index.snapshot import Snapshot
from retrieval.search.expansion import hamming as hqe
from retrieval.search.ranking import Wanted, listed
from retrieval.vocabulary import hamming

WORDS, BITS, D = 12, 128, 128
seeds = st.integers(0, 100_000)


def differing(one, other):
    return sum(int(a ^ b).bit_count() for a, b in zip(one.tolist(), other.tolist(), strict=True))


def near(rng, base, flips):
    """Signatures (m, 2) that differ from the bases (m, 2) in about as many bits as asked for (m,)."""
    bits = hamming.unpack(base)
    noise = rng.random(bits.shape) < flips[:, None] / BITS
    return hamming.pack(bits ^ noise)


def make_collection(seed, n_images=9, most=25):
    """Images whose signatures lie at all distances from each other, and their segment."""
    rng = np.random.default_rng(seed)
    prototypes = rng.integers(0, 2**64, (WORDS, 2), np.uint64, endpoint=False)
    images = []
    for _ in range(n_images):
        count = int(rng.integers(0, most))
        words = rng.zipf(1.4, count).clip(max=WORDS - 1).astype(np.int32)
        signatures = near(rng, prototypes[words], rng.uniform(0, 40, count))
        regions = np.abs(rng.normal(100, 30, (count, 6))).astype(np.float32)
        images.append(IndexedImage((300, 300), regions, words, signatures))
    return rng, prototypes, images, Segment(**build_segment(images, WORDS))


def make_query(rng, prototypes, features=10, several=3):
    words = np.stack([rng.permutation(WORDS)[:several] for _ in range(features)]).astype(np.int32)
    signatures = near(rng, prototypes[words.ravel()], rng.uniform(0, 40, words.size))
    return QueryWords(words.ravel(), np.repeat(np.arange(features), several), signatures)


def idf_of(images):
    found = []
    for word in range(WORDS):
        having = sum(word in image.words for image in images)
        found.append(math.log(len(images) / having) if having else 0.0)
    return found


def votes_by_loops(images, query, config, strict, weighted):
    idf = idf_of(images)
    scores, close = [], []
    for image in images:
        total, strictly = 0.0, 0
        for asked, bits in zip(query.words, query.signatures, strict=True):  # one word of a feature is one burst
            weights = []
            for word, signature in zip(image.words, image.signatures, strict=True):
                if word == asked:
                    h = differing(signature, bits)
                    strictly += h <= strict
                    if h <= config.threshold:
                        weight = math.exp(-((h / config.sigma) ** 2))
                        weights.append(weight * idf[word] ** 2 if weighted else weight)
            if weights:
                total += sum(weights) / math.sqrt(len(weights))
        norm = math.sqrt(sum(idf[word] ** 2 for word in set(image.words.tolist())))
        if weighted and norm > 0:
            total /= norm
        scores.append(total)
        close.append(strictly)
    return scores, close


def weights_of(segment, images):
    idf = scoring.inverse_document_frequencies(segment.document_frequencies, len(images))
    squared = idf.astype(np.float64) ** 2
    return squared, scoring.binary_norms(segment, squared)


@pytest.mark.parametrize("beside", [1, 7, 300])
def test_signatures_do_not_depend_on_what_they_are_made_beside(beside):
    """A descriptor that is its word's centroid lies on every median, where the last digit would decide."""
    projection = hamming.random_projection(D, BITS, 0)
    descriptors = np.random.default_rng(0).standard_normal((300, D)).astype(np.float32)
    medians = np.array([[math.fsum(a * b for a, b in zip(row, axis, strict=True)) for axis in projection.tolist()]
                        for row in descriptors.tolist()])  # fmt: skip
    embedding = hamming.Embedding(projection, medians.astype(np.float32), 0)
    for start in range(0, 300, beside):
        some = np.arange(start, min(start + beside, 300))
        assert not embedding.signatures(descriptors[some], some.astype(np.int32)).any()


@settings(max_examples=60)
@given(seed=seeds, several=st.integers(1, 3))
def test_votes_equal_loops(seed, several):
    rng, prototypes, images, segment = make_collection(seed)
    query = make_query(rng, prototypes, several=several)
    config = HammingConfig()
    squared, norms = weights_of(segment, images)
    final = scoring.hamming_votes(segment, query.words, query.signatures, config, squared, norms)
    first = scoring.hamming_votes(segment, query.words, query.signatures, config, strict=20)
    np.testing.assert_allclose(final.scores, votes_by_loops(images, query, config, -1, True)[0], rtol=1e-5, atol=1e-6)
    expected, strictly = votes_by_loops(images, query, config, 20, False)
    np.testing.assert_allclose(first.scores, expected, rtol=1e-5, atol=1e-6)
    assert first.strict.tolist() == strictly


def test_votes_do_not_depend_on_the_size_of_a_batch(monkeypatch):
    rng, prototypes, _, segment = make_collection(4, n_images=30)
    query = make_query(rng, prototypes, features=40)
    whole = scoring.hamming_votes(segment, query.words, query.signatures, HammingConfig())
    monkeypatch.setattr(scoring, "_CHUNK", 7)
    parts = scoring.hamming_votes(segment, query.words, query.signatures, HammingConfig())
    np.testing.assert_array_equal(whole.scores, parts.scores)
    assert whole.scores.max() > 0


def test_a_query_without_features_votes_for_nothing():
    _, _, _, segment = make_collection(4)
    empty = QueryWords(np.empty(0, np.int32), np.empty(0, np.int64), np.empty((0, 2), np.uint64))
    found = scoring.hamming_votes(segment, empty.words, empty.signatures, HammingConfig(), strict=3)
    assert (found.scores == 0).all()
    assert (found.strict == 0).all()


def test_signatures_of_another_length_are_refused():
    _, _, _, segment = make_collection(4)
    with pytest.raises(ValueError, match="signatures"):
        scoring.hamming_votes(segment, np.zeros(1, int), np.zeros((1, 1), np.uint64), HammingConfig())


# -- signatures ---------------------------------------------------------------------------------------------------


@given(seed=seeds)
@settings(max_examples=20)
def test_signatures_equal_loops(seed):
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(60, D)).astype(np.float32)
    words = rng.integers(0, 5, 60).astype(np.int32)
    projection = hamming.random_projection(D, BITS, seed)
    np.testing.assert_allclose(projection @ projection.T, np.eye(BITS), atol=1e-5)
    centroids = rng.normal(size=(6, D)).astype(np.float32)
    embedding = hamming.train(projection, descriptors, words, centroids)
    assert embedding.empty_words == 6 - len(set(words.tolist()))
    signatures = embedding.signatures(descriptors, words)
    projected = descriptors.astype(np.float64) @ projection.T.astype(np.float64)
    for i in range(60):
        members = projected[words == words[i]]
        median = np.median(members, axis=0) if len(members) >= hamming.FEWEST else projection @ centroids[words[i]]
        expected = projected[i] > median
        clear = np.abs(projected[i] - median) > 2e-3 + np.abs(median) * 1e-3  # medians are kept in half precision
        np.testing.assert_array_equal((hamming.unpack(signatures[i]) == 1)[clear], expected[clear])
    np.testing.assert_allclose(embedding.medians[5], projection @ centroids[5], atol=4e-3)
    both = embedding.signatures(descriptors, np.stack([words, (words + 1) % 6], axis=1))
    np.testing.assert_array_equal(both[:, 0], signatures)


def test_words_with_few_training_descriptors_are_cut_at_their_centroid(caplog):
    """The only descriptor of a word would be cut at itself, and one beside it would have arbitrary bits."""
    rng = np.random.default_rng(0)
    descriptors = rng.normal(size=(27, D)).astype(np.float32)
    words = np.repeat([0, 1, 2], [20, hamming.FEWEST, 27 - 20 - hamming.FEWEST]).astype(np.int32)
    centroids = rng.normal(size=(4, D)).astype(np.float32)
    projection = hamming.random_projection(D, 64, 0)
    with caplog.at_level("INFO"):
        embedding = hamming.train(projection, descriptors, words, centroids)
    assert embedding.empty_words == 1
    assert "signatures of 2 of 4 words" in caplog.text
    for word in (0, 1):
        expected = np.median(descriptors[words == word] @ projection.T, axis=0)
        np.testing.assert_allclose(embedding.medians[word], expected, atol=4e-3)
    np.testing.assert_allclose(embedding.medians[2:], centroids[2:] @ projection.T, atol=4e-3)
    near = descriptors[26:] + rng.normal(scale=0.05, size=(1, D)).astype(np.float32)
    signatures = embedding.signatures(np.concatenate([descriptors[26:], near]), np.array([2, 2], np.int32))
    assert np.bitwise_count(signatures[0] ^ signatures[1]).sum() < 12


def test_medians_do_not_depend_on_the_size_of_a_chunk(monkeypatch):
    rng = np.random.default_rng(1)
    descriptors = rng.normal(size=(300, D)).astype(np.float32)
    words = rng.integers(0, 20, 300).astype(np.int32)
    projection = hamming.random_projection(D, 64, 0)
    centroids = rng.normal(size=(20, D)).astype(np.float32)
    whole = hamming.train(projection, descriptors, words, centroids)
    monkeypatch.setattr(hamming, "_CHUNK", 16)
    parts = hamming.train(projection, descriptors, words, centroids)
    np.testing.assert_allclose(whole.medians, parts.medians, atol=2e-3)


@given(seed=seeds)
@settings(max_examples=20)
def test_distances_count_bits(seed):
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (2, 30, BITS)).astype(bool)
    one, other = hamming.pack(bits)
    at, entry = rng.integers(0, 30, (2, 50))
    found = hamming.distances(one.T, at, other, entry)
    np.testing.assert_array_equal(found, (bits[0][at] != bits[1][entry]).sum(axis=1))
    np.testing.assert_array_equal(hamming.unpack(one), bits[0])


@pytest.mark.parametrize("bits", [64, 128, 320])
def test_torch_counts_the_same_bits(bits):
    """The path of a GPU, on torch's CPU device."""
    from retrieval.vocabulary.torch_hamming import TorchDistances

    rng = np.random.default_rng(bits)
    one, other = hamming.pack(rng.integers(0, 2, (2, 40, bits)).astype(bool))
    one[0], other[0] = 0, np.uint64(2**64 - 1)  # every bit, the sign's too
    at, entry = np.append(rng.integers(0, 40, 90), 0), np.append(rng.integers(0, 40, 90), 0)
    planes = np.ascontiguousarray(one.T)
    found = TorchDistances(planes, "cpu")(at, other, entry)
    np.testing.assert_array_equal(found, hamming.distances(planes, at, other, entry))
    assert found[-1] == bits


def test_votes_are_the_same_with_torch():
    from retrieval.vocabulary.torch_hamming import TorchDistances

    rng, prototypes, _, segment = make_collection(4, n_images=30)
    query = make_query(rng, prototypes, features=40)
    arguments = segment, query.words, query.signatures, HammingConfig()
    ours = scoring.hamming_votes(*arguments, strict=20)
    theirs = scoring.hamming_votes(*arguments, strict=20, distances=TorchDistances(segment.signatures, "cpu"))
    np.testing.assert_array_equal(ours.scores, theirs.scores)
    np.testing.assert_array_equal(ours.strict, theirs.strict)


def test_more_bits_than_dimensions_are_refused():
    with pytest.raises(RetrievalError, match=r"hamming\.bits is 128"):
        hamming.random_projection(64, 128, 0)


def test_an_embedding_is_read_back_and_knows_its_words(tmp_path):
    rng = np.random.default_rng(2)
    descriptors = rng.normal(size=(50, D)).astype(np.float32)
    words = rng.integers(0, 4, 50).astype(np.int32)
    embedding = hamming.train(hamming.random_projection(D, BITS, 1), descriptors, words, np.zeros((4, D), np.float32))
    hamming.save_embedding(tmp_path / "hamming", embedding, {"vocabulary": "abc"})
    opened = hamming.open_embedding(tmp_path / "hamming", "abc", verify=True)
    np.testing.assert_array_equal(opened.signatures(descriptors, words), embedding.signatures(descriptors, words))
    assert opened.fingerprint
    with pytest.raises(ArtefactError, match="another vocabulary"):
        hamming.open_embedding(tmp_path / "hamming", "xyz")


# -- ASMK ---------------------------------------------------------------------------------------------------------


def aggregates_by_loops(descriptors, words, centroids, binary):
    found = {}
    for word in sorted(set(words.ravel().tolist())):
        total = np.zeros(D)
        for i in range(len(descriptors)):
            if word in words[i].ravel().tolist():
                total += descriptors[i].astype(np.float64) - centroids[word]
        # vectors are kept in half precision
        found[word] = total > 0 if binary else (total / np.linalg.norm(total)).astype(np.float16).astype(float)
    return found


def make_descriptors(seed, n_images=8):
    rng = np.random.default_rng(seed)
    centroids = rng.normal(size=(WORDS, D)).astype(np.float32)
    shared = rng.normal(size=(30, D)).astype(np.float32)
    images = []
    for _ in range(n_images + 1):
        chosen = rng.choice(30, int(rng.integers(1, 25)), replace=False)
        images.append((shared[chosen] + rng.normal(0, 0.5, (len(chosen), D))).astype(np.float32))
    return rng, centroids, images[:-1], images[-1]


def nearest(descriptors, centroids, several):
    squared = ((descriptors[:, None] - centroids[None]) ** 2).sum(axis=2)
    return np.argsort(squared, axis=1, kind="stable")[:, :several].astype(np.int32)


@settings(max_examples=40)
@given(seed=seeds, binary=st.booleans(), idf=st.booleans(), several=st.integers(1, 5))
def test_asmk_equals_loops(seed, binary, idf, several):
    _, centroids, images, query = make_descriptors(seed)
    config = AsmkConfig(binary=binary, idf=idf, threshold=0.05)
    indexed, stored = [], []
    for descriptors in images:
        words = nearest(descriptors, centroids, 1)
        distinct, aggregates = scoring.aggregate(descriptors, words[:, 0], centroids, binary)
        expected = aggregates_by_loops(descriptors, words, centroids, binary)
        assert distinct.tolist() == list(expected)
        stored.append(expected)
        regions = np.ones((len(descriptors), 6), np.float32)
        indexed.append(IndexedImage((300, 300), regions, words[:, 0], None, aggregates))
    segment = Segment(**build_segment(indexed, WORDS))
    squared, _ = weights_of(segment, indexed)
    weights = squared if idf else np.ones(WORDS)
    several_words = nearest(query, centroids, several)
    words, aggregates = scoring.aggregate(query, several_words, centroids, binary)
    scores = scoring.asmk_scores(segment, words, aggregates, config, weights, scoring.binary_norms(segment, weights))

    asked = aggregates_by_loops(query, several_words, centroids, binary)
    for image, expected in enumerate(stored):
        total = 0.0
        for word, vector in asked.items():
            if word in expected:
                u = float(1 - 2 * np.mean(vector != expected[word]) if binary else (vector * expected[word]).sum())
                if u >= config.threshold:
                    total += weights[word] * math.copysign(abs(u) ** config.alpha, u)
        norm = math.sqrt(sum(weights[w] for w in expected)) * math.sqrt(sum(weights[w] for w in asked))
        reference = total / norm if norm else 0.0
        assert scores[image] == pytest.approx(reference, rel=1e-5, abs=2e-6)


@pytest.mark.parametrize("idf", [True, False])
@pytest.mark.parametrize("binary", [True, False])
def test_asmk_equals_the_asmk_package(binary, idf):
    """asmk 0.1.1 (extra `bench`): the same descriptors, words and idf setting give the same scores."""
    package = pytest.importorskip("asmk", reason="the extra 'bench' is not installed")
    from asmk import inverted_file, kernel

    assert package is not None
    _, centroids, images, query = make_descriptors(7, n_images=25)

    class Codebook:
        pass

    codebook = Codebook()
    codebook.centroids = centroids
    theirs = kernel.ASMKKernel(codebook, binary=binary)
    lists = inverted_file.IVF.initialize_empty(codebook_size=WORDS, use_idf=idf)
    words = [nearest(descriptors, centroids, 1) for descriptors in images]
    ids = np.repeat(np.arange(len(images)), [len(one) for one in images])
    lists.add(*theirs.aggregate(np.concatenate(images), np.concatenate(words), ids))
    several = nearest(query, centroids, 5)
    ranks, scores = lists.search(
        *theirs.aggregate_image(query, several),
        similarity_func=lambda *arguments: theirs.similarity(*arguments, alpha=3.0, similarity_threshold=0.0),
        topk=len(images),
    )
    expected = np.empty(len(images))
    expected[ranks] = scores

    config = AsmkConfig(binary=binary, idf=idf)
    indexed = []
    for descriptors, own in zip(images, words, strict=True):
        _, aggregates = scoring.aggregate(descriptors, own[:, 0], centroids, binary)
        regions = np.ones((len(descriptors), 6), np.float32)
        indexed.append(IndexedImage((300, 300), regions, own[:, 0], None, aggregates))
    segment = Segment(**build_segment(indexed, WORDS))
    inverse = scoring.inverse_document_frequencies(segment.document_frequencies, len(images))
    weights = scoring.asmk_weights(inverse, segment.document_frequencies) if idf else np.ones(WORDS)
    asked, aggregates = scoring.aggregate(query, several, centroids, binary)
    ours = scoring.asmk_scores(segment, asked, aggregates, config, weights, scoring.binary_norms(segment, weights))
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    assert ours.max() > 0.01


# -- images of words that every image has ---------------------------------------------------------------------------


def common_collection(seed, *more):
    """The first image has the words 0 to 2 alone, as all have; others have more. In two segments."""
    rng = np.random.default_rng(seed)
    prototypes = rng.integers(0, 2**64, (WORDS, 2), np.uint64, endpoint=False)
    images = []
    for extra in more:
        words = np.array([0, 0, 1, 2, 2, 2, *extra], np.int32)
        distinct = len(set(words.tolist()))
        signatures = near(rng, prototypes[words], rng.uniform(0, 20, len(words)))
        aggregates = near(rng, prototypes[np.unique(words)], rng.uniform(0, 20, distinct))
        regions = np.abs(rng.normal(100, 30, (len(words), 6))).astype(np.float32)
        images.append(IndexedImage((300, 300), regions, words, signatures, aggregates))
    segments = (Segment(**build_segment(some, WORDS)) for some in (images[:1], images[1:]))
    query = make_query(rng, prototypes, several=2)
    return images, Snapshot.of(*segments), prototypes, query


@settings(max_examples=30)
@given(seed=seeds, common_alone=st.booleans())
def test_images_of_common_words_alone_equal_loops(seed, common_alone):
    """Words weigh 1 for the image whose idf are all 0, idf for the others; whatever has a match is found."""
    images, snapshot, prototypes, query = common_collection(seed, [], [3, 4, 4], [3, 5])
    if common_alone:  # the query has no other words either
        kept = query.words < 3
        query = QueryWords(query.words[kept], query.owners[kept], query.signatures[kept])
    idf = idf_of(images)
    assert snapshot.weightless.tolist() == [True, False, False]
    config, kernel = HammingConfig(), AsmkConfig()

    votes = snapshot.votes(query, config, final=True, strict=20)
    matched, strictly = votes_by_loops(images, query, config, 20, weighted=False)
    expected, _ = votes_by_loops(images, query, config, 20, weighted=True)
    expected[0] = min(matched[0] / math.sqrt(3), *(one / 2 for one in expected[1:] if one > 0), math.inf)
    np.testing.assert_allclose(votes.scores, expected, rtol=1e-5, atol=1e-6)
    assert votes.found.tolist() == [one > 0 for one in matched]
    assert votes.strict.tolist() == strictly

    words, counts = np.unique(query.words, return_counts=True)
    scores, _ = snapshot.scores(words, counts)
    for image, one in enumerate(images):
        weight = [1.0] * WORDS if image == 0 else idf
        ours = {word: count * weight[word] for word, count in zip(words.tolist(), counts.tolist(), strict=True)}
        theirs = {word: one.words.tolist().count(word) * weight[word] for word in one.words.tolist()}
        length = math.hypot(*ours.values()) * math.hypot(*theirs.values())
        dot = sum(ours[word] * theirs.get(word, 0) for word in ours)
        assert scores[image] == pytest.approx(dot / length if length else 0, rel=1e-5, abs=1e-6)

    similar, found = snapshot.kernel(words, prototypes[words], kernel)
    for image, one in enumerate(images):
        weight = [1.0] * WORDS if image == 0 else [idf[w] ** 2 if w < 6 else 1.0 for w in range(WORDS)]
        total, any_match = 0.0, False
        for word, signs in zip(np.unique(one.words).tolist(), one.aggregates, strict=True):
            u = 1 - 2 * differing(signs, prototypes[word]) / BITS
            if word in words and u >= kernel.threshold:
                total, any_match = total + weight[word] * u**kernel.alpha, any_match or u > 0
        length = math.sqrt(sum(weight[w] for w in set(one.words.tolist())) * sum(weight[w] for w in words.tolist()))
        assert similar[image] == pytest.approx(total / length if length else 0, rel=1e-5, abs=1e-6)
        assert bool(found[image]) == any_match


def test_where_every_image_has_a_norm_nothing_changes():
    """A word that all have is worth nothing, and an image that has no other word in common with the query not found."""
    _, snapshot, prototypes, _ = common_collection(3, [6], [3, 4, 4], [3, 5])
    assert not snapshot.weightless.any()
    words = np.array([0, 1, 3], np.int32)
    query = QueryWords(words, np.arange(3), prototypes[words])
    votes = snapshot.votes(query, HammingConfig(), final=True)
    similar, found = snapshot.kernel(words, prototypes[words], AsmkConfig())
    cosines, shared = snapshot.scores(words, np.ones(3))
    for number, ids in enumerate(snapshot.ids):
        segment, squared = snapshot.segments[number], snapshot.idf_squared
        norms = scoring.binary_norms(segment, squared)
        one = scoring.hamming_votes(segment, words, query.signatures, HammingConfig(), squared, norms)
        np.testing.assert_array_equal(votes.scores[ids], one.scores)
        weights = scoring.asmk_weights(snapshot.idf, snapshot.document_frequencies)
        kernel = scoring.asmk_scores(segment, words, prototypes[words], AsmkConfig(), weights, norms)
        np.testing.assert_array_equal(similar[ids], kernel)
        lengths = scoring.image_norms(segment, snapshot.idf)
        cosine, _ = scoring.tfidf_scores(segment, words, np.ones(3), snapshot.idf, lengths)
        np.testing.assert_array_equal(cosines[ids], cosine)
    assert votes.found.tolist() == found.tolist() == [False, True, True]
    assert (shared > 0).all()


# -- Hamming query expansion --------------------------------------------------------------------------------------


def expansion_by_loops(images, reliable, query, config, drawn):
    """The merged query as {word: bits}, from the images and the bits drawn for undecided votes."""
    own = set(query.words.tolist())
    counts = {}
    for i in reliable:
        for word in set(images[i].words.tolist()):
            counts[word] = counts.get(word, 0) + 1
    wanted, taken, new = int(config.new_words * len(own)), set(), 0
    for word in sorted(counts, key=lambda word: (-counts[word], word)):
        if new == wanted:
            break
        taken.add(word)
        new += word not in own
    merged = {}
    for place, word in enumerate(sorted(own | taken)):
        voters = [hamming.unpack(s) for w, s in zip(query.words, query.signatures, strict=True) if w == word]
        for i in reliable if word in taken else []:
            voters += [
                hamming.unpack(s) for w, s in zip(images[i].words, images[i].signatures, strict=True) if w == word
            ]
        bits = []
        for bit in range(BITS):
            ones = sum(int(voter[bit]) for voter in voters)
            bits.append(drawn[place][bit] if 2 * ones == len(voters) else int(2 * ones > len(voters)))
        merged[word] = bits
    return merged


@settings(max_examples=40)
@given(seed=seeds, share=st.sampled_from([0.0, 0.3, 0.5, 2.0]))
def test_expansion_equals_loops(seed, share):
    rng, prototypes, images, segment = make_collection(seed)
    query = make_query(rng, prototypes, features=2, several=2)
    config, votes = HqeConfig(new_words=share, min_matches=2, strict=30, depth=4), HammingConfig()
    first = scoring.hamming_votes(segment, query.words, query.signatures, votes, strict=config.strict)
    scores, strictly = votes_by_loops(images, query, votes, config.strict, False)
    ranked = sorted(range(len(images)), key=lambda i: (-round(scores[i], 9), i))[:4]
    expected = [i for i in ranked if scores[i] > 0 and strictly[i] >= 2]
    voted = np.flatnonzero(first.scores)
    found = listed(voted, first.scores[voted], Wanted(config.depth), first.strict[voted])
    reliable = hqe.reliable_images(found, config)
    assert sorted(reliable.tolist()) == sorted(expected)

    index = Snapshot.of(segment)
    merged = hqe.expand(query, index, hqe.features_of(index, reliable), config, seed)
    drawn = np.random.default_rng(seed).integers(0, 2, (len(merged.words), BITS), dtype=np.uint8)
    by_loops = expansion_by_loops(images, expected, query, config, drawn)
    assert merged.words.tolist() == list(by_loops)
    for signature, bits in zip(merged.signatures, by_loops.values(), strict=True):
        assert hamming.unpack(signature).tolist() == bits
