import math

import cv2
import numpy as np
import pytest
import torch

from hardnet.shapes.estimators import Estimator
from hardnet.shapes.networks import AffNet
from hardnet.training.deformation import ShapeSettings, cut, deformations, draw_frames, frames_of


def scene(x, y):
    """Grey values 0..1 of a smooth pattern at places in half-widths of the measurement region."""
    return 0.5 + 0.2 * np.sin(2.3 * x + 0.4) * np.cos(1.1 * y) + 0.2 * np.sin(1.7 * y - 0.9 * x)


def pattern(side=64, context=2.0):
    """The scene as a patch of the patch sets."""
    ticks = ((np.arange(side) + 0.5) / (side / 2) - 1) * context
    return torch.from_numpy(np.rint(255 * scene(*np.meshgrid(ticks, ticks))).astype(np.uint8))[None]


def cut_one(patch, frame, context=2.0, blur=1.0):
    frames = torch.as_tensor(np.asarray(frame), dtype=torch.float32)[None]
    return cut(patch, torch.tensor([context]), frames, blur)[0].numpy()


@pytest.mark.parametrize(
    "frame",
    [
        np.eye(2),
        [[1.3, 0.0], [-0.4, 1 / 1.3]],
        [[0.7, 0.0], [0.5, 1 / 0.7]],
        [[math.cos(0.5), -math.sin(0.5)], [math.sin(0.5), math.cos(0.5)]],
        [[-1.0, 0.0], [0.0, 1.0]],
    ],
)
@pytest.mark.parametrize(("side", "context"), [(64, 2.0), (80, 2.5)])
def test_a_patch_shows_what_lies_at_its_frame(frame, side, context):
    """Pixel k of 32 stands at (k - 15.5) / 16 half-widths: where `retrieval.features.patches` has it."""
    ticks = (np.arange(32) - 15.5) / 16
    places = np.asarray(frame) @ np.stack([grid.ravel() for grid in np.meshgrid(ticks, ticks)])
    found = cut_one(pattern(side, context), frame, context)
    np.testing.assert_allclose(found, scene(*places).reshape(32, 32), atol=0.012)


def test_of_patches_without_surroundings_the_inner_half_counts():
    patch = pattern(context=2.0)
    np.testing.assert_allclose(cut_one(patch, np.eye(2), context=1.0), cut_one(patch, np.eye(2)), atol=1e-6)


def test_blur_is_what_was_asked_for():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    found = cut_one(torch.from_numpy(noise)[None], np.eye(2), blur=1.3)
    # two samples to a pixel come of bilinear interpolation, which blurs by 0.25 pixels of its own
    expected = cv2.GaussianBlur(noise.astype(np.float64), (0, 0), math.hypot(1.3, 0.25), borderType=cv2.BORDER_REFLECT)
    np.testing.assert_allclose(255 * found, expected[16:48, 16:48], atol=3)


def test_gradients_reach_the_frame():
    frame = torch.tensor([[[1.1, 0.0], [0.2, 0.9]]], dtype=torch.float32, requires_grad=True)

    def brightness(given):
        return cut(pattern(), torch.tensor([2.0]), given, 1.0)[0, 20:28, 20:28].sum()

    brightness(frame).backward()
    for row, column in ((0, 0), (1, 0), (1, 1)):
        step = torch.zeros(1, 2, 2)
        step[0, row, column] = 0.02
        slope = (brightness(frame.detach() + step) - brightness(frame.detach() - step)) / 0.04
        assert frame.grad[0, row, column].item() == pytest.approx(slope.item(), rel=0.1)


def test_deformations_are_upright_and_stretch_as_said():
    generator = torch.Generator().manual_seed(0)
    tilt = 1 + 5 * torch.rand(50, generator=generator)
    direction = math.pi * torch.rand(50, generator=generator)
    found = deformations(tilt, direction).double().numpy()
    assert not found[:, 0, 1].any()
    assert (found[:, 0, 0] > 0).all()
    np.testing.assert_allclose(np.linalg.det(found), 1, rtol=1e-5)
    axes, lengths, _ = np.linalg.svd(found)
    np.testing.assert_allclose(lengths[:, 0] / lengths[:, 1], tilt, rtol=1e-4)
    along = torch.stack([torch.cos(direction), torch.sin(direction)], dim=1).numpy()
    stretched = tilt.numpy() > 1.1
    np.testing.assert_allclose(np.abs((axes[:, :, 0] * along).sum(axis=1))[stretched], 1, atol=1e-3)


def test_a_pair_is_turned_alike_and_deformed_each_in_its_own_way():
    frames = draw_frames(300, 4.0, 180.0, True, torch.Generator().manual_seed(0))
    anchors, positives = frames.double().chunk(2)
    np.testing.assert_allclose(torch.linalg.det(anchors).abs(), 1, rtol=1e-5)
    assert 100 < (torch.linalg.det(anchors) < 0).sum() < 200
    between = torch.linalg.inv(anchors) @ positives  # what is alike drops out
    assert between[:, 0, 1].abs().max() < 1e-5
    assert between[:, 0, 0].min() > 0
    assert between[:, 1, 0].std() > 0.3
    lengths = torch.linalg.svdvals(frames)
    ratios = lengths[:, 0] / lengths[:, 1]
    assert 3.5 < ratios.max() <= 4.001
    assert ratios.min() < 1.1
    upright = draw_frames(300, 4.0, 0.0, False, torch.Generator().manual_seed(0))
    assert not upright[:, 0, 1].any()
    again = draw_frames(300, 4.0, 180.0, True, torch.Generator().manual_seed(0))
    assert torch.equal(frames, again)


def test_training_sees_the_shapes_that_the_estimator_tells():
    torch.manual_seed(0)
    network = AffNet(0.0).eval()
    patches = np.random.default_rng(0).uniform(0, 255, (9, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        found = frames_of(network(torch.from_numpy(patches)[:, None])).numpy()
    expected = Estimator(network, "affnet", "some", "none").shapes(patches)
    np.testing.assert_allclose(found[:, [0, 1, 1], [0, 0, 1]], expected, atol=1e-5)
    assert not found[:, 0, 1].any()
    assert torch.isfinite(frames_of(torch.zeros(2, 3))).all()


def test_tilts_grow():
    settings = ShapeSettings(tilt=3.0, final_tilt=5.8)
    assert [settings.tilt_at(share) for share in (0.0, 0.5, 1.0)] == pytest.approx([3.0, 4.4, 5.8])
