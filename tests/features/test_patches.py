"""Patches against the reference implementation's and against analytic pictures."""

import cv2
import numpy as np
import pyhesaff
import pytest
import skimage.data

from retrieval.features.detector import MEASUREMENT_SCALE
from retrieval.features.patches import PATCH_BLUR, cut_patches, patch_frames


def correlation(one, other):
    one, other = (p.reshape(len(p), -1).astype(float) for p in (one, other))
    one, other = (p - p.mean(axis=1, keepdims=True) for p in (one, other))
    return (one * other).sum(axis=1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1))


def test_patches_agree_with_the_reference_implementation(tmp_path):
    picture = skimage.data.astronaut()
    path = tmp_path / "astronaut.png"
    cv2.imwrite(str(path), picture[:, :, ::-1])
    keypoints, _ = pyhesaff.detect_feats(str(path))
    reference = np.asarray(pyhesaff.extract_patches(str(path), keypoints))
    regions = np.zeros((len(keypoints), 6), np.float32)
    regions[:, :2] = keypoints[:, :2]
    regions[:, 2:5] = keypoints[:, 2:5] / MEASUREMENT_SCALE
    ours = cut_patches(picture.astype(np.float32).mean(axis=2), regions, 41)
    agreement = correlation(ours, reference)
    assert np.median(agreement) > 0.998
    assert np.percentile(agreement, 1) > 0.98


def test_a_ramp_keeps_its_values():
    """Blur leaves a linear ramp as it is, so every patch pixel shows the ramp at its own place."""
    y, x = np.mgrid[0:400, 0:500].astype(np.float32)
    image = 0.2 * x + 0.1 * y
    regions = np.array([[250, 200, 2, 0, 2, 0], [240, 210, 6, 2, 3, 0], [255, 190, 4, -3, 7, 0.7]], np.float32)
    for size in (32, 41):
        patches = cut_patches(image, regions, size)
        frames, steps = patch_frames(regions, size)
        ticks = np.arange(size) - (size - 1) / 2
        v, u = np.meshgrid(ticks, ticks, indexing="ij")
        for patch, region, frame, step in zip(patches, regions, frames, steps, strict=True):
            place = (frame * step) @ np.stack([u.ravel(), v.ravel()]) + region[:2, None]
            np.testing.assert_allclose(patch.ravel(), 0.2 * place[0] + 0.1 * place[1], atol=0.05)


def test_large_regions_do_not_alias():
    """A one-pixel checkerboard under a large region averages out to grey."""
    y, x = np.mgrid[0:400, 0:400]
    image = (255 * ((x + y) % 2)).astype(np.float32)
    regions = np.array([[200, 200, 20, 0, 20, 0], [200, 200, 30, 10, 14, 0]], np.float32)
    assert np.abs(cut_patches(image, regions, 32) - 127.5).max() < 1.5


def test_the_blur_is_the_stated_one():
    """The image of a point is a Gaussian of PATCH_BLUR patch pixels, whichever level it was sampled from."""
    image = np.zeros((801, 801), np.float32)
    image[400, 400] = 1e6
    for a, b, c in [(3, 0, 3), (7, 0, 7), (20, 0, 20), (12, 5, 9), (24, 0, 10)]:
        region = np.array([[400, 400, a, b, c, 0]], np.float32)
        patch = cut_patches(image, region, 41)[0].astype(float)
        ticks = np.arange(41) - 20
        mass = patch.sum()
        spread = [np.sqrt((patch.sum(axis=k) * ticks**2).sum() / mass) for k in (0, 1)]
        np.testing.assert_allclose(spread, PATCH_BLUR, rtol=0.08)


def test_rotation_turns_the_patch():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.uniform(0, 255, (300, 300)).astype(np.float32), (0, 0), 4)
    straight = np.array([[150, 150, 6, 0, 6, 0]], np.float32)
    turned = np.array([[150, 150, 6, 0, 6, np.pi / 2]], np.float32)
    one, other = cut_patches(image, straight, 41)[0], cut_patches(image, turned, 41)[0]
    # angle pi/2 sends the patch's x axis along the image's y axis
    np.testing.assert_allclose(other, np.rot90(one), atol=2.0)


@pytest.mark.parametrize("shape", [(1e20, 0, 1e20), (1, 1e30, 1), (1e-18, 0, 1e18), (1e-30, 0, 1e-30), (1, 0, -1)])
def test_shapes_that_are_none_are_refused(shape):
    image = np.zeros((60, 60), np.float32)
    with pytest.raises(ValueError, match="expected regions"):
        cut_patches(image, np.array([[30, 30, *shape, 0]], np.float32), 32)


def test_no_regions_no_patches():
    assert cut_patches(np.zeros((50, 50), np.float32), np.empty((0, 6), np.float32), 32).shape == (0, 32, 32)


@pytest.mark.parametrize("blur", [0.5, 0.75, 1.5])
def test_any_blur_agrees_with_brute_force(blur):
    """Every patch pixel as a Gaussian average over a dense grid, taken straight from the photograph."""
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1, (500, 500)).astype(np.float32)
    image = sum(s * cv2.GaussianBlur(noise, (0, 0), s) for s in (1.0, 2.0, 4.0, 8.0))
    image = (127 + 40 * image / image.std()).astype(np.float32)
    shapes = [(2, 0, 2, 0), (4, 1, 3, 0.5), (6, 2, 3, 0), (9, 0, 9, 0.3), (12, -4, 8, 0), (7, 3, 14, 1)]
    regions = np.array([(250, 245, *shape) for shape in shapes], np.float32)
    size = 48
    patches = cut_patches(image, regions, size, blur=blur)
    frames, steps = patch_frames(regions, size)
    ticks = np.arange(-int(4 * blur * 12) - 1, int(4 * blur * 12) + 2) / 12  # twelve samples a patch pixel
    u, v = (axis.ravel() for axis in np.meshgrid(ticks, ticks))
    weights = np.exp(-0.5 * (u**2 + v**2) / blur**2)
    weights /= weights.sum()
    for patch, region, frame, step in zip(patches, regions, frames, steps, strict=True):
        for row, column in [(24, 24), (10, 31), (40, 5), (0, 47), (20, 20), (47, 30)]:
            place = np.stack([u + column - (size - 1) / 2, v + row - (size - 1) / 2])
            x, y = ((frame * step) @ place + region[:2, None]).astype(np.float32)
            x, y = (np.pad(axis, (0, -len(axis) % 500)).reshape(-1, 500) for axis in (x, y))
            values = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).ravel()
            assert abs(patch[row, column] - (values[: len(weights)] * weights).sum()) < 2.0


def test_a_sharp_patch_does_not_alias():
    y, x = np.mgrid[0:400, 0:400]
    image = (255 * ((x + y) % 2)).astype(np.float32)
    regions = np.array([[200, 200, 20, 0, 20, 0], [200, 200, 24, 8, 12, 0], [200, 200, 24, 0, 12, 0]], np.float32)
    for blur in (0.5, 0.75):
        assert np.abs(cut_patches(image, regions, 32, blur=blur) - 127.5).max() < 3.0
