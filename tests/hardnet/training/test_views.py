import cv2
import numpy as np
import pytest
import torch

from hardnet.training.views import ViewSettings, draw_views, flip_alike

PLAIN = ViewSettings()
ALL = ViewSettings(
    rotation=15, shift=0.1, log_scale=0.2, anisotropy=0.1, blur=1, gamma=0.3, gradient=0.3, noise=0.2, occlusion=0.3
)


def random_patches(count, side=64, seed=0):
    generator = np.random.default_rng(seed)
    smooth = [cv2.GaussianBlur(generator.uniform(0, 255, (side, side)), (0, 0), 2) for _ in range(count)]
    return torch.from_numpy(np.array(smooth).astype(np.uint8))


def views(patches, context, settings, seed=0):
    contexts = torch.full((len(patches),), context)
    return draw_views(patches, contexts, settings, torch.Generator().manual_seed(seed))


def test_without_disturbance_the_measurement_region_is_the_inner_part():
    patches = random_patches(3)
    np.testing.assert_allclose(views(patches, 2.0, PLAIN)[:, 0], patches[:, 16:48, 16:48].float(), atol=1e-2)


def test_without_context_the_patch_is_resized_as_the_released_code_does():
    patches = random_patches(3)
    expected = [cv2.resize(patch.numpy().astype(np.float32), (32, 32)) for patch in patches]
    np.testing.assert_allclose(views(patches, 1.0, PLAIN)[:, 0], np.array(expected), atol=1e-2)


@pytest.mark.parametrize("settings", [ViewSettings(rotation=30), ViewSettings(log_scale=0.3), ViewSettings(shift=0.25)])
def test_geometry_is_an_affine_map_within_its_bounds(settings):
    """The centre and the axes of a coordinate ramp tell the map: value = coordinate in the patch."""
    side = 64
    ramp = np.tile(np.linspace(40, 215, side), (side, 1))
    patches = torch.from_numpy(np.stack([ramp, ramp.T]).round().astype(np.uint8)).repeat(40, 1, 1)
    found = views(patches, 2.0, settings)[:, 0].numpy()
    slope = (215 - 40) / (side - 1)
    slopes = [np.gradient(found, axis=axis)[:, 8:24, 8:24].mean((1, 2)) for axis in (2, 1)]
    step = np.stack(slopes, axis=1) / slope
    length = np.linalg.norm(step, axis=1)
    offset = (found[:, 15:17, 15:17].mean((1, 2)) - 127.5) / slope / 16  # in half-widths of the region
    assert np.abs(np.log(length)).max() <= settings.log_scale + 0.03
    assert np.abs(offset).max() <= settings.shift + 0.02
    x, y = step.T
    along = np.where(np.arange(len(step)) % 2 == 0, np.arctan2(y, x), np.arctan2(-x, y))
    assert np.degrees(np.abs(along)).max() <= settings.rotation + 2
    assert max(np.ptp(np.log(length)), np.ptp(offset), np.ptp(along)) > 0.15


def test_the_seed_decides_and_patches_differ():
    patches = random_patches(2).repeat(2, 1, 1)
    one, again, other = (views(patches, 2.0, ALL, seed) for seed in (1, 1, 2))
    torch.testing.assert_close(one, again, rtol=0, atol=0)
    assert (one - other).abs().mean() > 1
    assert (one[0] - one[2]).abs().mean() > 1


def test_views_stay_on_the_grey_scale_and_finite():
    flat = [torch.full((2, 64, 64), value, dtype=torch.uint8) for value in (0, 255)]
    patches = torch.cat([random_patches(20), *flat])
    found = views(patches, 2.0, ViewSettings(rotation=30, blur=2, gamma=0.8, gradient=1.0, occlusion=1.0))
    assert torch.isfinite(found).all()
    assert found.min() >= 0
    assert found.max() <= 255


def test_blur_keeps_the_mean_and_lowers_the_contrast():
    patches = random_patches(50)
    plain, blurred = views(patches, 2.0, PLAIN), views(patches, 2.0, ViewSettings(blur=3))
    assert (blurred.std(dim=(1, 2, 3)) <= plain.std(dim=(1, 2, 3)) + 1e-3).all()
    assert blurred.std() < 0.9 * plain.std()


def test_flips_are_the_same_for_both_patches_and_make_four_of_the_eight():
    patches = torch.arange(9.0).reshape(1, 1, 3, 3).repeat(64, 1, 1, 1)
    anchors, positives = flip_alike(patches, patches + 100, torch.Generator().manual_seed(0))
    torch.testing.assert_close(anchors + 100, positives)
    kinds = {tuple(patch.flatten().int().tolist()) for patch in anchors}
    plain = patches[0, 0]
    expected = {plain, plain.T, plain.flip(1), plain.T.flip(1)}
    assert kinds == {tuple(patch.flatten().int().tolist()) for patch in expected}


def test_settings_say_whether_they_disturb():
    assert not PLAIN.disturbs
    assert ViewSettings(noise=0.1).disturbs
    assert ALL.disturbs
