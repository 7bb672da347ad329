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
    """-log10 of pairs * exp(-(pairs - 1) * KL((inliers - 1) / (pairs - 1) || p))."""
    if inliers == 0:
        return -math.inf
    others = max(pairs - 1, 1)
    share = (inliers - 1) / others
    divergence = 0.0
    if share > p:
        divergence = share * math.log(share / p)
        if share < 1:
            divergence += (1 - share) * math.log((1 - share) / (1 - p))
    return (others * divergence - math.log(others + 1)) / math.log(10)


counts = st.integers(2, 2000).flatmap(lambda pairs: st.tuples(st.integers(0, pairs), st.just(pairs)))


@given(counts)
def test_it_equals_its_formula(given):
    inliers, pairs = given
    (found,) = significance(np.array([inliers]), np.array([pairs]), CONFIG)
    assert found == pytest.approx(by_loops(inliers, pairs, chance(CONFIG)), rel=1e-9, abs=1e-9)


@given(counts)
def test_it_never_promises_more_than_the_exact_tail(given):
    inliers, pairs = given
    if inliers < 2:
        return
    exact = -(stats.binom.logsf(inliers - 2, pairs - 1, chance(CONFIG)) + math.log(pairs)) / math.log(10)
    (found,) = significance(np.array([inliers]), np.array([pairs]), CONFIG)
    assert found <= exact + 1e-6


def test_chance_is_the_disc_of_the_tolerance():
    assert chance(CONFIG) == pytest.approx(math.pi * 800 / (1024 * 768))
    assert chance(VerificationConfig(tolerance=1e6)) == 1.0
    np.testing.assert_allclose(significance(np.array([9]), np.array([10]), VerificationConfig(tolerance=1e6)), [-1.0])


def test_the_same_inliers_mean_less_among_more_pairs():
    found = significance(np.full(4, 12), np.array([20, 60, 300, 800]), CONFIG)
    assert (np.diff(found) < 0).all()
    assert found[1] > 10
    assert found[3] < 3
