"""Affine shape by Baumberg's iteration (Baumberg 2000), point by point.

Each step samples a small window around the point through its current shape, measures the second-moment
matrix of the window's gradients, and multiplies the shape by that matrix's inverse square root, until the
window looks isotropic. Parameters are those of Perdoch et al. 2009.
"""

import numpy as np

from hardnet.compiling import compiled
from retrieval.config import DetectorConfig

LANES = 32  # loops whose length is a multiple are vectors throughout: four registers of eight numbers at once


def find_shapes(
    levels: np.ndarray, level: np.ndarray, x: np.ndarray, y: np.ndarray, scale: np.ndarray, config: DetectorConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Affine shapes of the points of an octave.

    Args:
        levels: (L, H, W) float32.
        level: (N,) index of the level that is sampled for each point.
        x: (N,) float32, in pixels of the levels.
        y: (N,) float32, likewise.
        scale: (N,) float32 detection scales, likewise.
        config: window, iterations, convergence and anisotropy limit.

    Returns:
        shapes: (N, 2, 2) float32 of determinant 1; meaningless where not converged.
        converged: (N,) bool; False where the iteration did not settle or grew too anisotropic.
    """
    shapes = np.zeros((len(x), 2, 2), np.float32)
    converged = np.zeros(len(x), np.bool_)
    _iterate(
        np.require(levels, np.float32, ["C", "W"]),
        level.astype(np.int64),
        x,
        y,
        scale / np.float32(config.initial_sigma),
        config.shape_iterations,
        config.shape_convergence,
        config.max_anisotropy,
        shape_window(config.shape_window),
        shapes,
        converged,
    )
    return shapes, converged


def shape_window(size: int) -> np.ndarray:
    """(S, S) float32 Gaussian weights whose 3 sigma reach the window's edge."""
    steps = np.arange(size) - size // 2
    profile = np.exp(-(steps**2) / (2.0 * (size // 2 / 3.0) ** 2))
    return np.outer(profile, profile).astype(np.float32)


@compiled
def _iterate(levels, level, x, y, stretch, iterations, convergence, max_anisotropy, window, shapes, converged):  # type: ignore[no-untyped-def]
    """Fills (N, 2, 2) shapes and (N,) converged; `stretch` is the length of a step of the window, pixels."""
    size = len(window)
    # the window with a frame of repeated pixels, flat: differences across the frame are then one-sided ones
    side = size + 2
    samples = np.zeros(side * side, np.float32)
    weights = np.zeros(side * side, np.float32)
    for i in range(size):
        for j in range(size):
            weights[(i + 1) * side + j + 1] = window[i, j]
    room = (size + LANES - 1) // LANES * LANES
    ramp = np.arange(room).astype(np.float32)
    left, top = np.zeros(room, np.int32), np.zeros(room, np.int32)
    part_x, part_y = np.zeros(room, np.float32), np.zeros(room, np.float32)
    for n in range(len(x)):
        image = levels[level[n]]
        s00, s01, s10, s11 = 1.0, 0.0, 0.0, 1.0
        previous = 0.0
        for _ in range(iterations):
            t = stretch[n]
            _sample(
                image, x[n], y[n], np.float32(s00) * t, np.float32(s01) * t, np.float32(s10) * t, np.float32(s11) * t,
                size, ramp, left, top, part_x, part_y, samples,
            )  # fmt: skip
            a, b, c = _second_moments(samples, weights, side)
            # sqrt([[a,b],[b,c]]) = (M + d I) / t with d = sqrt(det M), t = sqrt(trace M + 2 d); its inverse,
            # scaled to determinant 1, is the adjugate of (M + d I) over the square root of its determinant.
            determinant = a * c - b * b
            if not determinant > 0:  # a window without structure
                break
            d = np.sqrt(determinant)
            p, q = c + d, a + d
            norm = np.sqrt(p * q - b * b)
            p, q, r = p / norm, q / norm, -b / norm
            half = 0.5 * (p + q)
            spread = np.sqrt(0.25 * (p - q) * (p - q) + r * r)
            deviation = 1.0 - (half - spread) / (half + spread)  # 1 - smaller / larger eigenvalue
            s00, s10, s01, s11 = p * s00 + r * s10, r * s00 + q * s10, p * s01 + r * s11, r * s01 + q * s11
            half = 0.5 * (s00 + s11)
            squared = half * half - (s00 * s11 - s01 * s10)
            spread = np.sqrt(max(squared, 0.0))
            # ratio of the eigenvalues of the shape, which are to be real and positive
            if not (squared >= 0 and half > spread and half + spread <= max_anisotropy * (half - spread)):
                break
            if deviation < convergence and previous < convergence:
                converged[n] = True
                break
            previous = deviation
        shapes[n, 0, 0], shapes[n, 0, 1], shapes[n, 1, 0], shapes[n, 1, 1] = s00, s01, s10, s11


@compiled
def _sample(image, x, y, xu, xv, yu, yv, size, ramp, left, top, part_x, part_y, samples):  # type: ignore[no-untyped-def]
    """Samples a window bilinearly into its frame; outside the image everything is 0."""
    height, width = image.shape
    flat = image.ravel()
    pitch, one = np.uintp(width), np.uintp(1)
    reach = np.float32(size // 2)
    reach_x, reach_y = reach * (abs(xu) + abs(xv)), reach * (abs(yu) + abs(yv))
    inside = x > reach_x and y > reach_y and x + reach_x < width - 2 and y + reach_y < height - 2
    side = size + 2
    for i in range(size):
        v = np.float32(i) - reach
        start_x, start_y = x + v * xv - reach * xu, y + v * yv - reach * yu
        at = (i + 1) * side + 1
        if inside:
            _places(start_x, xu, ramp, left, part_x)
            _places(start_y, yu, ramp, top, part_y)
            for j in range(np.uintp(size)):
                k = np.uintp(top[j]) * pitch + np.uintp(left[j])
                below = k + pitch
                upper = flat[k] + part_x[j] * (flat[k + one] - flat[k])
                lower = flat[below] + part_x[j] * (flat[below + one] - flat[below])
                samples[np.uintp(at) + j] = upper + part_y[j] * (lower - upper)
        else:
            for j in range(size):
                samples[at + j] = _bordered(image, start_x + np.float32(j) * xu, start_y + np.float32(j) * yu)
        samples[at - 1] = samples[at]
        samples[at + size] = samples[at + size - 1]
    last = side * (side - 1)
    for j in range(side):
        samples[j] = samples[side + j]
        samples[last + j] = samples[last - side + j]


@compiled
def _places(start, step, ramp, whole, part):  # type: ignore[no-untyped-def]
    """Places along one axis, inside the image: the pixel before each, and how far behind it."""
    for j in range(len(ramp)):
        place = start + ramp[j] * step
        pixel = np.int32(place)
        part[j] = place - np.float32(pixel)
        whole[j] = pixel


@compiled
def _bordered(image, x, y):  # type: ignore[no-untyped-def]
    """One bilinear sample of an image that is 0 outside."""
    height, width = image.shape
    if not (x > -1 and y > -1 and x < width and y < height):
        return np.float32(0)
    left, top = int(np.floor(x)), int(np.floor(y))
    value = np.float32(0)
    for i in range(2):
        for j in range(2):
            row, column = top + i, left + j
            if 0 <= row < height and 0 <= column < width:
                share_x = x - np.float32(left) if j == 1 else np.float32(1) - (x - np.float32(left))
                share_y = y - np.float32(top) if i == 1 else np.float32(1) - (y - np.float32(top))
                value += share_x * share_y * image[row, column]
    return value


@compiled
def _second_moments(samples, weights, side):  # type: ignore[no-untyped-def]
    """Weighted sums of gx^2, gx gy, gy^2; gradients are plain differences of the two neighbours."""
    xx, xy, yy = np.float32(0), np.float32(0), np.float32(0)
    up, left, here = np.uintp(0), np.uintp(side - 1), np.uintp(side)
    right, down = np.uintp(side + 1), np.uintp(2 * side)
    for k in range(np.uintp(side * (side - 2))):  # from the first pixel below the frame's upper edge
        gx, gy = samples[right + k] - samples[left + k], samples[down + k] - samples[up + k]
        wx = weights[here + k] * gx
        xx += wx * gx
        xy += wx * gy
        yy += weights[here + k] * gy * gy
    return float(xx), float(xy), float(yy)
