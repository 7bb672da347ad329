"""Spatial verification of a shortlist (Philbin et al. 2007, section 5).

Every putative pair of regions is a hypothesis: the affine transform that carries one region's frame onto the
other's. All hypotheses of an image are scored on all its pairs; a feature counts once (within a word, no
more inliers than it has features on either side), the winner is re-estimated by least squares from strictly
one-to-one inliers. Nothing is random. Threads share the images.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import joblib
import numpy as np

from hardnet.compiling import compiled
from retrieval.config import VerificationConfig
from retrieval.geometry.frames import to_frames
from retrieval.geometry.putatives import Putatives

REFERENCE_SIDE = 1024.0  # longest image side at which the tolerance is meant, pixels
THREADS = joblib.cpu_count()  # that share the images
SHARE = 1 << 20  # hypothesis x pair cells that are worth a thread
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
    """Geometry of every pair, at the reference size: positions, hypothesis and log change of area.

    The error of a pair under a hypothesis is the squared length of R (L q + s - m) with R^T R = I + L^-T L^-1, the
    forward plus the backward error.
    """

    points: np.ndarray  # (4, P) float32: query x, y, image x, y
    transforms: np.ndarray  # (P, 6) float64: L row by row, then s
    residuals: np.ndarray  # (P, 10) float32: coefficients of query x, y, 1, image x, y in both rows of R (L q + s - m)
    log_area: np.ndarray  # (P,) float32, log(image area / query area) = log det L


def _pairs(
    putatives: Putatives,
    query_regions: np.ndarray,
    query_scale: float,
    image_regions: np.ndarray,
    image_scale: np.ndarray,
) -> _Pairs:
    n = len(putatives.query)
    pairs = _Pairs(
        np.empty((4, n), np.float32), np.empty((n, 6)), np.empty((n, 10), np.float32), np.empty(n, np.float32)
    )
    _geometry(
        putatives.slot,
        putatives.query,
        query_regions[:, :2].astype(np.float64) * query_scale,
        np.linalg.inv(to_frames(query_regions) * query_scale),
        np.require(image_regions, np.float32, ["C", "W"]),
        image_scale,
        pairs.points,
        pairs.transforms,
        pairs.residuals,
        pairs.log_area,
    )
    return pairs


@compiled
def _geometry(slot, query, centres, inverses, regions, scale, points, transforms, residuals, log_area):  # type: ignore[no-untyped-def]
    """Fills the arrays of `_Pairs`; `inverses` are those of the query's frames."""
    for i in range(len(slot)):
        q, k = query[i], scale[slot[i]]
        a, b, c, angle = regions[i, 2], regions[i, 3], regions[i, 4], np.float64(regions[i, 5])
        cosine, sine = np.cos(angle) * k, np.sin(angle) * k
        f00, f01, f10, f11 = a * cosine, -a * sine, b * cosine + c * sine, c * cosine - b * sine
        p = inverses[q]
        l00, l01 = f00 * p[0, 0] + f01 * p[1, 0], f00 * p[0, 1] + f01 * p[1, 1]
        l10, l11 = f10 * p[0, 0] + f11 * p[1, 0], f10 * p[0, 1] + f11 * p[1, 1]
        x, y, u, v = centres[q, 0], centres[q, 1], regions[i, 0] * k, regions[i, 1] * k
        s0, s1 = u - l00 * x - l01 * y, v - l10 * x - l11 * y
        det = abs(l00 * l11 - l01 * l10)
        squared = det * det
        r00 = np.sqrt(1 + (l10 * l10 + l11 * l11) / squared)
        r01 = -(l00 * l10 + l01 * l11) / squared / r00
        r11 = np.sqrt(1 + (l00 * l00 + l01 * l01) / squared - r01 * r01)
        points[0, i], points[1, i], points[2, i], points[3, i] = x, y, u, v
        t, r = transforms[i], residuals[i]
        t[0], t[1], t[2], t[3], t[4], t[5] = l00, l01, l10, l11, s0, s1
        r[0], r[1], r[2], r[3], r[4] = r00 * l00 + r01 * l10, r00 * l01 + r01 * l11, r00 * s0 + r01 * s1, -r00, -r01
        r[5], r[6], r[7], r[8], r[9] = r11 * l10, r11 * l11, r11 * s1, 0.0, -r11
        log_area[i] = np.log(det)


def _best_hypotheses(putatives: Putatives, pairs: _Pairs, config: VerificationConfig) -> tuple[np.ndarray, np.ndarray]:
    """Count and pair index of every image's best hypothesis (the first of those with the most inliers)."""
    sizes = np.diff(putatives.starts)
    counts = np.zeros(len(sizes), np.int64)
    best = np.full(len(sizes), -1, np.int64)
    images = np.flatnonzero(sizes >= max(config.min_inliers, 1))
    limits = np.float32(config.tolerance**2), np.float32(np.log(config.max_area_ratio))

    def score(some: np.ndarray) -> None:
        _score(
            some,
            putatives.starts,
            putatives.group,
            putatives.capacity,
            pairs.points,
            pairs.residuals,
            pairs.log_area,
            *limits,
            counts,
            best,
        )

    threads = min(THREADS, 1 + int((sizes[images] ** 2).sum()) // SHARE)
    if threads == 1:
        score(images)
        return counts, best
    dealt = images[np.argsort(-sizes[images], kind="stable")]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(score, [np.ascontiguousarray(dealt[part::threads]) for part in range(threads)]))
    return counts, best


@compiled
def _score(images, starts, group, capacity, points, residuals, log_area, tolerance, ratio, counts, best):  # type: ignore[no-untyped-def]
    """Writes the inliers of the best hypothesis of some `images` into `counts`, and into `best` which pair it is.

    `starts`, `group` and `capacity` are those of `Putatives`, the arrays of pairs those of `_Pairs`; a group counts no
    more than its capacity. `tolerance` is of the squared error, `ratio` the log of the greatest one of areas, float32.
    """
    for image in images:
        start, size = starts[image], starts[image + 1] - starts[image]
        qx, qy = points[0, start : start + size], points[1, start : start + size]
        mx, my = points[2, start : start + size], points[3, start : start + size]
        area = log_area[start : start + size]
        top, chosen = 0, -1
        for h in range(size):
            r = residuals[start + h]
            a0, a1, a2, a3, a4 = r[0], r[1], r[2], r[3], r[4]
            b0, b1, b2, b4 = r[5], r[6], r[7], r[9]
            of_h = area[h]
            every = np.float32(0)  # whatever group: no fewer than count; in the numbers that vector registers hold
            for i in range(size):
                e = a0 * qx[i] + a1 * qy[i] + a2 + a3 * mx[i] + a4 * my[i]
                f = b0 * qx[i] + b1 * qy[i] + b2 + b4 * my[i]
                agrees = (e * e + f * f < tolerance) & (abs(area[i] - of_h) < ratio)
                every += np.float32(1) if agrees else np.float32(0)
            if every <= top:
                continue
            total, room, current = 0, 0, -1
            for i in range(size):
                if group[start + i] != current:
                    current = group[start + i]
                    room = capacity[current]
                e = a0 * qx[i] + a1 * qy[i] + a2 + a3 * mx[i] + a4 * my[i]
                f = b0 * qx[i] + b1 * qy[i] + b2 + b4 * my[i]
                if room > 0 and e * e + f * f < tolerance and abs(area[i] - of_h) < ratio:
                    room -= 1
                    total += 1
            if total > top:
                top, chosen = total, start + h
        counts[image], best[image] = top, chosen


def _refine(
    putatives: Putatives, pairs: _Pairs, slots: np.ndarray, best: np.ndarray, config: VerificationConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One-to-one inliers of the best hypotheses, then least-squares rounds while the inliers grow.

    Returns:
        counts (n,), transforms (n, 2, 3) at the reference size, indices of the inlier pairs, sorted.
    """
    n = len(slots)

    def agreeing(transforms: np.ndarray) -> np.ndarray:
        return _agreeing(
            slots,
            putatives.starts,
            putatives.query,
            putatives.row,
            transforms,
            pairs.points,
            pairs.log_area,
            config.tolerance**2,
            np.log(config.max_area_ratio),
        )

    starting = pairs.transforms[best]
    transforms = np.concatenate([starting[:, :4].reshape(n, 2, 2), starting[:, 4:, None]], axis=2)
    place = np.zeros(len(putatives.starts) - 1, np.int64)  # of an image in `slots`
    place[slots] = np.arange(n)
    owner = place[putatives.slot]
    chosen = agreeing(transforms)
    counts = np.bincount(owner[chosen], minlength=n)
    growing = counts >= max(config.min_inliers, MIN_FIT)
    for _ in range(config.refinements):
        if not growing.any():
            break
        fitted, solvable = _fit(pairs, chosen, owner[chosen], n)
        growing &= solvable
        again = agreeing(np.where(growing[:, None, None], fitted, transforms))
        found = np.bincount(owner[again], minlength=n)
        growing &= found > counts
        transforms[growing], counts[growing] = fitted[growing], found[growing]
        kept = np.concatenate([chosen[~growing[owner[chosen]]], again[growing[owner[again]]]])
        chosen = np.sort(kept)
    return counts, transforms, chosen


@compiled
def _agreeing(slots, starts, query, row, transforms, points, log_area, tolerance, ratio):  # type: ignore[no-untyped-def]
    """Sorted indices of the inlier pairs of each image's transform, one-to-one by increasing error.

    `slots` are the images, increasing, `transforms` theirs, (n, 2, 3) float64; the other arrays are those of
    `Putatives` and `_Pairs`. `tolerance` is of the squared error, `ratio` the log of the greatest one of areas.
    """
    total = 0
    for slot in slots:
        total += starts[slot + 1] - starts[slot]
    chosen, filled = np.empty(total, np.int64), 0
    for n in range(len(slots)):
        start, stop = starts[slots[n]], starts[slots[n] + 1]
        (a, b, dx), (c, d, dy) = transforms[n]
        det = a * d - b * c
        g00, g11 = 1 + (c * c + d * d) / (det * det), 1 + (a * a + b * b) / (det * det)
        g01, log_det = -(a * c + b * d) / (det * det), np.log(abs(det))
        inlier, error, count = np.empty(stop - start, np.int64), np.empty(stop - start), 0
        for i in range(start, stop):
            x = a * points[0, i] + b * points[1, i] + dx - points[2, i]
            y = c * points[0, i] + d * points[1, i] + dy - points[3, i]
            off = g00 * x * x + 2 * g01 * x * y + g11 * y * y
            if off < tolerance and abs(log_area[i] - log_det) < ratio:
                inlier[count], error[count] = i, off
                count += 1
        taken = filled
        for place in np.argsort(error[:count], kind="mergesort"):  # the earlier of two pairs with one error goes first
            i = inlier[place]
            free = True
            for j in range(filled, taken):
                if query[chosen[j]] == query[i] or row[chosen[j]] == row[i]:
                    free = False
                    break
            if free:
                chosen[taken] = i
                taken += 1
        chosen[filled:taken] = np.sort(chosen[filled:taken])
        filled = taken
    return chosen[:filled].copy()


def _fit(pairs: _Pairs, where: np.ndarray, owner: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares affine transform of each image's inliers (forward residuals, centred for conditioning).

    Returns:
        transforms (n, 2, 3) and (n,) bool: False where the inliers do not determine one.
    """
    count = np.maximum(np.bincount(owner, minlength=n), 1)[:, None]

    def mean(values: np.ndarray) -> np.ndarray:
        columns = [np.bincount(owner, values[:, k], minlength=n) for k in range(values.shape[1])]
        return np.stack(columns, axis=1) / count

    points = pairs.points[:, where].astype(np.float64).T
    query, image = points[:, :2], points[:, 2:]
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
