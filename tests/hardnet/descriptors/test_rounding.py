"""A network rounded to integers: little is lost, errors are made up for as the formula says, and it is done once."""

import logging
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from hardnet.descriptors import rounding
from hardnet.descriptors.networks import fold_batchnorm, load_network
from hardnet.weights import table


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HARDNET_WEIGHTS", str(tmp_path / "cache"))
    return tmp_path / "cache" / "int8"


def bundled() -> nn.Module:
    return fold_batchnorm(load_network(table.resolve("hardnet"))[1])


@pytest.fixture(scope="module")
def made() -> list[rounding.Layer]:
    return rounding.round_layers(bundled())


def small() -> nn.Module:
    """Two layers with ReLU between them, one channel of which is never reached."""
    torch.manual_seed(3)
    network = nn.Module()
    layers = [nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=2, padding=1)]
    network.features = nn.Sequential(*layers).requires_grad_(False)
    network.features[0].bias[2] = -100
    network.forward = lambda patches: network.features((patches - 128) / 40)
    return network


def inputs(network: nn.Module, patches: np.ndarray) -> list[np.ndarray]:
    """What goes into each convolution, layer after layer."""
    found: list[np.ndarray] = []
    values = torch.from_numpy(patches)
    with torch.inference_mode():
        values = (values - values.mean((1, 2, 3), keepdim=True)) / values.std((1, 2, 3), keepdim=True)
        for layer in network.features:
            if isinstance(layer, nn.Conv2d):
                found.append(values.numpy())
            values = layer(values)
    return [*found, values.numpy()]


def test_the_layers_in_real_numbers_are_the_network(made):
    """Integers times gains, one layer after another: what leaves the last is near what leaves the float network."""
    network, patches = bundled(), rounding.calibration_patches(40)[20:]
    seen = inputs(network, patches)
    values = torch.from_numpy(seen[0])
    layers = made
    convolutions = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
    with torch.inference_mode():
        for i, (layer, one) in enumerate(zip(convolutions, layers, strict=True)):
            weight = torch.from_numpy(one.weights * one.gains[:, None, None, None])
            values = nn.functional.conv2d(values, weight, torch.from_numpy(one.bias), layer.stride, layer.padding)
            if i + 1 < len(layers):
                values = torch.relu(values)
                assert float(values.max()) <= layers[i + 1].largest * 1.01  # ranges hold, in the channels' new scales
    found, expected = values.flatten(1).numpy(), seen[-1].reshape(20, -1)
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.9999
    for one in layers:
        assert np.abs(one.weights.astype(int)).max() == 127


def test_ranges_are_those_of_the_noise(made):
    layers, seen = made, inputs(bundled(), rounding.calibration_patches())
    assert layers[0].largest == pytest.approx(2.3 * np.abs(seen[0]).max(), rel=1e-3)
    for i, one in enumerate(layers[1:], 1):
        channels = seen[i].max(axis=(0, 2, 3))
        scales = np.sqrt(np.maximum(channels / channels.max(), 0.01))
        assert one.largest == pytest.approx(1.15 * (channels / scales).max(), rel=1e-3)


def test_errors_are_made_up_for_by_what_is_left():
    """Against the definition: after each column, the others are what least squares gives for the output as it was."""
    random = np.random.default_rng(5)
    samples = random.normal(size=(400, 7)) @ random.normal(size=(7, 7))
    rows = random.uniform(-4, 4, (3, 7))
    moments = samples.T @ samples / len(samples)
    found = rounding.compensated(rows, moments)
    damped = moments + 0.01 * np.diag(moments).mean() * np.eye(7)
    order = sorted(range(7), key=lambda column: -moments[column, column])
    for row, integers in zip(rows, found, strict=True):
        left = row.copy()
        for j, column in enumerate(order):
            assert integers[column] == np.round(left[column])
            left[column] = integers[column]
            rest = order[j + 1 :]
            if rest:
                # minimise (left - row)' damped (left - row) over what is not rounded yet
                done = order[: j + 1]
                step = np.linalg.solve(
                    damped[np.ix_(rest, rest)], -damped[np.ix_(rest, done)] @ (left[done] - row[done])
                )
                left[rest] = row[rest] + step

    def cost(integers):
        return np.einsum("ok,kl,ol->", integers - rows, moments, integers - rows)

    assert cost(found) < 0.7 * cost(np.rint(rows))


def test_a_layer_loses_less_than_by_rounding_to_the_nearest(made):
    network, patches = bundled(), rounding.calibration_patches(300)[200:]
    seen = inputs(network, patches)
    convolutions = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
    channels = [values.max(axis=(0, 2, 3)) for values in inputs(network, rounding.calibration_patches())[1:-1]]
    scales = [np.sqrt(np.maximum(one / one.max(), 0.01)) for one in channels]
    for i in (1, 3, 5):
        layer, one = convolutions[i], made[i]
        weights = layer.weight.numpy() * scales[i - 1][:, None, None]
        if i < len(scales):
            weights = weights / scales[i][:, None, None, None]
        nearest = np.rint(weights / one.gains[:, None, None, None])
        entering = torch.from_numpy(seen[i] / scales[i - 1][:, None, None])

        def error(integers, entering=entering, weights=weights, layer=layer, one=one):
            change = torch.from_numpy((integers * one.gains[:, None, None, None] - weights).astype(np.float32))
            return float(nn.functional.conv2d(entering, change, None, layer.stride, layer.padding).square().mean())

        assert error(one.weights) < 0.5 * error(nearest)


def test_a_channel_that_nothing_reaches_and_a_blank_network():
    layers = rounding.round_layers(small())
    assert [one.weights.shape for one in layers] == [(6, 1, 3, 3), (5, 6, 3, 3)]
    assert all(np.isfinite(one.gains).all() and one.largest > 0 for one in layers)
    blank = small()
    for layer in (blank.features[0], blank.features[2]):
        layer.weight.zero_()
        layer.bias.fill_(-1)
    for one in rounding.round_layers(blank):
        assert not one.weights.any()
        assert (one.gains > 0).all()


def equal(one: list[rounding.Layer], other: list[rounding.Layer]) -> bool:
    return all(
        all(np.array_equal(value, getattr(b, key)) for key, value in vars(a).items())
        for a, b in zip(one, other, strict=True)
    )


def test_it_is_done_once_for_the_weights(cache, monkeypatch):
    network = small()
    made = rounding.rounded_layers(network, "a" * 64)
    (path,) = cache.iterdir()
    assert path.name == f"{'a' * 64}-{rounding.RECIPE}.npz"
    with monkeypatch.context() as patched:
        patched.setattr(rounding, "round_layers", lambda network: pytest.fail("made again"))
        assert equal(rounding.rounded_layers(network, "a" * 64), made)
    assert equal(rounding.rounded_layers(network, "b" * 64), made)  # the same weights under another name
    assert len(list(cache.iterdir())) == 2
    whole = path.read_bytes()
    with np.load(path) as stored:
        arrays = dict(stored)
    changed = [
        {**arrays, "0.gains": -arrays["0.gains"]},
        {**arrays, "1.weights": arrays["1.weights"][:2]},
        {**arrays, "1.bias": np.full(5, np.nan, np.float32)},
        {**arrays, "0.largest": np.inf},
        {key: value for key, value in arrays.items() if key != "1.bias"},
        {**arrays, "0.bias": arrays["0.bias"].astype(object)},
    ]
    flipped = bytearray(whole)
    entry = whole.index(
        b"PK\x01\x02"
    )  # of the directory: one bit says that an array is encrypted, one how it is packed
    flipped[entry + 8] |= 1
    packed = bytearray(whole)
    packed[entry + 10] |= 64
    for damage in (b"", whole[:200], b"PK\x03\x04" + whole[4:300], bytes(flipped), bytes(packed), *changed):
        if isinstance(damage, bytes):
            path.write_bytes(damage)
        else:
            with path.open("wb") as stream:
                np.savez(stream, **damage)
        assert equal(rounding.rounded_layers(network, "a" * 64), made)
        assert zipfile.is_zipfile(path)


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HARDNET_WEIGHTS", str(tmp_path / "file" / "below"))
    with caplog.at_level(logging.INFO, logger="hardnet"):
        assert len(rounding.rounded_layers(small(), "c" * 64)) == 2
    assert "kept in memory" in caplog.text


def test_several_processes_make_it_at_once(cache):
    program = (
        "import hashlib; from hardnet.descriptors.rounding import rounded_layers\n"
        "from tests.hardnet.descriptors.test_rounding import small\n"
        "layers = rounded_layers(small(), 'd' * 64)\n"
        "print(hashlib.sha256(b''.join(one.weights.tobytes() for one in layers)).hexdigest())"
    )
    started = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = {process.communicate()[0] for process in started}
    assert len(told) == 1
    assert [path.name for path in cache.iterdir()] == [f"{'d' * 64}-{rounding.RECIPE}.npz"]
