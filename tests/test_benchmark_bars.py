"""The bars of the benchmark of descriptors: met, missed, and left open."""

import cv2
import numpy as np

from benchmarks.descriptors import PAIRS_ROW, Blurred, Stored, bars
from tests.hardnet.patch_fixtures import PixelDescriptor


def figures(**changes):
    levels = {"easy": 0.9, "hard": 0.8, "tough": 0.5}
    peer = {"matching": {"hard": 0.6}, PAIRS_ROW: 0.004}
    made = {
        "hardnet": {"matching": levels, PAIRS_ROW: 0.001},
        "rootsift": peer,
        "rootsift, blurred as in an index": {"matching": {"hard": 0.65}, PAIRS_ROW: 0.003},
        "tfeat-lib": {"matching": {"hard": 0.55}, PAIRS_ROW: 0.01},
        "hardnet, as bytes": {"matching": {"easy": 0.9, "hard": 0.7985, "tough": 0.5}, "mean cosine": 0.9995},
    }
    return {key: value for key, value in {**made, **changes}.items() if value is not None}


def test_bars_are_met():
    assert all(bars(figures(), "hardnet").values())


def test_each_bar_can_be_missed():
    met = bars(
        figures(**{"rootsift, blurred as in an index": {"matching": {"hard": 0.69}, PAIRS_ROW: 0.0015}}), "hardnet"
    )
    assert [bar for bar, reached in met.items() if not reached] == [
        "matching, hard: 12 points above RootSIFT",
        "FPR95 at most half of RootSIFT's",
    ]
    met = bars(figures(**{"tfeat-lib": None}), "hardnet")
    assert [bar for bar, reached in met.items() if not reached] == ["matching, hard: 20 points above TFeat"]
    worse = {"matching": {"easy": 0.9, "hard": 0.797, "tough": 0.5}, "mean cosine": 0.99}
    assert list(bars(figures(**{"hardnet, as bytes": worse}), "hardnet").values())[-2:] == [False, False]


def test_descriptors_with_something_before_or_after():
    plain = PixelDescriptor()
    patches = np.random.default_rng(0).uniform(0, 255, (5, 8, 8)).astype(np.float32)
    blurred = Blurred(plain)
    sigma = np.sqrt(1.5**2 - (0.75 * 8 / 32) ** 2)
    expected = plain.describe(np.stack([cv2.GaussianBlur(patch, (0, 0), sigma) for patch in patches]))
    np.testing.assert_allclose(blurred.describe(patches), expected, atol=1e-6)
    stored = Stored(plain)
    rows = stored.describe(patches)
    assert 0.99 < stored.cosines[0] < 1.0
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
