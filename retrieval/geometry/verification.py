"""Spatial verification of a shortlist (Philbin et al. 2007, section 5).

Every putative pair of regions is a hypothesis: the affine transform that carries one region's frame onto the
other's. All hypotheses of an image are scored on all its pairs at once; a feature counts once (within a word, no
more inliers than it has features on either side), the winner is re-estimated by least squares from strictly
one-to-one inliers. Nothing is random. Images are batched by their number of pairs.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import joblib
import numpy as np

from retrieval.config import VerificationConfig
from retrieval.geometry.frames import to_frames
from retrieval.geometry.putatives import Putatives

REFERENCE_SIDE = 1024.0  # longest image side at which the tolerance is meant, pixels
BATCH_ELEMENTS = 1 << 17  # hypothesis x pair cells scored at once: their arrays stay in the processor's cache
THREADS = joblib.cpu_count()  # batches scored at a time
MIN_FIT = 4  # pairs needed before least squares re-estimates a transform (protocol: more than three)


@dataclass(frozen=True)
class Verified:
    """The outcome for every shortlisted image.

    Attributes:
        inliers: (n,) int64 one-to-one inliers; 0 where fewer than `min_inliers` were found.
        transforms: (n, 2, 3) float64 query -> image in original pixels; NaN where not verified.
        matches: for each image the (m, 2) int64 inlier pairs: query feature, row in the index.
    """

    inliers: np.ndarray
    transforms: np.ndarray
    matches: tuple[np.ndarray, ...]


def verify(
    putatives: Putatives,
    query_regions: np.ndarray,
    query_side: float,
    image_regions: np.ndarray,
    image_sides: np.ndarray,
    config: VerificationConfig,
) -> Verified:
    """Finds, for every image, the transform with most one-to-one inliers.

    Args:
        putatives: pairs of all images, from `find_putatives`.
        query_regions: (Q, 6) float32, original pixels.
        query_side: longest side of the query photograph, pixels.
        image_regions: (P, 6) float32, the image region of every pair, original pixels.
        image_sides: (n,) longest side of every shortlisted image, pixels.
        config: tolerance, area ratio, inlier and refinement limits.

    Returns:
        Inliers, transforms and matches per image.
    """
    n_images = len(image_sides)
    query_scale = REFERENCE_SIDE / query_side
    image_scale = REFERENCE_SIDE / np.asarray(image_sides, np.float64)
    pairs = _pairs(putatives, query_regions, query_scale, image_regions, image_scale)
    counts, best = _best_hypotheses(putatives, pairs, config)
    inliers = np.zeros(n_images, np.int64)
    transforms = np.full((n_images, 2, 3), np.nan)
    matches = [np.empty((0, 2), np.int64)] * n_images
    promising = np.flatnonzero(counts >= config.min_inliers)
    if len(promising):
        found, fitted, chosen = _refine(putatives, pairs, promising, best[promising], config)
        verified = found >= config.min_inliers
        inliers[promising[verified]] = found[verified]
        # back to original pixels: divide by the image's scale, multiply by the query's
        fitted[:, :, :2] *= query_scale
        fitted /= image_scale[promising][:, None, None]
        transforms[promising[verified]] = fitted[verified]
        chosen = chosen[np.isin(putatives.slot[chosen], promising[verified])]
        bounds = np.searchsorted(putatives.slot[chosen], np.arange(n_images + 1))
        both = np.stack([putatives.query[chosen], putatives.row[chosen]], axis=1)
        for slot in promising[verified]:
            matches[slot] = both[bounds[slot] : bounds[slot + 1]]
    return Verified(inliers, transforms, tuple(matches))


@dataclass(frozen=True)
class _Pairs:
    """Geometry of every pair, at the reference size: positions, hypothesis and log change of area."""

    query: np.ndarray  # (P, 2) float32
    image: np.ndarray  # (P, 2) float32
    linear: np.ndarray  # (P, 2, 2) float32
    shift: np.ndarray  # (P, 2) float32
    log_area: np.ndarray  # (P,) float32, log(image area / query area) = log det of the hypothesis


def _pairs(
    putatives: Putatives,
    query_regions: np.ndarray,
    query_scale: float,
    image_regions: np.ndarray,
    image_scale: np.ndarray,
) -> _Pairs:
    scale = image_scale[putatives.slot]
    query_frames = to_frames(query_regions) * query_scale
    image_frames = to_frames(image_regions) * scale[:, None, None]
    linear = image_frames @ np.linalg.inv(query_frames)[putatives.query]
    query = (query_regions[:, :2].astype(np.float64) * query_scale)[putatives.query]
    image = image_regions[:, :2].astype(np.float64) * scale[:, None]
    shift = image - np.einsum("pij,pj->pi", linear, query)
    log_area = np.log(np.abs(linear[:, 0, 0] * linear[:, 1, 1] - linear[:, 0, 1] * linear[:, 1, 0]))
    single = np.float32
    return _Pairs(
        query.astype(single),
        image.astype(single),
        linear.astype(single),
        shift.astype(single),
        log_area.astype(single),
    )


def _metric(linear: np.ndarray) -> np.ndarray:
    """G = I + L^-T L^-1: p^T G p is the squared forward plus backward error of a forward residual p."""
    inverse = np.linalg.inv(linear.astype(np.float64))
    return np.eye(2) + inverse.transpose(0, 2, 1) @ inverse


def _best_hypotheses(putatives: Putatives, pairs: _Pairs, config: VerificationConfig) -> tuple[np.ndarray, np.ndarray]:
    """Count and pair index of every image's best hypothesis (the first of those with the most inliers)."""
    sizes = np.diff(putatives.starts)
    counts = np.zeros(len(sizes), np.int64)
    best = np.full(len(sizes), -1, np.int64)
    metric = _metric(pairs.linear).astype(np.float32)
    order = np.argsort(sizes, kind="stable")
    order = order[sizes[order] >= config.min_inliers]
    batches, start = [], 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * int(sizes[order[stop]]) ** 2 <= BATCH_ELEMENTS:
            stop += 1
        batches.append(order[start:stop])
        start = stop
    # numpy lets go of the interpreter inside its passes, so threads share the work; each batch is its own result
    with ThreadPoolExecutor(max_workers=max(1, min(THREADS, len(batches)))) as pool:
        scored = pool.map(lambda slots: _score_batch(putatives, pairs, metric, slots, config), batches)
        for slots, (count, chosen) in zip(batches, scored, strict=True):
            counts[slots], best[slots] = count, chosen
    return counts, best


def _score_batch(
    putatives: Putatives, pairs: _Pairs, metric: np.ndarray, slots: np.ndarray, config: VerificationConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Scores all hypotheses of some images of similar size; arrays are (images, pairs, hypotheses).

    A word counts no more often than it has features on either side. Plain elementwise passes: threaded matrix products
    of this size spend their time waiting for each other.
    """
    starts = putatives.starts[slots]
    sizes = putatives.starts[slots + 1] - starts
    steps = np.arange(int(sizes.max()))
    valid = steps[None] < sizes[:, None]  # (B, P)
    at = starts[:, None] + np.minimum(steps[None], sizes[:, None] - 1)
    # where a group of pairs of one word begins; what pads an image out is a group of capacity 0
    group = putatives.group[at]
    begins = np.ones(at.shape, bool)
    begins[:, 1:] = (group[:, 1:] != group[:, :-1]) | (valid[:, 1:] != valid[:, :-1])
    first = np.flatnonzero(begins)
    capacity = np.where(valid.ravel()[first], putatives.capacity[group.ravel()[first]], 0).astype(np.int16)
    of_image = np.searchsorted(first, np.arange(len(slots)) * at.shape[1])
    counts = np.zeros(len(slots), np.int64)
    best = starts.copy()
    width = max(1, BATCH_ELEMENTS // at.size)  # hypotheses at a time
    for left in range(0, at.shape[1], width):
        inlier = _inliers(pairs, metric, at, at[:, left : left + width], config)
        per_group = np.add.reduceat(inlier.reshape(at.size, -1).astype(np.int16), first, axis=0)
        np.minimum(per_group, capacity[:, None], out=per_group)
        count = np.add.reduceat(per_group, of_image, axis=0, dtype=np.int64)  # (B, H)
        count[~valid[:, left : left + width]] = -1
        top = count.argmax(axis=1)
        found = count[np.arange(len(slots)), top]
        better = found > counts
        counts[better] = found[better]
        best[better] = (starts + left + top)[better]
    return counts, best


def _inliers(
    pairs: _Pairs, metric: np.ndarray, at: np.ndarray, hypotheses: np.ndarray, config: VerificationConfig
) -> np.ndarray:
    """Which pairs (B, P) agree with which hypotheses (B, H), both given as pair indices.

    Returns:
        (B, P, H) bool.
    """
    query, image = pairs.query[at][:, :, None], pairs.image[at][:, :, None]  # (B, P, 1, 2)
    linear, shift, G = (values[hypotheses][:, None] for values in (pairs.linear, pairs.shift, metric))  # (B, 1, H, ...)
    x, y = (query[..., 0] * linear[..., k, 0] for k in (0, 1))  # (B, P, H): forward residuals, built up in place
    error = np.empty_like(x)
    for k, residual in enumerate((x, y)):
        residual += np.multiply(query[..., 1], linear[..., k, 1], out=error)
        residual += shift[..., k]
        residual -= image[..., k]
    # p^T G p = x (g00 x + 2 g01 y) + g11 y^2
    np.multiply(2 * G[..., 0, 1], y, out=error)
    y *= y
    y *= G[..., 1, 1]
    error += G[..., 0, 0] * x
    error *= x
    error += y
    inlier = error < config.tolerance**2
    change = np.subtract(pairs.log_area[at][:, :, None], pairs.log_area[hypotheses][:, None], out=x)
    inlier &= np.abs(change, out=change) < np.log(config.max_area_ratio)
    return inlier


def _refine(
    putatives: Putatives, pairs: _Pairs, slots: np.ndarray, best: np.ndarray, config: VerificationConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One-to-one inliers of the best hypotheses, then least-squares rounds while the inliers grow.

    Returns:
        counts (n,), transforms (n, 2, 3) at the reference size, indices of the inlier pairs, sorted.
    """
    n = len(slots)
    where = np.concatenate([np.arange(putatives.starts[s], putatives.starts[s + 1]) for s in slots])
    owner = np.repeat(np.arange(n), putatives.starts[slots + 1] - putatives.starts[slots])
    transforms = np.concatenate([pairs.linear[best], pairs.shift[best][..., None]], axis=2).astype(np.float64)
    chosen = _one_to_one_inliers(putatives, pairs, where, owner, transforms, config)
    counts = np.bincount(owner[chosen], minlength=n)
    growing = counts >= max(config.min_inliers, MIN_FIT)
    for _ in range(config.refinements):
        if not growing.any():
            break
        fitted, solvable = _fit(pairs, where[chosen], owner[chosen], n)
        growing &= solvable
        candidates = np.where(growing[:, None, None], fitted, transforms)
        again = _one_to_one_inliers(putatives, pairs, where, owner, candidates, config)
        found = np.bincount(owner[again], minlength=n)
        growing &= found > counts
        transforms[growing], counts[growing] = fitted[growing], found[growing]
        chosen = np.flatnonzero(
            np.where(growing[owner], np.isin(np.arange(len(owner)), again), np.isin(np.arange(len(owner)), chosen))
        )
    return counts, transforms, where[chosen]


def _one_to_one_inliers(
    putatives: Putatives,
    pairs: _Pairs,
    where: np.ndarray,
    owner: np.ndarray,
    transforms: np.ndarray,
    config: VerificationConfig,
) -> np.ndarray:
    """Positions in `where` of the inliers of each image's transform, one-to-one by increasing error."""
    linear = transforms[:, :, :2]
    residual = np.einsum("pij,pj->pi", linear[owner], pairs.query[where]) + transforms[owner, :, 2] - pairs.image[where]
    error = np.einsum("pi,pij,pj->p", residual, _metric(linear)[owner], residual)
    log_det = np.log(np.abs(np.linalg.det(linear)))
    similar = np.abs(pairs.log_area[where] - log_det[owner]) < np.log(config.max_area_ratio)
    candidates = np.flatnonzero((error < config.tolerance**2) & similar)
    keep = one_to_one(
        owner[candidates],
        putatives.query[where][candidates],
        putatives.row[where][candidates],
        error[candidates],
    )
    return candidates[keep]


def one_to_one(owner: np.ndarray, query: np.ndarray, row: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Greedy one-to-one choice of pairs by increasing error, for several images at once.

    A pair that is the best left for both its features is taken and the pairs that share a feature with it fall
    away; this repeats until none is left, which equals the sequential greedy choice.

    Args:
        owner: (P,) image of each pair.
        query: (P,) query feature.
        row: (P,) image feature.
        error: (P,) float; ties go to the earlier pair.

    Returns:
        Sorted positions of the chosen pairs.
    """
    order = np.lexsort((np.arange(len(error)), error))
    query_key = np.unique(np.stack([owner, query]), axis=1, return_inverse=True)[1].ravel()[order]
    row_key = np.unique(np.stack([owner, row]), axis=1, return_inverse=True)[1].ravel()[order]
    left = np.arange(len(order))
    taken = []
    while len(left):
        first_query = np.zeros(len(left), bool)
        first_query[np.unique(query_key[left], return_index=True)[1]] = True
        first_row = np.zeros(len(left), bool)
        first_row[np.unique(row_key[left], return_index=True)[1]] = True
        now = left[first_query & first_row]
        taken.append(now)
        gone = np.isin(query_key[left], query_key[now]) | np.isin(row_key[left], row_key[now])
        left = left[~gone]
    return np.sort(order[np.concatenate(taken)]) if taken else np.empty(0, np.int64)


def _fit(pairs: _Pairs, where: np.ndarray, owner: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares affine transform of each image's inliers (forward residuals, centred for conditioning).

    Returns:
        transforms (n, 2, 3) and (n,) bool: False where the inliers do not determine one.
    """
    count = np.maximum(np.bincount(owner, minlength=n), 1)[:, None]

    def mean(values: np.ndarray) -> np.ndarray:
        columns = [np.bincount(owner, values[:, k], minlength=n) for k in range(values.shape[1])]
        return np.stack(columns, axis=1) / count

    query, image = pairs.query[where].astype(np.float64), pairs.image[where].astype(np.float64)
    query_mean, image_mean = mean(query), mean(image)
    q, d = query - query_mean[owner], image - image_mean[owner]
    spread = mean((q[:, :, None] * q[:, None, :]).reshape(-1, 4)).reshape(n, 2, 2)
    cross = mean((d[:, :, None] * q[:, None, :]).reshape(-1, 4)).reshape(n, 2, 2)
    determinant = np.linalg.det(spread)
    trace = spread[:, 0, 0] + spread[:, 1, 1]
    solvable = determinant > 1e-6 * np.maximum(trace, 1e-9) ** 2  # not on one line
    spread[~solvable] = np.eye(2)
    linear = cross @ np.linalg.inv(spread)
    solvable &= np.linalg.det(linear) > 1e-6  # a mirror image or a collapse is no view of the same thing
    linear[~solvable] = np.eye(2)
    shift = image_mean - np.einsum("nij,nj->ni", linear, query_mean)
    return np.concatenate([linear, shift[..., None]], axis=2), solvable
