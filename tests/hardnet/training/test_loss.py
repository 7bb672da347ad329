import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardnet.training.loss import hardest_in_batch


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


def loop_loss(anchors, positives, margin=1.0, hold=False):
    """The published formula, one pair at a time, in the type of its inputs; HardNegC where negatives are held."""
    count = len(anchors)
    total = anchors.new_zeros(())
    for i in range(count):
        candidates = []
        for j in range(count):
            if j != i:
                other_positive = positives[j].detach() if hold else positives[j]
                other_anchor = anchors[j].detach() if hold else anchors[j]
                for a, p in ((anchors[i], other_positive), (other_anchor, positives[i])):
                    distance = torch.sqrt(torch.clamp(2 - 2 * torch.dot(a, p), min=0) + 1e-6) + 1e-8
                    candidates.append(distance + 10 if distance.item() < 0.008 else distance)
        own = torch.sqrt(torch.clamp(2 - 2 * torch.dot(anchors[i], positives[i]), min=0) + 1e-6) + 1e-8
        nearest = min(candidates, key=lambda value: value.item())
        total = total + torch.clamp(margin + own - nearest, min=0)
    return total / count


@given(st.integers(2, 9), st.integers(2, 16), st.integers(0, 2**31), st.floats(0.1, 2.0), st.booleans())
@settings(max_examples=60)
def test_value_and_gradients_equal_a_plain_loop(count, dimensions, seed, margin, hold):
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn((2, count, dimensions), generator=generator)
    ours = raw.clone().requires_grad_(True)
    theirs = raw.clone().requires_grad_(True)
    loss = hardest_in_batch(unit(ours[0]), unit(ours[1]), margin, hold)
    expected = loop_loss(unit(theirs[0]), unit(theirs[1]), margin, hold)
    loss.backward()
    expected.backward()
    np.testing.assert_allclose(loss.item(), expected.item(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=2e-3, atol=2e-4)


def test_duplicates_of_other_points_are_no_negatives():
    rows = unit(torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    positives = rows.clone()
    # the first two are duplicates: for each the nearest that counts is the third, at sqrt(2)
    expected = 1.0 + 1e-3 - np.sqrt(2 + 1e-6)
    assert hardest_in_batch(rows, positives).item() == pytest.approx(max(0.0, expected), abs=1e-6)
    assert hardest_in_batch(rows, positives, margin=2.0).item() == pytest.approx(1.0 + expected, abs=1e-5)


def test_the_anchor_swap_finds_the_nearer_negative():
    # the second anchor is near the first positive; no positive is near the first anchor
    anchors = unit(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.1, 1.0, 0.0, 0.0]]))
    positives = unit(torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]))
    near = torch.linalg.vector_norm(anchors[1] - positives[0]).item()
    own = np.sqrt(2.0)
    expected = (2 * 1.0 + own + torch.linalg.vector_norm(anchors[1] - positives[1]).item() - 2 * near) / 2
    assert hardest_in_batch(anchors, positives).item() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("hold", [False, True])
def test_a_held_negative_is_not_moved(hold):
    """The second pair is far enough from all others, so what moves it is that the first has it as its negative."""
    other = torch.tensor([0.5, 0.75**0.5, 0.0])  # at 1 from the first anchor, whose positive is at 1.2
    anchors = torch.stack([torch.tensor([1.0, 0.0, 0.0]), other]).requires_grad_(True)
    positives = torch.stack([torch.tensor([0.28, 0.0, 0.96]), other]).requires_grad_(True)
    loss = hardest_in_batch(anchors, positives, margin=0.1, hold=hold)
    assert loss.item() == pytest.approx((0.1 + 1.2 - 1.0) / 2, abs=1e-4)
    loss.backward()
    assert not anchors.grad[1].any()
    assert bool(positives.grad[1].any()) is not hold
    away = -(positives[0] / 1.2 - positives[1]).detach() / 2  # from the positive's pull and the negative's push
    np.testing.assert_allclose(anchors.grad[0].numpy(), away.numpy(), atol=1e-5)


def test_a_batch_without_a_negative_is_refused():
    with pytest.raises(ValueError, match="N >= 2"):
        hardest_in_batch(torch.ones(1, 4), torch.ones(1, 4))
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(2, 4\)"):
        hardest_in_batch(torch.ones(3, 4), torch.ones(2, 4))


def test_gradients_stay_finite_for_equal_descriptors():
    rows = unit(torch.ones(3, 4)).requires_grad_(True)
    hardest_in_batch(rows, rows.detach().clone()).backward()
    assert torch.isfinite(rows.grad).all()
