import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import hardnet
from hardnet.benchmarks.brown import draw_pairs, evaluate_brown
from hardnet.commands.cli import main
from hardnet.descriptors import int8
from hardnet.descriptors.network import NetworkDescriptor
from hardnet.descriptors.networks import Compact, HardNet, read_network
from hardnet.errors import PatchSetError, SettingsError, TrainingError, WeightsError
from hardnet.patchsets import PatchSet, write_arrays
from hardnet.training.loop import CHECKPOINT, train
from hardnet.training.recipe import LossSettings, OptimiserSettings, PhaseSettings, Recipe, SetSettings, load_recipe
from hardnet.training.state import initialise
from hardnet.training.views import ViewSettings
from tests.depth import THOROUGH, thinned
from tests.hardnet.patch_fixtures import write_hpatches, write_phototour

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIGS = Path(__file__).parents[3] / "configs" / "hardnet"


def hidden_identity(points, per_point=4, seed=0):
    """Patches whose identity is a faint smooth pattern below strong fine noise: nothing that pixels give away."""
    generator = np.random.default_rng(seed)
    identity = generator.normal(0, 1, (points, 5, 5)).astype(np.float32)
    smooth = np.stack([cv2.resize(pattern, (32, 32), interpolation=cv2.INTER_CUBIC) for pattern in identity])
    noise = generator.normal(0, 1, (points * per_point, 32, 32))
    patches = 127 + 14 * np.repeat(smooth, per_point, axis=0) + 28 * noise
    ids = np.repeat(np.arange(points), per_point).astype(np.int32)
    return PatchSet("hidden", np.clip(patches, 0, 255).astype(np.uint8), ids, np.zeros(len(ids), np.int32))


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_arrays(tmp_path_factory.mktemp("toy") / "toy", hidden_identity(60))


def recipe(path, steps=20, batch=16, phase=None, **changes):
    chosen = PhaseSettings(**{"pairs": steps * batch, "batch": batch, "learning_rate": 5.0, **(phase or {})})
    settings = {"name": "toy", "sets": (SetSettings(str(path)),), "phases": (chosen,), "dropout": 0.1}
    return Recipe(**{**settings, "precision": "single", **changes})


STUDENT = {"network": "compact-8", "teacher": "hardnet", "losses": LossSettings(regression=4.0)}


def weights_of(path):
    with safe_open(path, framework="pt") as stream:
        return {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118


def false_positives(network, patch_set):
    return evaluate_brown(NetworkDescriptor(network, "toy", "toy"), patch_set, *draw_pairs(patch_set, 1000, 0))


def test_it_overfits_learns_what_generalises_and_learns_nothing_from_shuffled_labels(tmp_path):
    known, unseen = hidden_identity(48, seed=0), hidden_identity(48, seed=1)
    folder = write_arrays(tmp_path / "known", known)
    shuffled_ids = np.random.default_rng(0).permutation(known.point_ids)
    shuffled = PatchSet("shuffled", known.patches, shuffled_ids.astype(np.int32), known.scene_ids)
    wrong = write_arrays(tmp_path / "shuffled", shuffled)
    plain = {"views": ViewSettings(flips=False), "learning_rate": 8.0}
    untrained = HardNet(0.0)
    initialise(untrained, 0.6, 0)
    results = {}
    # (loss, false positives on the points trained on, and on points never seen)
    for name, source in thinned([("true", folder), ("shuffled", wrong)], 2):
        chosen = recipe(source, steps=40, batch=24, phase=plain, dropout=0.0)
        outcome = train(chosen, tmp_path / name, "cpu", None)
        network = read_network(outcome.weights)[1]
        results[name] = (outcome.loss, false_positives(network, known), false_positives(network, unseen))
    before = false_positives(untrained.eval(), unseen)
    assert before > 0.8  # pixels give nothing away
    assert results["true"][0] < 0.95
    assert results["true"][1] < 0.05  # what it was trained on
    assert results["true"][2] < 0.3  # points it never saw
    if THOROUGH:
        assert results["shuffled"][0] > 0.95
        assert results["shuffled"][2] > 0.8


def test_the_published_schedule():
    published = load_recipe(CONFIGS / "liberty.yaml")
    assert published.steps == 48828  # 10 epochs of 5,000,000 pairs in batches of 1024
    assert published.learning_rate(0) == 10.0
    assert published.learning_rate(100) == pytest.approx(10.0 * (1 - 100 * 1024 / 50e6))
    assert published.learning_rate(48827) == pytest.approx(10.0 * (1 - 48827 * 1024 / 50e6))
    assert (published.optimiser.momentum, published.optimiser.dampening) == (0.9, 0.9)
    assert published.optimiser.weight_decay == 1e-4
    assert (published.dropout, published.gain, published.margin) == (0.3, 0.6, 1.0)
    assert published.phases[0].views == ViewSettings(flips=True)


@pytest.mark.skipif(not THOROUGH, reason="trains a whole recipe; .ci/run does")
def test_the_papers_recipe_runs_on_a_generated_phototour_set(tmp_path, monkeypatch):
    write_phototour(tmp_path / "liberty")
    write_phototour(tmp_path / "notredame", seed=1)
    steps, batch = (200, 8) if THOROUGH else (40, 8)
    chosen = load_recipe(
        CONFIGS / "liberty.yaml",
        [
            f"sets.0.path={tmp_path / 'liberty'}",
            f"validation.path={tmp_path / 'notredame'}",
            f"phases.0.pairs={steps * batch}",
            f"phases.0.batch={batch}",
            "validation.pairs=200",
            f"validation.every={steps // 2}",
        ],
    )
    used = []
    plain = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: (used.append(self.param_groups[0]["lr"]), plain(self)))
    outcome = train(chosen, tmp_path / "run", "cpu", tmp_path / "logs")
    assert len(used) == steps
    assert [used[0], used[steps // 2], used[-1]] == pytest.approx([10.0, 5.0, 10.0 / steps])
    assert outcome.step == outcome.steps == steps
    assert outcome.validation is not None
    assert hardnet.load(outcome.weights).describe(np.zeros((2, 32, 32), np.float32)).shape == (2, 128)
    events = EventAccumulator(str(tmp_path / "logs" / "hardnet-lib+"))
    events.Reload()
    assert [event.step for event in events.Scalars("validation FPR95")] == [steps // 2, steps]
    assert len(events.Scalars("loss")) == steps // 20


def test_the_union_recipe_reads_all_its_kinds(tmp_path):
    for name in ("liberty", "notredame", "yosemite"):
        write_phototour(tmp_path / name)
    write_hpatches(tmp_path / "hpatches", {"i_one": 12, "v_two": 12}, width=65)
    overrides = [f"sets.{k}.path={tmp_path / name}" for k, name in enumerate(("liberty", "notredame", "yosemite"))]
    overrides += [f"sets.3.path={tmp_path / 'hpatches'}", "phases.0.pairs=32", "phases.0.batch=16"]
    outcome = train(load_recipe(CONFIGS / "all.yaml", overrides), tmp_path / "run", "cpu", None)
    assert outcome.weights.name == "hardnet++.safetensors"


def test_every_recipe_can_be_read():
    for path in sorted(CONFIGS.glob("*.yaml")):
        assert load_recipe(path).steps > 1000


@pytest.mark.parametrize("changes", [{}, STUDENT], ids=["hardnet", "student"])
def test_pieces_give_the_same_weights_as_one_run(toy, tmp_path, changes):
    views = ViewSettings(rotation=10, noise=0.1)
    chosen = recipe(toy, steps=12, averaging=0.9, checkpoint_every=5, phase={"views": views}, **changes)
    whole = train(chosen, tmp_path / "whole", "cpu", None)
    for _ in range(3):
        pieces = train(chosen, tmp_path / "pieces", "cpu", None, stop_after=5)
    assert pieces.step == whole.step == 12
    one, other = weights_of(whole.weights), weights_of(pieces.weights)
    assert all(torch.equal(one[key], other[key]) for key in one)


DIES = """
import os, signal, sys
from hardnet.commands.cli import main
from hardnet.training.state import State

advance = State.advance

def until_the_fifth(self):
    advance(self)
    if self.step == 5 and os.environ.get("RANK", "1") == "1":
        os.kill(os.getpid(), signal.SIGKILL)

State.advance = until_the_fifth
sys.exit(main(sys.argv[1:]))
"""  # the command line; alone, or as the second of a team


@pytest.mark.parametrize(
    "student",
    thinned(["network: compact-8\nteacher: hardnet\nlosses: {regression: 4.0}\n", ""], 2),
    ids=thinned(["student", "hardnet"], 2),
)
def test_a_killed_run_gives_the_same_weights_as_one_left_alone(toy, tmp_path, monkeypatch, student):
    other = write_arrays(tmp_path / "other", hidden_identity(40, seed=5))
    text = (
        "name: toy\nprecision: bfloat16\ncheckpoint_every: 3\naveraging: 0.9\n"
        f"sets: [{{path: '{toy}', share: 0.7}}, {{path: '{other}', share: 0.3}}]\n"
        "phases: [{pairs: 320, batch: 8, learning_rate: 5.0, views: {rotation: 10, noise: 0.2}}]\n"
    ) + student
    (tmp_path / "toy.yaml").write_text(text)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(*program):
        command = [sys.executable, *program, "train", "toy.yaml", "--device", "cpu", "--run", "killed"]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)

    killed = start("-c", DIES)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert torch.load(tmp_path / "killed" / CHECKPOINT, weights_only=True)["step"] == 3
    again = start("-m", "hardnet.commands.cli")
    assert again.returncode == 0, again.stderr
    assert "going on after step 3 of 40" in again.stderr
    monkeypatch.chdir(tmp_path)
    assert main(["train", "toy.yaml", "--device", "cpu", "--run", "alone"]) == 0
    one, other = (weights_of(tmp_path / run / "toy.safetensors") for run in ("killed", "alone"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert list((tmp_path / "logs" / "toy").iterdir())


def test_a_loss_that_is_no_number_stops_with_the_last_good_checkpoint_kept(toy, tmp_path):
    chosen = recipe(toy, steps=20, checkpoint_every=4)
    train(chosen, tmp_path / "run", "cpu", None, stop_after=4)
    good = torch.load(tmp_path / "run" / CHECKPOINT, weights_only=True)

    def poison(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.fill_(float("nan"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", poison)
        with pytest.raises(TrainingError, match=r"no number at step 5; .*checkpoint\.pth holds the last good state"):
            train(chosen, tmp_path / "run", "cpu", None)
    kept = torch.load(tmp_path / "run" / CHECKPOINT, weights_only=True)
    assert kept["step"] == good["step"] == 4
    assert all(torch.equal(kept["state_dict"][key], good["state_dict"][key]) for key in good["state_dict"])
    # weights that fail on the very step of a checkpoint are not written either
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", poison)
        with pytest.raises(TrainingError, match="no number"):
            train(recipe(toy, steps=20, checkpoint_every=1), tmp_path / "other", "cpu", None)
    assert not (tmp_path / "other" / CHECKPOINT).exists()


def test_a_checkpoint_of_another_recipe_or_a_damaged_one_is_refused(toy, tmp_path):
    train(recipe(toy), tmp_path / "run", "cpu", None, stop_after=2)
    with pytest.raises(TrainingError, match="made with another recipe"):
        train(recipe(toy, seed=1), tmp_path / "run", "cpu", None)
    (tmp_path / "run" / CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match=r"cannot be taken up .*remove it to start again"):
        train(recipe(toy), tmp_path / "run", "cpu", None)


def test_wrong_use_is_told_in_one_line(toy, tmp_path, capsys):
    with pytest.raises(TrainingError, match="names no patch sets"):
        train(Recipe(), tmp_path / "run", "cpu", None)
    with pytest.raises(PatchSetError, match="is not a folder of patches"):
        train(recipe(tmp_path / "nothing"), tmp_path / "run", "cpu", None)
    with pytest.raises(TrainingError, match="takes up to 100 points of hidden, which has 60"):
        train(recipe(toy, batch=100), tmp_path / "run", "cpu", None)
    (tmp_path / "bad.yaml").write_text("phases: [{batc: 3}]\n")
    assert main(["train", str(tmp_path / "bad.yaml"), "--run", str(tmp_path / "run")]) == 2
    assert "unknown configuration key 'phases.0.batc'" in capsys.readouterr().err
    (tmp_path / "bad.yaml").write_text(f"sets: [{{path: '{toy}'}}, {{path: '{toy}', share: 0.5}}]\n")
    with pytest.raises(SettingsError, match="a share to every set or to none"):
        load_recipe(tmp_path / "bad.yaml")


def test_points_of_one_patch_train_through_views(tmp_path):
    single = hidden_identity(40, per_point=1)
    folder = write_arrays(tmp_path / "single", single)
    with pytest.raises(TrainingError, match="no point with two patches"):
        train(recipe(folder, steps=2), tmp_path / "run", "cpu", None)
    views = ViewSettings(rotation=10, shift=0.1)
    assert train(recipe(folder, steps=2, phase={"views": views}), tmp_path / "run", "cpu", None).weights.is_file()


def test_bfloat16_computes_so_and_keeps_single_weights(toy, tmp_path, monkeypatch):
    types = []
    plain = HardNet.forward

    def observed(self, patches):
        hook = self.features[0].register_forward_hook(lambda module, inputs, output: types.append(output.dtype))
        rows = plain(self, patches)
        hook.remove()
        return rows

    monkeypatch.setattr(HardNet, "forward", observed)
    chosen = recipe(toy, steps=60, precision="bfloat16")
    outcome = train(chosen, tmp_path / "run", "cpu", None)
    assert set(types) == {torch.bfloat16}
    assert outcome.loss < 1.05  # it begins near 1.2
    state = torch.load(outcome.checkpoint, weights_only=True)["state_dict"]
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}


def test_changed_patches_are_not_trained_on_silently(tmp_path):
    folder = write_arrays(tmp_path / "set", hidden_identity(40))
    train(recipe(folder, steps=4), tmp_path / "run", "cpu", None, stop_after=2)
    moved = folder.rename(tmp_path / "moved")
    assert train(recipe(moved, steps=4), tmp_path / "run", "cpu", None, stop_after=1).step == 3
    other = write_arrays(tmp_path / "other", hidden_identity(41))
    with pytest.raises(TrainingError, match="made with other data"):
        train(recipe(other, steps=4), tmp_path / "run", "cpu", None)


def test_a_run_can_start_from_weights(toy, tmp_path):
    first = train(recipe(toy, steps=10), tmp_path / "first", "cpu", None).weights
    still = {"learning_rate": 0.0}
    chosen = recipe(toy, steps=1, start=str(first), phase=still, optimiser=OptimiserSettings(weight_decay=0.0))
    again = train(chosen, tmp_path / "again", "cpu", None).weights
    one, other = weights_of(first), weights_of(again)
    assert all(torch.equal(one[key], other[key]) for key in one if key.endswith("weight"))
    with pytest.raises(WeightsError, match="nothing"):
        train(recipe(toy, start=str(tmp_path / "nothing.safetensors")), tmp_path / "third", "cpu", None)


def test_a_student_comes_near_its_teacher(toy, tmp_path):
    """And is written under its network's name, read by `hardnet.load`, and computed in int8."""
    teacher = hardnet.load("hardnet", "cpu", precision="float32")
    patches = hidden_identity(30, seed=7).patches  # of points that are not trained on
    told = teacher.describe(patches)
    phase = {"learning_rate": 0.5, "views": ViewSettings(flips=False)}
    student = {**STUDENT, "losses": LossSettings(triplet=0.5, regression=4.0)}
    cosines, losses = [], []
    for steps in (1, 40):
        chosen = recipe(toy, steps=steps, batch=32, phase=phase, dropout=0.0, **student)
        outcome = train(chosen, tmp_path / str(steps), "cpu", tmp_path / "logs")
        rows = hardnet.load(outcome.weights, "cpu", precision="float32").describe(patches)
        cosines.append(np.einsum("nd,nd->n", rows, told).mean())
        losses.append(outcome.loss)
    assert cosines[1] > cosines[0] + 0.15
    assert losses[1] < losses[0] - 0.5
    kind, network = read_network(outcome.weights)
    assert kind == "compact"
    assert isinstance(network, Compact)
    with safe_open(outcome.weights, framework="pt") as stream:
        assert stream.metadata()["network"] == "compact"
        assert stream.metadata()["teacher"] == teacher.fingerprint
    events = EventAccumulator(str(tmp_path / "logs" / "toy"))
    events.Reload()
    curves = {name: [event.value for event in events.Scalars(name)][-1] for name in ("loss", "triplet", "regression")}
    assert curves["loss"] == pytest.approx(0.5 * curves["triplet"] + 4 * curves["regression"], rel=1e-4)
    if int8.obstacle(network) is None:
        integers = hardnet.load(outcome.weights, "cpu", precision="int8").describe(patches)
        assert np.einsum("nd,nd->n", integers, rows).mean() > 0.999


def test_the_teacher_is_that_of_the_checkpoint(toy, tmp_path):
    other = train(recipe(toy, steps=1), tmp_path / "other", "cpu", None).weights
    train(recipe(toy, steps=4, **STUDENT), tmp_path / "run", "cpu", None, stop_after=2)
    with pytest.raises(TrainingError, match="was made with other teacher"):
        train(recipe(toy, steps=4, **{**STUDENT, "teacher": str(other)}), tmp_path / "run", "cpu", None)
    with pytest.raises(TrainingError, match="teacher: rootsift is no network"):
        train(recipe(toy, steps=4, **{**STUDENT, "teacher": "rootsift"}), tmp_path / "run", "cpu", None)


def test_first_weights_of_another_width_are_refused(toy, tmp_path):
    first = train(recipe(toy, steps=1, network="compact-8"), tmp_path / "first", "cpu", None).weights
    assert train(recipe(toy, steps=1, network="compact-8", start=str(first)), tmp_path / "second", "cpu", None).weights
    for network, message in (
        ("compact-9", "is no compact-9, but of another width"),
        ("hardnet", "what is wanted here is hardnet"),
    ):
        with pytest.raises(WeightsError, match=message):
            train(recipe(toy, steps=1, network=network, start=str(first)), tmp_path / network, "cpu", None)
