"""Significance of inliers against its formula in plain loops, and against scipy's exact binomial tail."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from retrieval.config import VerificationConfig
from retrieval.geometry.significance import chance, significance

CONFIG = VerificationConfig()


def by_loops(inliers, pairs, p):
    """-log10 of C(pairs, 3) * exp(-(pairs - 3) * KL((inliers - 3) / (pairs - 3) || p))."""
    if inliers == 0:
        return -math.inf
    others = max(pairs - 3, 1)
    share = min(max(inliers - 3, 0) / others, 1)
    divergence = 0.0
    if share > p:
        divergence = share * math.log(share / p)
        if share < 1:
            divergence += (1 - share) * math.log((1 - share) / (1 - p))
    return (others * divergence - math.log(math.comb(max(pairs, 3), 3))) / math.log(10)


counts = st.integers(2, 2000).flatmap(lambda pairs: st.tuples(st.integers(0, pairs), st.just(pairs)))


@given(counts)
def test_it_equals_its_formula(given):
    inliers, pairs = given
    (found,) = significance(np.array([inliers]), np.array([pairs]), CONFIG)
    assert found == pytest.approx(by_loops(inliers, pairs, chance(CONFIG)), rel=1e-9, abs=1e-9)


@given(counts)
def test_it_never_promises_more_than_the_exact_tail(given):
    inliers, pairs = given
    if inliers < 4:
        return
    tail = stats.binom.logsf(inliers - 4, pairs - 3, chance(CONFIG))
    if tail < -600:  # scipy's tail loses its digits towards the smallest numbers
        return
    exact = -(tail + math.log(math.comb(pairs, 3))) / math.log(10)
    (found,) = significance(np.array([inliers]), np.array([pairs]), CONFIG)
    assert found <= exact + 1e-6


def test_chance_is_the_disc_of_the_tolerance():
    assert chance(CONFIG) == pytest.approx(math.pi * 800 / (1024 * 768))
    assert chance(VerificationConfig(tolerance=1e6)) == 1.0
    everywhere = VerificationConfig(tolerance=1e6)
    np.testing.assert_allclose(significance(np.array([9]), np.array([10]), everywhere), [-math.log10(120)])


def test_the_same_inliers_mean_less_among_more_pairs():
    found = significance(np.full(4, 12), np.array([20, 60, 300, 800]), CONFIG)
    assert (np.diff(found) < 0).all()
    assert found[1] > 5
    assert found[3] < 0
