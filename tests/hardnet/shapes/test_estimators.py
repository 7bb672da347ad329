"""AffNet and OriNet against kornia's, which load the same published files."""

import kornia.feature
import numpy as np
import pytest
import torch

import hardnet
from hardnet.descriptors import int8
from hardnet.descriptors.int8 import obstacle
from hardnet.descriptors.networks import read_network
from hardnet.descriptors.rounding import calibration_patches
from hardnet.errors import PrecisionError, WeightsError
from hardnet.shapes.estimators import Estimator, load_estimator
from hardnet.shapes.networks import NETWORKS
from hardnet.weights.checkpoints import write_network
from tests.hardnet.patch_fixtures import published

PATCHES = np.random.default_rng(0).uniform(0, 255, (70, 32, 32)).astype(np.float32)
PEERS = {
    "affnet": lambda: kornia.feature.LAFAffNetShapeEstimator(pretrained=False),
    "orinet": lambda: kornia.feature.OriNet(pretrained=False),
}
FILES = {"affnet": "AffNet.pth", "orinet": "OriNet.pth"}


def after_training(network: torch.nn.Module) -> torch.nn.Module:
    """With running statistics that are not 0 and 1, and outputs that differ from patch to patch."""
    generator = torch.Generator().manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.05, 0.3, generator=generator)
    return network.eval().requires_grad_(False)


@pytest.fixture(params=["random", "published"])
def pair(request):
    """A network's name -> an estimator of ours and kornia's network, with the same weights."""

    def made(network):
        peer = PEERS[network]()
        if request.param == "published":
            path = published(FILES[network])
            peer.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
            return load_estimator(path, "cpu", precision="float32"), peer.eval()
        torch.manual_seed(0)
        ours = NETWORKS[network]()
        after_training(peer)
        ours.load_state_dict(peer.state_dict())
        return Estimator(ours.eval(), network, "some", "none"), peer

    return made


def test_shapes_are_kornias(pair, monkeypatch):
    """What kornia's estimator makes of circles, when it is given these patches of them."""
    estimator, peer = pair("affnet")
    given = torch.from_numpy(PATCHES)[:, None]
    monkeypatch.setattr(kornia.feature.affine_shape, "extract_patches_from_pyramid", lambda *_: given)
    circles = torch.zeros(1, len(PATCHES), 2, 3)
    circles[:, :, 0, 0] = circles[:, :, 1, 1] = 10
    with torch.inference_mode():
        expected = peer(circles, torch.zeros(1, 1, 64, 64))[0, :, :, :2] / 10
    found = estimator.shapes(PATCHES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.reshape(-1, 4)[:, [0, 2, 3]], atol=1e-4)
    np.testing.assert_allclose(found[:, 0] * found[:, 2], 1, atol=1e-5)
    assert found.std(axis=0).min() > 1e-3


def test_angles_are_kornias_which_counts_them_the_other_way(pair):
    estimator, peer = pair("orinet")
    with torch.inference_mode():
        expected = peer(torch.from_numpy(PATCHES)[:, None]).numpy()
    found = estimator.angles(PATCHES)
    np.testing.assert_allclose(np.exp(1j * found), np.exp(-1j * expected), atol=1e-4)
    assert found.std() > 1e-3


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_arrays_tensors_bytes_and_batches_are_alike(network):
    torch.manual_seed(0)
    whole = Estimator(NETWORKS[network]().eval(), network, "some", "none")
    torch.manual_seed(0)
    small = Estimator(NETWORKS[network]().eval(), network, "some", "none", batch_size=7)
    grey = PATCHES.astype(np.uint8)
    found = whole.shapes if network == "affnet" else whole.angles
    again = small.shapes if network == "affnet" else small.angles
    expected = found(grey)
    for patches in (grey.astype(np.float32), torch.from_numpy(grey), grey[::-1][::-1]):
        np.testing.assert_allclose(found(patches), expected, atol=1e-6)
    np.testing.assert_allclose(again(grey), expected, atol=1e-5)
    assert len(found(grey[:0])) == 0


def test_in_int8_shapes_and_angles_are_nearly_those_of_float32():
    """On noise with the spectrum of photographs, blurred as patches are; the spread of a shape's numbers is 0.2."""
    exact = {network: load_estimator(published(FILES[network]), "cpu", precision="float32") for network in FILES}
    if reason := obstacle(NETWORKS["affnet"]()):
        pytest.skip(reason)
    rough = {network: load_estimator(published(FILES[network]), "cpu") for network in FILES}
    assert [one.precision for one in (*exact.values(), *rough.values())] == ["float32"] * 2 + ["int8"] * 2
    patches = calibration_patches(800)[600:, 0]
    away = np.abs(rough["affnet"].shapes(patches) - exact["affnet"].shapes(patches))
    assert 0 < away.mean() < 0.015
    assert away.max() < 0.15
    turned = np.abs(np.exp(1j * rough["orinet"].angles(patches)) - np.exp(1j * exact["orinet"].angles(patches)))
    assert np.median(turned) < 0.02
    assert rough["affnet"].shapes(patches[:0]).shape == (0, 3)


def test_a_precision_that_does_not_run_is_refused(monkeypatch):
    monkeypatch.setattr(int8, "_has_vnni", lambda: False)
    int8._machine_obstacle.cache_clear()
    try:
        assert load_estimator(published("AffNet.pth"), "cpu").precision == "float32"
        with pytest.raises(PrecisionError, match="does not run in int8 here"):
            load_estimator(published("AffNet.pth"), "cpu", precision="int8")
    finally:
        int8._machine_obstacle.cache_clear()
    with pytest.raises(ValueError, match="'float16' is no precision of shapes; use auto, float32, int8"):
        load_estimator("affnet", precision="float16")


def test_a_collapsed_shape_is_nothing():
    network = NETWORKS["affnet"]()
    network.features[-1].weight.data.zero_()
    network.features[-1].bias.data[:] = torch.tensor([-20.0, 0.5, 0.0])
    assert not Estimator(network.eval(), "affnet", "some", "none").shapes(PATCHES).any()


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_files_are_written_and_read_and_known_by_what_they_hold(network, tmp_path):
    torch.manual_seed(0)
    module = after_training(NETWORKS[network]())
    for path in (tmp_path / "named.safetensors", tmp_path / "plain.pth"):
        if path.suffix == ".pth":
            torch.save({"epoch": 3, "state_dict": module.state_dict()}, path)
        else:
            write_network(path, module, network, {}, half=False)
        assert load_estimator(path, "cpu").network == network
        with pytest.raises(WeightsError, match=f"holds a '{network}' network; what is wanted here is hardnet"):
            hardnet.load(path, "cpu")


def test_the_wrong_kind_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="hardnet describes patches"):
        load_estimator("hardnet")
    estimator = Estimator(NETWORKS["orinet"]().eval(), "orinet", "some", "none")
    with pytest.raises(ValueError, match="some is of the network orinet, and not affnet"):
        estimator.shapes(PATCHES)
    for wrong in (PATCHES[0], PATCHES[:, :31], PATCHES[:, None]):
        with pytest.raises(ValueError, match="expected patches of shape"):
            estimator.angles(wrong)
    with pytest.raises(ValueError, match="batch_size"):
        load_estimator("affnet", batch_size=0)


def test_published_files_are_those_of_the_table():
    for network in NETWORKS:
        kind, module = read_network(published(FILES[network]), None, NETWORKS)
        assert kind == network
        assert (
            load_estimator(published(FILES[network]), "cpu").fingerprint == hardnet.weights.table.TABLE[network].sha256
        )
        assert not module.training
