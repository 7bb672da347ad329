"""The networks against kornia's, which load the same published files."""

import kornia.feature
import numpy as np
import pytest
import torch

import hardnet
from hardnet.descriptors.networks import (
    NETWORKS,
    HardNet,
    L2Net,
    TFeat,
    fold_batchnorm,
    load_network,
    read_network,
    standardise,
    untrained,
)
from hardnet.weights import table
from tests.hardnet.patch_fixtures import published

PATCHES = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (8, 1, 32, 32)).astype(np.float32))


def with_random_statistics(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """As after training: running statistics that are not 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.05, 0.3, generator=generator)
    return network.eval()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(HardNet, kornia.feature.HardNet), (TFeat, kornia.feature.TFeat)],
    ids=["hardnet", "tfeat"],
)
def test_same_keys_and_output_as_kornia(ours, theirs):
    torch.manual_seed(1)
    peer = with_random_statistics(theirs(pretrained=False))
    network = ours().eval()
    network.load_state_dict(peer.state_dict(), strict=True)
    with torch.inference_mode():
        torch.testing.assert_close(network(PATCHES), peer(PATCHES), atol=1e-5, rtol=0)


def test_published_tfeat_equals_kornia():
    path = published("tfeat-liberty.params")
    kind, network = read_network(path)
    assert kind == "tfeat"
    peer = kornia.feature.TFeat(pretrained=False).eval()
    peer.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    with torch.inference_mode():
        torch.testing.assert_close(network(PATCHES), peer(PATCHES), atol=1e-5, rtol=0)


@pytest.mark.parametrize("width", [8, 16, 24, 32])
def test_published_desdis_by_its_formula(width):
    """Layer by layer from the file's own keys: instance norm, convolutions with batch norm and ReLU, unit rows."""
    path = published(f"DesDis-{width}.pth")
    kind, network = read_network(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    centred = PATCHES.double() - PATCHES.double().mean(dim=(2, 3), keepdim=True)
    values = centred / torch.sqrt(centred.square().mean(dim=(2, 3), keepdim=True) + 1e-5)
    plan = (("layer1.1", "layer1.2", 2), ("layer2.0", "layer2.1", 2), ("layer3.0", "layer3.1", 2))
    for convolution, norm, stride in (*plan, ("layer3.3", "layer3.4", 1), ("desc.1", "desc.2", 1)):
        weight = state[f"{convolution}.weight"].double()
        last = convolution == "desc.1"
        bias = state["desc.1.bias"].double() if last else None
        values = torch.nn.functional.conv2d(values, weight, bias, stride, 0 if last else 1)
        mean, variance = (state[f"{norm}.running_{one}"].double()[:, None, None] for one in ("mean", "var"))
        values = (values - mean) / torch.sqrt(variance + 1e-5)
        values = values if last else values.relu()
    rows = torch.nn.functional.normalize(values.flatten(1))
    assert kind == "compact"
    with torch.inference_mode():
        torch.testing.assert_close(network(PATCHES).double(), rows, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("network", "layers", "millions"),
    [
        (
            "hardnet",  # places x size of a filter x channels in x channels out
            [
                *(1024 * 9 * 32, 1024 * 9 * 32 * 32, 256 * 9 * 32 * 64, 256 * 9 * 64 * 64),
                *(64 * 9 * 64 * 128, 64 * 9 * 128 * 128, 64 * 128 * 128),
            ],
            39.1,
        ),
        ("compact-32", [256 * 9 * 32, 64 * 9 * 32 * 64, 16 * 9 * 64 * 128, 16 * 9 * 128 * 128, 16 * 128 * 128], 5.1),
    ],
)
def test_multiplications_of_a_patch(network, layers, millions):
    products = []
    module = untrained(network, 0.1).eval()
    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(
                lambda layer, _, output: products.append(output[0, 0].numel() * layer.weight.numel())
            )
    module(PATCHES[:1])
    assert products == layers
    assert round(sum(products) / 1e6, 1) == millions


def test_published_hardtfeat_by_its_formula():
    """Of another file than TFeat's, but the same convolutions: kornia's TFeat has them."""
    path = published("HardTFeat.pth")
    kind, network = read_network(path)
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    peer = kornia.feature.TFeat(pretrained=False).eval()
    peer.features[0] = torch.nn.Identity()
    for ours, theirs in ((0, 1), (3, 4)):
        peer.features[theirs].weight.data = state[f"features.{ours}.weight"]
        peer.features[theirs].bias.data = state[f"features.{ours}.bias"]
    peer.descr[0].weight.data = state["classifier.1.weight"].flatten(1)
    peer.descr[0].bias.data = state["classifier.1.bias"]
    deviation, mean = torch.std_mean(PATCHES, dim=(1, 2, 3), keepdim=True)
    assert kind == "hardtfeat"
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(peer((PATCHES - mean) / deviation))
        torch.testing.assert_close(network(PATCHES), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", sorted(NETWORKS))
def test_folding_keeps_the_output_and_the_original(kind):
    torch.manual_seed(2)
    network = with_random_statistics(NETWORKS[kind]())
    if kind == "l2net":
        network.pixel_mean.uniform_(90, 130)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    folded = fold_batchnorm(network)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d | torch.nn.Dropout) for layer in folded.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded(PATCHES), network(PATCHES), atol=1e-5, rtol=0)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_folding_an_affine_norm_and_a_biased_convolution():
    torch.manual_seed(3)
    network = torch.nn.Module()
    norm = torch.nn.BatchNorm2d(4)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    network.features = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), norm)
    with_random_statistics(network)
    folded = fold_batchnorm(network)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(folded.features(x), network.features(x), atol=1e-5, rtol=1e-5)


def test_folding_needs_a_convolution_before_the_norm():
    network = torch.nn.Module()
    network.features = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.BatchNorm2d(1))
    with pytest.raises(ValueError, match="convolution"):
        fold_batchnorm(network)


def test_standardise_is_mean_zero_and_unbiased_deviation_one():
    out = standardise(PATCHES).numpy().reshape(8, -1)
    np.testing.assert_allclose(out.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(axis=1, ddof=1), 1, atol=1e-5)
    assert torch.equal(standardise(torch.full((1, 1, 32, 32), 7.0)), torch.zeros(1, 1, 32, 32))


def test_l2net_is_hardnet_behind_its_mean_patch():
    torch.manual_seed(4)
    network = with_random_statistics(L2Net())
    network.pixel_mean.uniform_(90, 130)
    twin = HardNet().eval()
    twin.features.load_state_dict(network.features.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(network(PATCHES), twin(PATCHES - network.pixel_mean), atol=1e-6, rtol=0)


def test_the_small_bundled_network_costs_an_eighth_of_hardnet():
    """Multiplications a patch, counted at every convolution."""

    def multiplied(name):
        _, network = load_network(table.resolve(name))
        counted = []
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(
                    lambda layer, _, out: counted.append(out[0].numel() * layer.weight[0].numel())
                )
        network(torch.zeros(1, 1, 32, 32))
        return sum(counted)

    assert multiplied("hardnet") == pytest.approx(39.1e6, rel=0.01)
    assert multiplied("hardnet-small") == pytest.approx(5.1e6, rel=0.01)
    rows = hardnet.load("hardnet-small").describe(np.random.default_rng(0).integers(0, 256, (9, 32, 32), np.uint8))
    assert rows.shape == (9, 128)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
