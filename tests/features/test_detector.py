"""The detector against the reference implementation, and the conventions of regions."""

import cv2
import numpy as np
import pyhesaff
import pytest
import skimage.data

from benchmarks.detector import found_share, overlap_error
from retrieval.config import DetectorConfig
from retrieval.features import detect_regions
from retrieval.features.affine_shape import find_shapes
from retrieval.features.detector import MEASUREMENT_SCALE, measurement_inside, upright
from retrieval.features.hessian import hessian_response
from retrieval.features.scale_space import octaves


@pytest.fixture(scope="module")
def photograph():
    """(512, 512) float32: the mean of the channels, as the reference takes it."""
    return skimage.data.astronaut().astype(np.float32).mean(axis=2)


@pytest.fixture(scope="module")
def regions(photograph):
    return detect_regions(photograph)


def test_agrees_with_the_reference_implementation(tmp_path, photograph, regions):
    path = tmp_path / "astronaut.png"
    cv2.imwrite(str(path), skimage.data.astronaut()[:, :, ::-1])
    keypoints, _ = pyhesaff.detect_feats(str(path))
    reference = np.zeros((len(keypoints), 6), np.float32)
    reference[:, :2] = keypoints[:, :2]
    reference[:, 2:5] = keypoints[:, 2:5] / MEASUREMENT_SCALE
    assert len(reference) > 300
    assert abs(len(regions) / len(reference) - 1) < 0.03
    assert found_share(reference, regions) > 0.93


def test_regions_are_upright_and_inside(photograph, regions):
    assert regions.dtype == np.float32
    assert regions.shape[1] == 6
    assert (regions[:, 2] > 0).all()
    assert (regions[:, 4] > 0).all()
    assert (regions[:, 5] == 0).all()
    assert measurement_inside(regions, photograph.shape).all()


def test_same_input_same_bytes(photograph, regions):
    assert detect_regions(photograph).tobytes() == regions.tobytes()


def test_strongest_responses_are_kept(photograph, regions):
    few = detect_regions(photograph, DetectorConfig(max_features=50))
    assert len(few) == 50
    everything = {row.tobytes() for row in regions}
    assert all(row.tobytes() in everything for row in few)
    stricter = {row[:2].tobytes() for row in detect_regions(photograph, DetectorConfig(threshold=20))}
    kept = {row[:2].tobytes() for row in few}
    assert len(kept & stricter) >= 0.9 * min(len(kept), len(stricter))


def test_a_blob_is_found_where_it_is():
    """A Gaussian blob of sigma s has its determinant-of-Hessian extremum in scale space at its centre, scale s."""
    y, x = np.mgrid[0:201, 0:301].astype(np.float32)
    for sigma in (3.0, 6.0, 11.0):
        image = 100 + 100 * np.exp(-((x - 150.3) ** 2 + (y - 99.6) ** 2) / (2 * sigma**2))
        found = detect_regions(image)
        scale = np.sqrt(found[:, 2] * found[:, 4])
        nearest = np.argmin(np.hypot(found[:, 0] - 150.3, found[:, 1] - 99.6) + abs(scale - sigma))
        assert np.hypot(found[nearest, 0] - 150.3, found[nearest, 1] - 99.6) < 0.3
        # the image's own blur is assumed to be 0.5; the extremum over scale lies at sigma
        assert scale[nearest] == pytest.approx(sigma, rel=0.12)


def test_a_stretched_blob_gets_its_shape():
    y, x = np.mgrid[0:201, 0:301].astype(np.float32)
    shape = np.array([[9.0, 0.0], [3.0, 5.0]])
    inverse = np.linalg.inv(shape)
    u = inverse @ np.stack([(x - 150).ravel(), (y - 100).ravel()])
    image = (100 + 100 * np.exp(-(u**2).sum(axis=0) / 2)).reshape(x.shape).astype(np.float32)
    found = detect_regions(image)
    nearest = found[[np.argmin(np.hypot(found[:, 0] - 150, found[:, 1] - 100))]]
    scale = np.sqrt(nearest[0, 2] * nearest[0, 4])
    unit = np.array([[0, 0, 9, 3, 5, 0]]) / np.sqrt(45) * scale
    assert overlap_error(nearest, unit)[0] < 0.2
    round_one = np.array([[0, 0, scale, 0, scale, 0]])
    assert overlap_error(round_one, unit)[0] > 0.3


def test_octaves_are_decimated_not_resized():
    """Pixel (i, j) of octave 1 is the filtered value at pixel (2i, 2j): x_full = 2 x."""
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (97, 130)).astype(np.float32)
    first, second = list(octaves(image, DetectorConfig()))[:2]
    np.testing.assert_array_equal(second.levels[0], first.levels[3][::2, ::2])
    assert second.index == 1
    assert first.sigmas[3] == pytest.approx(2 * second.sigmas[0])


def test_hessian_response_of_a_quadratic():
    """For I = p x^2 + q x y + r y^2 the determinant of the Hessian is 4 p r - q^2 everywhere inside."""
    y, x = np.mgrid[0:20, 0:30].astype(np.float32)
    image = 0.5 * x**2 + 0.25 * x * y + 0.75 * y**2
    response = hessian_response(image, 2.0)
    np.testing.assert_allclose(response[1:-1, 1:-1], 16 * (4 * 0.5 * 0.75 - 0.25**2), rtol=1e-4)


def test_upright_keeps_the_ellipse():
    rng = np.random.default_rng(1)
    shapes = rng.normal(size=(50, 2, 2))
    shapes[np.linalg.det(shapes) < 0, 0] *= -1
    shapes /= np.sqrt(np.linalg.det(shapes))[:, None, None]
    a, b, c = upright(shapes).T
    lower = np.zeros_like(shapes)
    lower[:, 0, 0], lower[:, 1, 0], lower[:, 1, 1] = a, b, c
    np.testing.assert_allclose(lower @ lower.transpose(0, 2, 1), shapes @ shapes.transpose(0, 2, 1), atol=1e-5)


def test_structureless_windows_do_not_converge():
    image = np.full((60, 60), 7, np.float32)
    place, scale = np.full(4, 30, np.float32), np.full(4, 2, np.float32)
    _, converged = find_shapes(image[None], np.zeros(4, int), place, place, scale, DetectorConfig())
    assert not converged.any()


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (12, 12), (64, 64)])
def test_small_and_uniform_images_have_no_regions(shape):
    assert detect_regions(np.full(shape, 128, np.float32)).shape == (0, 6)


def test_bad_arrays_are_refused():
    with pytest.raises(ValueError, match="finite"):
        detect_regions(np.full((50, 50), np.nan, np.float32))
    with pytest.raises(ValueError, match="shape"):
        detect_regions(np.zeros((50, 50, 3), np.float32))
