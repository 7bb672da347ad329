"""Several processes under torchrun, and what they say to each other."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hardnet.errors import TrainingError
from hardnet.patchsets import PatchSet, write_arrays
from hardnet.training import loop
from hardnet.training import team as team_module
from hardnet.training.loop import CHECKPOINT, train
from hardnet.training.recipe import PhaseSettings, Recipe, SetSettings, load_recipe
from hardnet.training.team import SharedError, Team
from tests.depth import THOROUGH, thinned
from tests.hardnet.training.test_loop import DIES, hidden_identity
from tests.ports import free_port

pytestmark = pytest.mark.usefixtures("one_thread")

ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")},
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(Path(__file__).parents[3]),
}
SCRIPT = str(Path(__file__).with_name("parallel_training.py"))
COMMAND = ["-m", "--", "hardnet.commands.cli", "train", "toy.yaml", "--device", "cpu", "--logs", "logs", "--run"]
LIMIT = 900  # seconds after which a program hangs
HARDNET = "averaging: 0.9\n"
STUDENT = HARDNET + "network: compact-8\nteacher: hardnet\nlosses: {regression: 4.0}\n"


def torchrun(processes):
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("team")
    write_arrays(made / "toy", hidden_identity(60))
    return made


@pytest.fixture
def place(folder, tmp_path):
    """A folder to work in, with the patches."""
    (tmp_path / "toy").symlink_to(folder / "toy")
    return tmp_path


def write_recipe(path, more=HARDNET, steps=4, rate=5.0, every=3):
    text = (
        f"name: toy\nprecision: single\ndropout: 0.3\ncheckpoint_every: {every}\nsets: [{{path: toy}}]\n"
        f"phases: [{{pairs: {steps * 24}, batch: 24, learning_rate: {rate}, views: {{rotation: 10, noise: 0.1}}}}]\n"
    )
    path.write_text(text + more)


def run(command, place, check=True):
    done = subprocess.run(command, cwd=place, env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT)
    if check:
        assert done.returncode == 0, done.stderr[-3000:]
    return done


def told(done):
    """The lines of the program itself on standard error."""
    return [line for line in done.stderr.splitlines() if line.startswith("hardnet: ")]


def script(place, processes, name, *arguments):
    """What each process ends with; alone without torchrun."""
    (place / name).mkdir(exist_ok=True)
    start = torchrun(processes) if processes > 1 else [sys.executable]
    run([*start, SCRIPT, "toy.yaml", name, *arguments], place)
    return [torch.load(place / name / f"rank{rank}.pth", weights_only=True) for rank in range(processes)]


def farthest(one, other):
    """Largest relative difference among weights, running statistics and averages.

    A bias before BatchNorm has no gradient and stays 0 but for rounding: 1e-6 is added to what is divided by.
    """
    differences = [0.0]
    for kind in ("weights", "average"):
        assert one[kind].keys() == other[kind].keys()
        for key, value in one[kind].items():
            if value.is_floating_point():
                differences.append(float((value - other[kind][key]).norm() / (value.norm() + 1e-6)))
            else:
                assert value == other[kind][key]
    return max(differences)


@pytest.mark.parametrize(
    ("processes", "more"),
    thinned([(2, HARDNET), (4, HARDNET), (2, STUDENT), (3, STUDENT)], 4),
    ids=thinned(["2", "4", "2-student", "3-student"], 4),
)
def test_several_processes_train_what_one_trains(place, processes, more):
    """In double precision, where rounding opens no ReLU: 3e-14 was found; a teacher says single numbers, 2e-6.

    BatchNorm over each process's own part, or dropout of its own, is off by more than 1.
    """
    write_recipe(place / "toy.yaml", more)
    (alone,) = script(place, 1, "alone", "double")
    team = script(place, processes, "team", "double")
    for one in team:
        assert farthest(one, team[0]) == 0
        assert farthest(alone, one) < (1e-10 if more == HARDNET else 1e-4)
        assert one["losses"] == pytest.approx(alone["losses"], abs=1e-6)


@pytest.mark.skipif(not THOROUGH, reason="starts four programs; .ci/run does")
def test_another_number_of_processes_goes_on_to_the_same_weights(place):
    write_recipe(place / "toy.yaml", steps=6)
    (alone,) = script(place, 1, "alone", "double")
    script(place, 2, "mixed", "double", "2")
    script(place, 1, "mixed", "double", "2")
    last = script(place, 3, "mixed", "double")
    assert farthest(alone, last[2]) < 1e-10


@pytest.mark.skipif(not THOROUGH, reason="starts six programs; .ci/run does")
def test_a_killed_process_ends_the_run_which_goes_on_to_the_same_weights(place):
    write_recipe(place / "toy.yaml", steps=40)
    (place / "dies.py").write_text(DIES)
    killed = run([*torchrun(2), "--", "dies.py", *COMMAND[3:], "killed"], place, check=False)
    assert killed.returncode == 1
    (line,) = told(killed)
    assert "the same command goes on from the last checkpoint" in line
    assert "Signal 9 (SIGKILL) received by PID" in killed.stderr  # torchrun's own report
    assert torch.load(place / "killed" / CHECKPOINT, weights_only=True)["step"] == 3
    again = run([*torchrun(2), *COMMAND, "killed"], place)
    assert again.stderr.count("going on after step 3 of 40") == 1
    assert again.stdout.count("step 40 of 40") == 1  # one process speaks
    run([*torchrun(2), *COMMAND, "whole"], place)
    one, other = ((place / name / "toy.safetensors").read_bytes() for name in ("killed", "whole"))
    assert one == other


@pytest.mark.skipif(not THOROUGH, reason="starts three programs; .ci/run does")
def test_a_process_with_other_patches_is_refused_before_the_first_step(place):
    write_recipe(place / "toy.yaml")
    other = hidden_identity(60, seed=1)
    (place / "elsewhere").mkdir()
    write_arrays(place / "elsewhere" / "toy", other)
    (place / "elsewhere" / "toy.yaml").write_text((place / "toy.yaml").read_text())
    command = f'[ "$RANK" = 0 ] || cd elsewhere; exec {sys.executable} {" ".join([COMMAND[0], *COMMAND[2:]])} refused'
    done = run([*torchrun(2), "--no-python", "--", "bash", "-c", command], place, check=False)
    assert done.returncode == 1
    (line,) = [line for line in told(done) if "another process" not in line and "SIGTERM" not in line]
    assert "process 1 on" in line
    assert "differs from process 0" in line
    assert "sets.0's pixels" in line
    assert "points" not in line.split("sets.0's pixels")[1]
    assert not list(place.glob("**/checkpoint.pth"))


@pytest.mark.skipif(not THOROUGH, reason="starts eight programs; .ci/run does")
def test_two_hosts_without_a_common_disk(place):
    """Two torchruns that meet at an address, each with a folder of its own; torchrun counts them in either order."""
    write_recipe(place / "toy.yaml", steps=6)
    port = free_port()
    meeting = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "toy"]
    start = [sys.executable, "-m", "torch.distributed.run", *meeting, "--rdzv-endpoint", f"127.0.0.1:{port}", *COMMAND]
    for steps, order in (("3", "ab"), ("0", "ba")):
        hosts = [
            subprocess.Popen([*start, name, "--steps", steps], cwd=place, env=ENVIRONMENT, stderr=subprocess.PIPE)
            for name in order
        ]
        for host in hosts:
            _, errors = host.communicate(timeout=LIMIT)
            assert host.returncode == 0, errors.decode()[-3000:]
    run([*torchrun(2), *COMMAND, "whole"], place)
    found = [path for path in place.glob("[ab]/toy.safetensors")]
    assert len(found) == 1  # where the first process ran
    assert found[0].read_bytes() == (place / "whole" / "toy.safetensors").read_bytes()


def test_what_has_failed_is_told_though_sigterm_comes(monkeypatch):
    """As torchrun sends it at once to all others of a run."""
    group = team_module.torch.distributed
    monkeypatch.setattr(group, "get_backend", lambda: "gloo")
    monkeypatch.setattr(group, "barrier", lambda: None)
    monkeypatch.setattr(group, "destroy_process_group", lambda: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(pytest.raises(SharedError, match="what has failed"))
            stack.enter_context(team_module._ending_told())
            stack.push(team_module._part)
            raise SharedError("what has failed")
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    with pytest.raises(TrainingError, match="stopped by SIGTERM"), team_module._ending_told():
        os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)
    with team_module._ending_told():
        pass
    assert signal.getsignal(signal.SIGTERM) == before


def as_one_of(monkeypatch, *others):
    """A team whose other processes say what is given, each a function of what this one says."""
    monkeypatch.setattr(Team, "exchange", lambda self, said: [said, *(other(said) for other in others)])
    return Team(0, 1 + len(others), "cpu")


def test_what_differs_is_named(folder, monkeypatch):
    recipe = Recipe(sets=(SetSettings(str(folder / "toy")),), phases=(PhaseSettings(pairs=64, batch=16),))
    patch_sets = [loop.open_set(part) for part in recipe.sets]
    facts = loop._decisive(recipe, patch_sets, {"data": ["x"], "precision": "single"}, 0)

    def changed(**changes):
        monkeypatch.undo()
        told = {key: changes.get(key.split(" ")[0], value) for key, value in facts.items()}
        as_one_of(monkeypatch, lambda said: said, lambda said: json.dumps(["there", told]).encode()).agree(facts)

    changed()
    with pytest.raises(SharedError, match=r"process 2 on there differs .*: torch version 0\.1, there 2.*: give all"):
        changed(torch="0.1")


def test_the_recipe_is_compared_key_by_key(folder):
    first = Recipe(sets=(SetSettings(str(folder / "toy")),), phases=(PhaseSettings(pairs=64, batch=16),))
    other = Recipe(sets=(SetSettings("elsewhere"),), phases=(PhaseSettings(pairs=64, batch=32),), seed=3)
    sets = [loop.open_set(first.sets[0])]
    one, two = (loop._decisive(recipe, sets, {}, 0) for recipe in (first, other))
    assert {key for key in one if one[key] != two[key]} == {"recipe's phases.0.batch", "recipe's seed"}


def test_states_of_several_processes_of_before_are_refused(place, monkeypatch):
    monkeypatch.chdir(place)
    write_recipe(place / "toy.yaml")
    recipe = load_recipe(place / "toy.yaml")
    train(recipe, "run", "cpu", None, stop_after=1)
    content = torch.load("run/checkpoint.pth", weights_only=True)
    del content["processes"]
    content["surroundings"]["processes"] = 1
    torch.save(content, "run/checkpoint.pth")
    assert train(recipe, "run", "cpu", None, stop_after=1).step == 2  # of one process: as ever
    content["surroundings"]["processes"] = 2
    torch.save(content, "run/checkpoint.pth")
    with pytest.raises(TrainingError, match=r"several processes of an earlier version.*train into another folder"):
        train(recipe, "run", "cpu", None)


def test_a_batch_that_cannot_be_divided_is_refused(place, monkeypatch):
    monkeypatch.chdir(place)
    recipe = Recipe(sets=(SetSettings("toy"),), phases=(PhaseSettings(pairs=64, batch=16),))
    with pytest.raises(SharedError, match="a batch of 16 cannot be divided among 3 processes"):
        loop._train(recipe, place / "run", "cpu", None, 0, Team(0, 3, "cpu"))


def test_patches_are_told_apart_by_their_pixels():
    first, second = hidden_identity(20), hidden_identity(20, seed=1)
    assert loop.digest(first) == loop.digest(second)
    assert loop.glance(first) != loop.glance(second)
    assert loop.glance(first) == loop.glance(
        PatchSet("copy", *(first.patches.copy(), first.point_ids, first.scene_ids))
    )
