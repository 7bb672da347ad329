"""Training of AffNet: what it learns, what stays as it is, and the file that comes of it."""

import functools
import math

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open

import hardnet
from hardnet.commands.cli import main
from hardnet.descriptors.networks import HardNet, read_network
from hardnet.errors import TrainingError, WeightsError
from hardnet.patchsets import PatchSet, write_arrays
from hardnet.shapes.networks import NETWORKS, AffNet
from hardnet.training import loop
from hardnet.training import state as state_module
from hardnet.training.deformation import ShapeSettings, cut, draw_frames, frames_of
from hardnet.training.loop import CHECKPOINT, train
from hardnet.training.recipe import OptimiserSettings, PhaseSettings, Recipe, SetSettings, ValidationSettings
from hardnet.training.shapes import ShapeValidation, described_in_shape, leaning, load_descriptor
from hardnet.training.team import Team
from hardnet.training.views import ViewSettings
from hardnet.weights.checkpoints import write_network
from tests.hardnet.patch_fixtures import published

pytestmark = pytest.mark.usefixtures("one_thread")

PLAIN = ViewSettings()


def rings(points, per_point=1, seed=0):
    """Patches with blobs that are round on average, so that a stretch shows."""
    generator = np.random.default_rng(seed)
    patches = np.full((points, 64, 64), 128, np.uint8)
    for patch in patches:
        for _ in range(60):
            centre = generator.uniform(-8, 72, 2)
            shade, size = int(generator.integers(0, 256)), int(generator.integers(2, 7))
            cv2.circle(patch, tuple(np.rint(centre * 16).astype(int).tolist()), size * 16, shade, -1, cv2.LINE_AA, 4)
    patches = np.stack([cv2.GaussianBlur(patch, (0, 0), 0.75) for patch in patches])
    ids = np.repeat(np.arange(points), per_point).astype(np.int32)
    return PatchSet("rings", np.repeat(patches, per_point, axis=0), ids, np.zeros(len(ids), np.int32), 2.0)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_arrays(tmp_path_factory.mktemp("toy") / "toy", rings(40))


def recipe(*paths, steps=6, batch=8, rate=3e-4, views=PLAIN, **changes):
    phase = PhaseSettings(
        pairs=steps * batch, batch=batch, learning_rate=rate, final_learning_rate=rate / 10, views=views
    )
    chosen = {
        "name": "toy",
        "network": "affnet",
        "sets": tuple(SetSettings(str(path)) for path in paths),
        "phases": (phase,),
        "optimiser": OptimiserSettings("adam"),
        "dropout": 0.1,
        "gain": 0.8,
        "precision": "single",
    }
    return Recipe(**{**chosen, **changes})


def weights_of(path):
    with safe_open(path, framework="pt") as stream:
        return {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118


def network_of(path):
    return read_network(path, known=NETWORKS)[1]


def disagreement(network, patch_set, tilt=3.0):
    """Mean log of how much further than round two views of a point differ, before and after their shapes."""
    patches = torch.from_numpy(patch_set.patches).repeat(2, 1, 1)
    frames = draw_frames(len(patch_set), tilt, 180.0, False, torch.Generator().manual_seed(5))
    seen = cut(patches, torch.full((len(patches),), 2.0), frames, 1.3)
    with torch.inference_mode():
        shaped = frames @ frames_of(network(255 * seen[:, None]))

    def between(both):
        anchors, positives = both.chunk(2)
        lengths = torch.linalg.svdvals(torch.linalg.inv(anchors) @ positives)
        return torch.log(lengths[:, 0] / lengths[:, 1]).mean().item()

    return between(frames), between(shaped)


def test_it_learns_to_undo_deformations_and_of_patterns_never_seen_too(tmp_path):
    folder = write_arrays(tmp_path / "known", rings(48))
    chosen = recipe(folder, steps=40, batch=24, dropout=0.0, shapes=ShapeSettings(final_tilt=3.0))
    outcome = train(chosen, tmp_path / "run", "cpu", None)
    for patch_set in (rings(48), rings(48, seed=1)):
        before, after = disagreement(network_of(outcome.weights), patch_set)
        assert before > 0.8
        assert after < 0.6 * before


def test_the_published_network_finds_its_frames_here():
    """Its weights were trained by others in their frames; what training measures here is what they are good at."""
    before, after = disagreement(network_of(published("AffNet.pth")), rings(60))
    assert after < 0.5 * before


def test_an_untrained_network_says_circles():
    network = AffNet(0.0)
    state_module.initialise(network, 0.8, 0)
    patches = torch.from_numpy(rings(20).patches[:, None, 16:48, 16:48]).float()
    with torch.inference_mode():
        found = network(patches)  # in training mode: its running statistics know nothing yet
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0, 1.0]]).repeat(20, 1), atol=0.05, rtol=0)


def test_a_region_is_described_in_the_frame_of_its_shape_and_the_descriptor_stays():
    patches, contexts = torch.from_numpy(rings(6).patches), torch.full((6,), 2.0)
    views = functools.partial(cut, patches, contexts, blur=1.3)
    frames = draw_frames(3, 3.0, 180.0, True, torch.Generator().manual_seed(0))
    shape = torch.tensor([1.2, 0.3, 0.9])

    class Constant(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.shape = torch.nn.Parameter(shape.clone())

        def forward(self, seen):
            assert not seen.requires_grad
            return self.shape.repeat(len(seen), 1)

    network, descriptor = Constant(), load_descriptor("hardnet", "cpu")
    rows, shapes = described_in_shape(views, frames, network, descriptor)
    a, b, c = (shape / math.sqrt(shape[0] * shape[2])).tolist()
    torch.testing.assert_close(shapes.detach(), torch.tensor([[a, 0.0], [b, c]]).repeat(6, 1, 1))
    known = views(frames @ torch.tensor([[a, 0.0], [b, c]]))
    expected = hardnet.load("hardnet", "cpu", precision="float32").describe((255 * known).numpy())
    np.testing.assert_allclose(rows.detach().numpy(), expected, atol=1e-3)
    before = [value.clone() for value in descriptor.state_dict().values()]
    rows[:, :7].sum().backward()
    assert network.shape.grad.abs().min() > 0
    assert not any(value.requires_grad for value in descriptor.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, descriptor.state_dict().values(), strict=True))
    dark, _ = described_in_shape(views, frames, network, descriptor, change=lambda seen: 0 * seen)
    torch.testing.assert_close(dark, rows)  # only the network sees the change


def test_shapes_that_undo_what_was_drawn_lean_nowhere_and_one_more_map_for_all_is_told():
    frames = draw_frames(50, 4.0, 180.0, True, torch.Generator().manual_seed(0))
    turned = frames @ torch.linalg.inv(deformations_of(frames))
    torch.testing.assert_close(turned @ turned.transpose(1, 2), torch.eye(2).repeat(100, 1, 1), atol=1e-4, rtol=0)
    undone = torch.linalg.inv(deformations_of(frames))
    assert float(leaning(frames, undone)) < 1e-6
    for more in ([[1.3, 0.0], [0.0, 1 / 1.3]], [[1.0, 0.0], [0.4, 1.0]]):
        axes = torch.linalg.svdvals(torch.tensor(more)).square()
        expected = float(((axes[0] - axes[1]) / axes.sum()).square())
        assert float(leaning(frames, undone @ torch.tensor(more))) == pytest.approx(expected, rel=1e-3)


def deformations_of(frames):
    """The lower-triangular part of turned frames, by numpy's QR of their columns in reverse."""
    found = []
    for frame in frames.numpy().astype(float):
        upper = np.linalg.qr(frame[:, ::-1])[1]
        lower = upper[::-1, ::-1]
        found.append(np.sign(np.diag(lower))[:, None] * lower)
    return torch.tensor(np.array(found), dtype=torch.float32)


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_pieces_give_the_same_weights_as_one_run(toy, tmp_path, kind):
    chosen = recipe(
        toy,
        views=ViewSettings(gamma=0.3, noise=0.1),
        optimiser=OptimiserSettings(kind),
        averaging=0.9,
        checkpoint_every=2,
    )
    whole = train(chosen, tmp_path / "whole", "cpu", None)
    for _ in range(3):
        pieces = train(chosen, tmp_path / "pieces", "cpu", None, stop_after=2)
    one, other = weights_of(whole.weights), weights_of(pieces.weights)
    assert all(torch.equal(one[key], other[key]) for key in one)
    start = AffNet()
    state_module.initialise(start, 0.8, 0)
    assert not torch.equal(one["features.0.weight"].float(), start.features[0].weight.half().float())


def test_sets_of_several_sizes_make_one_batch(toy, tmp_path):
    wide = rings(20, seed=3)
    plain = np.stack([cv2.resize(patch, (65, 65)) for patch in wide.patches])
    other = write_arrays(tmp_path / "other", PatchSet("other", plain, wide.point_ids, wide.scene_ids, 1.0))
    outcome = train(recipe(toy, other, steps=2), tmp_path / "run", "cpu", None)
    assert np.isfinite(outcome.loss)


def test_every_patch_is_cut_by_its_own_frame_and_context():
    first, second = torch.from_numpy(rings(3).patches), torch.from_numpy(rings(2, seed=3).patches[:, ::2, ::2].copy())
    one = loop._Patches(torch.tensor([3, 0, 4]), first, torch.tensor([2.0, 3.0, 2.5]))
    other = loop._Patches(torch.tensor([1, 2]), second, torch.tensor([4.0, 2.0]))
    frames = draw_frames(3, 3.0, 180.0, False, torch.Generator().manual_seed(0))[:5]
    found = loop._regions([one, other], 1.3, frames)
    for group in (one, other):
        for place, patch, context in zip(group.places, group.patches, group.contexts, strict=True):
            alone = cut(patch[None], context[None], frames[place][None], 1.3)
            torch.testing.assert_close(found[place], alone[0])


def test_the_file_is_loaded_by_path_and_is_as_half_precision_says(toy, tmp_path, capsys):
    (tmp_path / "toy.yaml").write_text(
        f"name: toy\nnetwork: affnet\nsets: [{{path: '{toy}'}}]\noptimiser: {{kind: adam}}\n"
        "phases: [{pairs: 16, batch: 8, learning_rate: 0.0003}]\n"
    )
    command = ["train", str(tmp_path / "toy.yaml"), "--run", str(tmp_path / "run"), "--device", "cpu"]
    capsys.readouterr()
    assert main([*command, "--logs", str(tmp_path / "logs")]) == 0
    path = tmp_path / "run" / "toy.safetensors"
    assert f"--set detector.shape=affnet --set detector.shape_weights={path}" in capsys.readouterr().out
    assert path.stat().st_size < 200_000
    assert {value.dtype for key, value in weights_of(path).items() if key.endswith("weight")} == {torch.float16}
    shapes = hardnet.load_estimator(path, "cpu").shapes(rings(5).patches[:, 16:48, 16:48])
    np.testing.assert_allclose(shapes[:, 0] * shapes[:, 2], 1, atol=1e-5)


def test_validation_tells_good_shapes_from_circles(tmp_path):
    patch_set = rings(40, per_point=2)
    descriptor = load_descriptor("hardnet", "cpu")
    validation = ShapeValidation(patch_set, descriptor, 200, 5, ShapeSettings(tilt=1.0, final_tilt=5.8), 0)

    class Circles(torch.nn.Module):
        def forward(self, seen):
            return torch.tensor([1.0, 0.0, 1.0]).repeat(len(seen), 1)

    class Knows(torch.nn.Module):
        """Undoes the deformations in the order in which they are measured."""

        def forward(self, seen):
            inverse = torch.linalg.inv(validation._frames[: len(seen)])
            return inverse[:, [0, 1, 1], [0, 0, 1]] / 3

    assert len(validation._frames) < 512  # measured at once
    assert validation.measure(Circles(), "cpu") > 0.2
    assert validation.measure(Knows(), "cpu") < 0.02
    assert validation.last < 0.02
    path = write_arrays(tmp_path / "watched", patch_set)
    watched = ValidationSettings(str(path), pairs=100, every=1)
    assert 0 <= train(recipe(path, steps=2, validation=watched), tmp_path / "run", "cpu", None).validation <= 1


def test_another_descriptor_is_another_run(toy, tmp_path):
    other = tmp_path / "other.safetensors"
    torch.manual_seed(0)
    write_network(other, HardNet().eval(), "hardnet", {})
    train(recipe(toy), tmp_path / "run", "cpu", None, stop_after=1)
    chosen = recipe(toy, shapes=ShapeSettings(descriptor=str(other)))
    with pytest.raises(TrainingError, match="made with other descriptor"):
        train(chosen, tmp_path / "run", "cpu", None)
    assert (tmp_path / "run" / CHECKPOINT).is_file()


def test_wrong_use_is_told_in_one_line(toy, tmp_path, monkeypatch):
    with pytest.raises(TrainingError, match=r"shapes\.descriptor: rootsift is no network that torch runs; name the"):
        train(recipe(toy, shapes=ShapeSettings(descriptor="rootsift")), tmp_path / "run", "cpu", None)
    module = AffNet()
    state_module.initialise(module, 0.8, 0)
    shape = tmp_path / "shape.safetensors"
    write_network(shape, module.eval(), "affnet", {})
    with pytest.raises(WeightsError, match="holds a 'affnet' network"):
        train(recipe(toy, shapes=ShapeSettings(descriptor=str(shape))), tmp_path / "run", "cpu", None)
    assert train(recipe(toy, steps=1, start=str(shape)), tmp_path / "from", "cpu", None).weights.is_file()
    with pytest.raises(WeightsError, match="what is wanted here is hardnet"):
        train(
            recipe(toy, network="hardnet", start=str(shape), views=ViewSettings(noise=0.1)),
            tmp_path / "run",
            "cpu",
            None,
        )
    monkeypatch.setattr("hardnet.training.loop.Team.join", lambda device: Team(0, 2, "cpu"))
    with pytest.raises(TrainingError, match="affnet is trained in one process, torchrun started 2"):
        train(recipe(toy), tmp_path / "run", "cpu", None)
