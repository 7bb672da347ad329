"""What a teacher says of views, and the loss that draws a student towards it."""

import kornia.feature
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardnet.errors import TrainingError, WeightsError
from hardnet.training.distillation import load_teacher, regression, taught
from hardnet.weights.checkpoints import write_network
from tests.hardnet.patch_fixtures import random_network


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


@given(st.integers(1, 9), st.integers(1, 16), st.integers(0, 2**31))
@settings(max_examples=40)
def test_value_and_gradients_equal_a_plain_loop(count, dimensions, seed):
    generator = torch.Generator().manual_seed(seed)
    raw, taught_rows = torch.randn((2, count, dimensions), generator=generator)
    ours, theirs = raw.clone().requires_grad_(True), raw.clone().requires_grad_(True)
    regression(unit(ours), unit(taught_rows)).backward()
    total = torch.zeros(())
    for row, target in zip(unit(theirs), unit(taught_rows), strict=True):
        cosine = sum(a * b for a, b in zip(row, target, strict=True))
        total = total + (1 - cosine)
    (total / count).backward()
    assert regression(unit(raw), unit(taught_rows)).item() == pytest.approx(total.item() / count, abs=1e-5)
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-3, atol=1e-5)


def test_it_is_half_the_squared_distance():
    rows, targets = unit(torch.randn((2, 50, 128), generator=torch.Generator().manual_seed(0)).flatten(0, 1)).chunk(2)
    expected = (rows - targets).square().sum(dim=1).mean() / 2
    torch.testing.assert_close(regression(rows, targets), expected)
    assert regression(rows, rows).item() == pytest.approx(0, abs=1e-6)
    assert regression(rows, -rows).item() == pytest.approx(2)
    with pytest.raises(ValueError, match=r"one shape, got \(50, 128\) and \(49, 128\)"):
        regression(rows, targets[:49])


def test_the_teacher_says_what_kornias_network_does(tmp_path):
    network = random_network("hardnet")
    write_network(tmp_path / "own.safetensors", network, "hardnet", {}, half=False)
    peer = kornia.feature.HardNet(pretrained=False).eval()
    peer.load_state_dict(network.state_dict())
    views = torch.rand((70, 1, 32, 32), generator=torch.Generator().manual_seed(0)) * 255
    teacher = load_teacher(str(tmp_path / "own.safetensors"), "cpu", half=False)
    found = taught(teacher, views.contiguous(memory_format=torch.channels_last))
    assert teacher.precision == "float32"
    assert not found.requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(found, peer(views), atol=1e-5, rtol=0)


def test_what_is_no_teacher(tmp_path):
    for name in ("rootsift", str(tmp_path / "mine.onnx")):
        with pytest.raises(TrainingError, match=f"teacher: {name} is no network that torch runs; name the weights of"):
            load_teacher(name, "cuda", half=False)
    with pytest.raises(WeightsError, match="is no file and no weights name"):
        load_teacher(str(tmp_path / "nothing.safetensors"), "cpu", half=False)
