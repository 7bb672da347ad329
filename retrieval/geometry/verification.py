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
from retrieval.geometry.putatives import Putatives, concatenate_ranges

REFERENCE_SIDE = 1024.0  # longest image side at which the tolerance is meant, pixels
BATCH_ELEMENTS = 1 << 18  # hypothesis x pair cells scored at once: their arrays stay in the processor's cache
PRODUCT_ELEMENTS = 1 << 15  # of one matrix product: BLAS computes larger ones in threads that wait for each other
THREADS = joblib.cpu_count()  # batches scored at a time
MIN_FIT = 4  # pairs needed before least squares re-estimates a transform (protocol: more than three)


@dataclass(frozen=True, eq=False)
class Verified:
    """The outcome for every shortlisted image.

    Attributes:
        pairs: (n,) int64 putative pairs that they were found among.
        inliers: (n,) int64 one-to-one inliers; 0 where fewer than `min_inliers` were found.
        transforms: (n, 2, 3) float64 query -> image in original pixels; NaN where not verified.
        matches: for each image the (m, 2) int64 inlier pairs: query feature, row in the index.
        signed: (n,) bool, whether the pairs are of similar signatures, and not of one word alone.
    """

    pairs: np.ndarray
    inliers: np.ndarray
    transforms: np.ndarray
    matches: tuple[np.ndarray, ...]
    signed: np.ndarray


def joined(first: Verified, second: Verified) -> Verified:
    """Two outcomes as one: the images of `second` behind those of `first`; matches are with features of one query."""
    return Verified(
        np.concatenate([first.pairs, second.pairs]),
        np.concatenate([first.inliers, second.inliers]),
        np.concatenate([first.transforms, second.transforms]),
        first.matches + second.matches,
        np.concatenate([first.signed, second.signed]),
    )


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
    signed = np.full(n_images, putatives.signed)
    return Verified(np.diff(putatives.starts), inliers, transforms, tuple(matches), signed)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Geometry of every pair, at the reference size: hypothesis, positions and log change of area.

    The error of a pair under a hypothesis is the squared length of two products: its row of `points` with the
    hypothesis's two rows of `residuals`.
    """

    linear: np.ndarray  # (P, 2, 2) float32
    shift: np.ndarray  # (P, 2) float32
    points: np.ndarray  # (P, 5) float32: query x, y, 1, image x, y
    residuals: np.ndarray  # (2, P, 5) float32
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
        linear.astype(single),
        shift.astype(single),
        np.column_stack([query, np.ones(len(query)), image]).astype(single),
        _residuals(linear, shift).astype(single),
        log_area.astype(single),
    )


def _residuals(linear: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """What `_Pairs.residuals` holds: R (L q + s - m) for R^T R = `_metric`, as coefficients of q, 1 and m."""
    G = _metric(linear)
    r00 = np.sqrt(G[:, 0, 0])
    r01 = G[:, 0, 1] / r00
    r11 = np.sqrt(G[:, 1, 1] - r01**2)
    forward = np.concatenate([linear, shift[:, :, None], np.broadcast_to(-np.eye(2), linear.shape)], axis=2)
    x, y = forward[:, 0], forward[:, 1]  # (P, 5)
    return np.stack([r00[:, None] * x + r01[:, None] * y, r11[:, None] * y])


def _metric(linear: np.ndarray) -> np.ndarray:
    """G = I + L^-T L^-1: p^T G p is the squared forward plus backward error of a forward residual p."""
    (a, b), (c, d) = np.moveaxis(linear.astype(np.float64), 0, -1)
    squared = (a * d - b * c) ** 2
    metric = np.empty(linear.shape)
    metric[:, 0, 0] = 1 + (c * c + d * d) / squared
    metric[:, 1, 1] = 1 + (a * a + b * b) / squared
    metric[:, 0, 1] = metric[:, 1, 0] = -(a * c + b * d) / squared
    return metric


def _best_hypotheses(putatives: Putatives, pairs: _Pairs, config: VerificationConfig) -> tuple[np.ndarray, np.ndarray]:
    """Count and pair index of every image's best hypothesis (the first of those with the most inliers)."""
    sizes = np.diff(putatives.starts)
    counts = np.zeros(len(sizes), np.int64)
    best = np.full(len(sizes), -1, np.int64)
    images = np.flatnonzero(sizes >= max(config.min_inliers, 1))
    # an image with many pairs is scored in portions of its hypotheses, so that no product is too large
    width = _width(sizes)
    portions = -(-sizes[images] // width[images])
    slots = np.repeat(images, portions)
    left = concatenate_ranges(np.zeros_like(portions), portions) * width[slots]
    order = np.argsort(sizes[slots], kind="stable")
    batches, start = [], 0
    while start < len(order):
        stop, wide = start + 1, int(width[slots[order[start]]])
        while stop < len(order):
            size, wide = int(sizes[slots[order[stop]]]), max(wide, int(width[slots[order[stop]]]))
            if (stop + 1 - start) * size * wide > BATCH_ELEMENTS:
                break
            stop += 1
        batches.append(order[start:stop])
        start = stop
    # numpy lets go of the interpreter inside its passes, so threads share the work; each batch is its own result
    with ThreadPoolExecutor(max_workers=max(1, min(THREADS, len(batches)))) as pool:
        scored = list(pool.map(lambda part: _score_batch(putatives, pairs, slots[part], left[part], config), batches))
    for part, (found, chosen) in zip(batches, scored, strict=True):
        for slot, count, pair in zip(slots[part], found, chosen, strict=True):  # an image's portions are in order
            if count > counts[slot]:
                counts[slot], best[slot] = count, pair
    return counts, best


def _width(sizes: np.ndarray) -> np.ndarray:
    """How many hypotheses of an image with so many pairs go into one product."""
    return np.minimum(sizes, np.maximum(1, PRODUCT_ELEMENTS // np.maximum(sizes, 1)))


def _score_batch(
    putatives: Putatives, pairs: _Pairs, slots: np.ndarray, left: np.ndarray, config: VerificationConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The best hypotheses of portions of images of similar size; arrays are (portions, pairs, hypotheses).

    Args:
        putatives: all pairs.
        pairs: their geometry.
        slots: (B,) the image of every portion.
        left: (B,) its first hypothesis; the widest portion says how many are looked at.
        config: tolerance and area ratio.

    Returns:
        (B,) inliers, where a word counts no more often than it has features on either side, and (B,) pair indices.
    """
    starts, ends = putatives.starts[slots], putatives.starts[slots + 1]
    sizes = ends - starts
    size = int(sizes.max())
    wide = int(_width(sizes).max())
    at = starts[:, None] + np.arange(size)  # (B, P)
    hypotheses = (starts + left)[:, None] + np.arange(wide)  # (B, H)
    beyond = hypotheses >= ends[:, None]
    owned, last = at < ends[:, None], ends[:, None] - 1
    hypotheses = np.minimum(hypotheses, last)
    inlier = _inliers(pairs, np.minimum(at, last), hypotheses, config)
    portion, column = np.nonzero(owned)  # what pads a portion out takes no part
    group = putatives.group[at[owned]]
    count = _counts(inlier.reshape(at.size, wide), portion * size + column, portion, group, putatives.capacity)
    count[beyond] = -1
    top = count.argmax(axis=1)
    each = np.arange(len(slots))
    return count[each, top], hypotheses[each, top]


def _inliers(pairs: _Pairs, at: np.ndarray, hypotheses: np.ndarray, config: VerificationConfig) -> np.ndarray:
    """Which pairs (B, P) agree with which hypotheses (B, H), both given as pair indices.

    Returns:
        (B, P, H) bool.
    """
    points = pairs.points[at]  # (B, P, 5)
    error, other = (points @ rows[hypotheses].swapaxes(1, 2) for rows in pairs.residuals)  # (B, P, H)
    error *= error
    other *= other
    error += other
    inlier = error < config.tolerance**2
    change = np.subtract(pairs.log_area[at][:, :, None], pairs.log_area[hypotheses][:, None], out=other)
    inlier &= np.abs(change, out=change) < np.log(config.max_area_ratio)
    return inlier


def _counts(
    inlier: np.ndarray, rows: np.ndarray, portion: np.ndarray, group: np.ndarray, capacity: np.ndarray
) -> np.ndarray:
    """Inliers of every portion under every hypothesis, each group of pairs counted up to its capacity.

    Args:
        inlier: (n, H) bool.
        rows: (R,) which of them take part, increasing.
        portion: (R,) of each; non-decreasing, from 0 without gaps.
        group: (R,) of each; the rows of a group lie together.
        capacity: of every group.

    Returns:
        (B, H) int32.
    """
    new = np.ones(len(rows), bool)
    new[1:] = (group[1:] != group[:-1]) | (portion[1:] != portion[:-1])
    begin = np.flatnonzero(new)
    length = np.diff(begin, append=len(rows))
    longest = np.argsort(-length, kind="stable")
    ordered = begin[longest]
    reaches = np.cumsum(np.bincount(length)[::-1])[::-1]  # groups with at least so many pairs
    # the first pairs of all groups, then the second ones of those that have two ...: `reduceat` is slow on short runs
    values = inlier.view(np.int8)
    total = values[rows[ordered]]
    if len(reaches) > 127:
        total = total.astype(np.int16)
    for place in range(1, len(reaches) - 1):
        of_these = ordered[: reaches[place + 1]]
        total[: len(of_these)] += values[rows[of_these + place]]
    limits = np.minimum(capacity[group[ordered]], length[longest])
    np.minimum(total, limits[:, None].astype(total.dtype), out=total)
    by_portion = np.empty_like(total)
    by_portion[longest] = total
    first = np.searchsorted(portion[begin], np.arange(portion[-1] + 1))
    return np.add.reduceat(by_portion, first, axis=0, dtype=np.int32)


def _refine(
    putatives: Putatives, pairs: _Pairs, slots: np.ndarray, best: np.ndarray, config: VerificationConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One-to-one inliers of the best hypotheses, then least-squares rounds while the inliers grow.

    Returns:
        counts (n,), transforms (n, 2, 3) at the reference size, indices of the inlier pairs, sorted.
    """
    n = len(slots)
    starts, ends = putatives.starts[slots], putatives.starts[slots + 1]
    where = concatenate_ranges(starts, ends)
    owner = np.repeat(np.arange(n), ends - starts)
    transforms = np.concatenate([pairs.linear[best], pairs.shift[best][..., None]], axis=2).astype(np.float64)
    points = pairs.points[where].astype(np.float64).T
    chosen = _one_to_one_inliers(putatives, pairs, where, points, owner, transforms, config)
    counts = np.bincount(owner[chosen], minlength=n)
    growing = counts >= max(config.min_inliers, MIN_FIT)
    for _ in range(config.refinements):
        if not growing.any():
            break
        fitted, solvable = _fit(pairs, where[chosen], owner[chosen], n)
        growing &= solvable
        candidates = np.where(growing[:, None, None], fitted, transforms)
        again = _one_to_one_inliers(putatives, pairs, where, points, owner, candidates, config)
        found = np.bincount(owner[again], minlength=n)
        growing &= found > counts
        transforms[growing], counts[growing] = fitted[growing], found[growing]
        kept = np.concatenate([chosen[~growing[owner[chosen]]], again[growing[owner[again]]]])
        chosen = np.sort(kept)
    return counts, transforms, where[chosen]


def _one_to_one_inliers(
    putatives: Putatives,
    pairs: _Pairs,
    where: np.ndarray,
    points: np.ndarray,
    owner: np.ndarray,
    transforms: np.ndarray,
    config: VerificationConfig,
) -> np.ndarray:
    """Positions in `where` of the inliers of each image's transform, one-to-one by increasing error.

    `points` are those of `_Pairs`, at `where`, as (5, P) float64.
    """
    linear = transforms[:, :, :2]
    G = _metric(linear)
    (a, b, dx), (c, d, dy) = transforms.transpose(1, 2, 0)[:, :, owner]
    x = a * points[0] + b * points[1] + dx - points[3]
    y = c * points[0] + d * points[1] + dy - points[4]
    error = G[owner, 0, 0] * x * x + 2 * G[owner, 0, 1] * x * y + G[owner, 1, 1] * y * y
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
    order = np.argsort(error, kind="stable")
    sides = [_dense(owner, values)[order] for values in (query, row)]
    left = np.arange(len(order))
    taken = []
    while len(left):
        keys = [side[left] for side in sides]
        now = left[_is_first(keys[0]) & _is_first(keys[1])]
        taken.append(now)
        gone = np.zeros(len(left), bool)
        for side, key in zip(sides, keys, strict=True):
            used = np.zeros(len(order), bool)
            used[side[now]] = True
            gone |= used[key]
        left = left[~gone]
    return np.sort(order[np.concatenate(taken)]) if taken else np.empty(0, np.int64)


def _dense(owner: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A number for every distinct pair of owner and value, from 0 without gaps."""
    span = int(values.max(initial=0)) + 1
    return np.unique(owner * span + values, return_inverse=True)[1].ravel()


def _is_first(keys: np.ndarray) -> np.ndarray:
    """Which entries are the first with their key; keys are dense."""
    places = np.arange(len(keys))
    first = np.full(int(keys.max(initial=-1)) + 1, len(keys))
    np.minimum.at(first, keys, places)
    return first[keys] == places


def _fit(pairs: _Pairs, where: np.ndarray, owner: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares affine transform of each image's inliers (forward residuals, centred for conditioning).

    Returns:
        transforms (n, 2, 3) and (n,) bool: False where the inliers do not determine one.
    """
    count = np.maximum(np.bincount(owner, minlength=n), 1)[:, None]

    def mean(values: np.ndarray) -> np.ndarray:
        columns = [np.bincount(owner, values[:, k], minlength=n) for k in range(values.shape[1])]
        return np.stack(columns, axis=1) / count

    points = pairs.points[where].astype(np.float64)
    query, image = points[:, :2], points[:, 3:]
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
