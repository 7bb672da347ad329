"""Training HardNet (Mishchuk et al. 2017), or another network by its loss, cut off anywhere and taken up again.

Everything drawn at a step depends on the seed and the step's number alone: batch, views, dropout. So the state of a
run is its weights, their average, the momentum and a step number, and a resumed run gives the same weights as one
that was left alone (same machine, same number of threads).

A recipe of AffNet is trained in the same way, with steps of its own (`hardnet.training.shapes`).

Under ``torchrun`` each process describes its part of every batch. Descriptors are gathered and BatchNorm and dropout
see all parts, so a run of several processes is that of one but for rounding, and either takes up the other's state.
"""

import functools
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hardnet import progress
from hardnet.descriptors.descriptor import PatchDescriptor
from hardnet.descriptors.loading import choose_device
from hardnet.descriptors.networks import PATCH_SIZE
from hardnet.errors import TrainingError
from hardnet.patchsets import PatchSet, digest, read_set
from hardnet.patchsets.arrays import glance
from hardnet.settings import flat
from hardnet.training.deformation import cut, draw_frames
from hardnet.training.distillation import load_teacher, regression, taught_by_all
from hardnet.training.loss import hardest_in_batch
from hardnet.training.memory import keep_freed_memory
from hardnet.training.recipe import Recipe, SetSettings, ValidationSettings, deciding, fingerprint
from hardnet.training.sampling import PairSampler
from hardnet.training.shapes import ShapeValidation, described_in_shape, leaning, load_descriptor
from hardnet.training.state import State, diverged
from hardnet.training.team import SharedError, Team
from hardnet.training.views import ViewSettings, change_light, draw_views, flip_alike
from hardnet.training.whole_batch import across
from hardnet.weights import checkpoints, table

CHECKPOINT = "checkpoint.pth"
LOG_EVERY = 20  # steps between points of the curves
_AHEAD = 2  # batches prepared while one is trained on

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """Where a call of `train` left the run.

    Attributes:
        weights: the written weights, or None where steps are left to do.
        checkpoint: the state of the run.
        step: steps done in all.
        steps: steps of the recipe.
        loss: mean over the last steps; nan where none was done.
        validation: FPR at 95 % recall on the validation pairs, last measured; None without validation.
    """

    weights: Path | None
    checkpoint: Path
    step: int
    steps: int
    loss: float
    validation: float | None


def train(
    recipe: Recipe, folder: str | Path, device: str = "auto", logs: str | Path | None = "logs", stop_after: int = 0
) -> Outcome:
    """Trains, or goes on where an earlier call on the same folder stopped.

    Args:
        recipe: what to train on and how.
        folder: receives ``checkpoint.pth`` and, in the end, ``<name>.safetensors``.
        device: "auto", "cpu", "cuda" or "cuda:<n>"; under torchrun "auto" takes the process's own GPU.
        logs: TensorBoard logs go to a folder of the run's name in it; None for none.
        stop_after: at most so many steps in this call; 0 for all that are left.

    Raises:
        WeightsError: the recipe's first weights, its teacher, or the descriptor of shapes cannot be read.
        TrainingError: nothing to train on, a checkpoint of another recipe or other patches, or a loss that is no
            number (the last checkpoint is kept).
        PatchSetError: a patch set that cannot be read.
        ValueError: a device that does not exist.
    """
    with Team.join(device) as team:
        return _train(recipe, Path(folder), device, logs, stop_after, team)


def open_set(part: SetSettings | ValidationSettings) -> PatchSet:
    """The patch set that settings name.

    Raises:
        PatchSetError: it cannot be read.
    """
    if part.kind == "arrays":
        return read_set(part.path)
    assert isinstance(part.path, str)  # several folders are of arrays
    if part.kind == "phototour":
        from hardnet.patchsets.phototour import read_phototour

        return read_phototour(part.path)
    from hardnet.patchsets.hpatches import read_hpatches

    return read_hpatches(part.path, part.sequences or None)


def _train(recipe: Recipe, run: Path, device: str, logs: str | Path | None, stop_after: int, team: Team) -> Outcome:
    """`train`, in a process that has met the others."""
    target = team.device or choose_device(device)
    if not recipe.sets:
        raise TrainingError("the recipe names no patch sets: add sets with their paths, or --set sets=[{path: DIR}]")
    learns_shapes = recipe.network == "affnet"
    if learns_shapes and team.size > 1:
        raise SharedError(f"affnet is trained in one process, torchrun started {team.size}: run hardnet train alone")
    patch_sets = [open_set(part) for part in recipe.sets]
    disturbs = learns_shapes or all(phase.views.disturbs for phase in recipe.phases)
    shares = [part.share or 0.0 for part in recipe.sets] if recipe.sets[0].share is not None else None
    sampler = PairSampler(patch_sets, shares, recipe.seed, single=disturbs)
    for phase in recipe.phases:
        sampler.check(phase.batch)
        if phase.batch % team.size:
            raise SharedError(
                f"a batch of {phase.batch} cannot be divided among {team.size} processes: start a number that "
                "divides it, or change phases.*.batch"
            )
    if target == "cpu":
        keep_freed_memory()
    half = _half(recipe.precision, target)
    teacher = load_teacher(recipe.teacher, target, half) if recipe.teacher else None
    judge = load_descriptor(recipe.shapes.descriptor, target) if learns_shapes else None
    surroundings: dict[str, Any] = {
        "data": [digest(patch_set) for patch_set in patch_sets],
        "precision": "bfloat16" if half else "single",
        "start": table.resolve(recipe.start).sha256 if recipe.start else "",
    }
    learned_from: dict[str, str] = {}
    if teacher is not None:
        learned_from["teacher"] = teacher.fingerprint
        surroundings["precision of the teacher"] = teacher.precision
    if judge is not None:
        learned_from["descriptor"] = table.resolve(recipe.shapes.descriptor).sha256
    surroundings |= learned_from
    if team.size > 1:
        team.agree(_decisive(recipe, patch_sets, surroundings, stop_after))
    state = State(recipe, target, surroundings, team.size)
    across(state.network, team)
    checkpoint = run / CHECKPOINT
    if checkpoint.is_file():
        state.load(checkpoint)
    if team.size > 1:
        _take_the_furthest(state, team)
    if state.step:
        _log.info("%s: going on after step %d of %d", run, state.step, recipe.steps)
    if team.leads:
        for stale in run.glob(f".{CHECKPOINT}.*.tmp"):  # of a run that was killed while it wrote
            stale.unlink(missing_ok=True)
        run.mkdir(parents=True, exist_ok=True)
    validation = _validation(recipe, judge) if team.leads and recipe.validation.path else None
    if judge is None:
        step = functools.partial(_step, recipe, state, team, teacher, half)
    else:
        step = functools.partial(_shape_step, recipe, state, judge, half)
    last = recipe.steps if stop_after == 0 else min(recipe.steps, state.step + stop_after)
    loss = _run_steps(recipe, state, patch_sets, sampler, team, step, last, checkpoint, logs, validation)
    finished = run / f"{recipe.name}.safetensors" if state.step == recipe.steps else None
    if finished is not None and team.leads:
        notes = {"recipe": fingerprint(recipe), "steps": str(recipe.steps), "seed": str(recipe.seed)}
        checkpoints.write_network(finished, state.result(), state.kind, {**notes, **learned_from})
    return Outcome(finished, checkpoint, state.step, recipe.steps, loss, validation.last if validation else None)


@dataclass(frozen=True)
class _Patches:
    """The patches of a step that have one size.

    Attributes:
        places: (M,) int64, among the 2 N of the batch, anchors before positives.
        patches: (M, S, S) uint8.
        contexts: (M,) float32.
    """

    places: torch.Tensor
    patches: torch.Tensor
    contexts: torch.Tensor

    def on(self, device: str) -> "_Patches":
        """Places and patches on a device; contexts, a number each, stay."""
        return _Patches(self.places.to(device), self.patches.to(device, non_blocking=True), self.contexts)


class _Validation:
    """FPR at 95 % recall on pairs that were drawn once."""

    def __init__(self, settings: ValidationSettings, seed: int) -> None:
        from hardnet.benchmarks.brown import draw_pairs

        self.every = settings.every
        self.last: float | None = None
        self._patches = open_set(settings)
        self._pairs = draw_pairs(self._patches, settings.pairs, seed)

    def measure(self, network: torch.nn.Module, device: str) -> float:
        """The share 0..1 of false matches."""
        from hardnet.benchmarks.brown import evaluate_brown
        from hardnet.descriptors.network import NetworkDescriptor

        level = logging.getLogger("hardnet.descriptors.network").level
        logging.getLogger("hardnet.descriptors.network").setLevel(logging.WARNING)
        try:
            descriptor = NetworkDescriptor(network, "validation", "validation", device)
        finally:
            logging.getLogger("hardnet.descriptors.network").setLevel(level)
        self.last = evaluate_brown(descriptor, self._patches, *self._pairs)
        return self.last


def _validation(recipe: Recipe, judge: torch.nn.Module | None) -> "_Validation | ShapeValidation":
    chosen = recipe.validation
    if judge is not None:
        return ShapeValidation(open_set(chosen), judge, chosen.pairs, chosen.every, recipe.shapes, recipe.seed)
    return _Validation(chosen, recipe.seed)


def _run_steps(
    recipe: Recipe,
    state: State,
    patch_sets: Sequence[PatchSet],
    sampler: PairSampler,
    team: Team,
    take: Callable[[Sequence[_Patches]], dict[str, float]],
    last: int,
    checkpoint: Path,
    logs: str | Path | None,
    validation: _Validation | ShapeValidation | None,
) -> float:
    """Trains up to (not including) step `last`; the mean loss of the last steps. `take` takes one and says its loss."""
    writer = _writer(logs, recipe.name, state.step) if team.leads else None
    smooth = {"loss": float("nan")}
    bar = progress.bar(total=recipe.steps, initial=state.step, unit="step", desc=recipe.name, disable=not team.leads)
    with bar, ThreadPoolExecutor(1) as background:

        def prepare(step: int) -> list[_Patches]:
            return _batch(recipe, patch_sets, sampler, step)

        waiting = [background.submit(prepare, step) for step in range(state.step, min(last, state.step + _AHEAD))]
        while state.step < last:
            step = state.step
            groups = waiting.pop(0).result()
            if step + _AHEAD < last:
                waiting.append(background.submit(prepare, step + _AHEAD))
            values = take(groups)
            if not np.isfinite(values["loss"]):
                raise SharedError(diverged(step, checkpoint))
            smooth = values if np.isnan(smooth["loss"]) else {k: v + 0.02 * (values[k] - v) for k, v in smooth.items()}
            done = state.step
            if done % recipe.checkpoint_every == 0 or done == last:
                if team.size > 1:
                    _require_one_network(state, team)
                if team.leads:
                    state.save(checkpoint)
            if writer is not None and done % LOG_EVERY == 0:
                for key, mean in smooth.items():
                    writer.add_scalar(key, mean, done)
                writer.add_scalar("learning rate", recipe.learning_rate(step), done)
            if validation is not None and (done % validation.every == 0 or done == recipe.steps):
                found = validation.measure(state.result(), state.device)
                means = ", ".join(f"{key} {mean:.4f}" for key, mean in smooth.items())
                _log.info("step %d of %d: %s, validation FPR95 %.4f", done, recipe.steps, means, found)
                if writer is not None:
                    writer.add_scalar("validation FPR95", found, done)
            bar.update()
            shown = {key: f"{mean:.4f}" for key, mean in smooth.items()}
            if validation is not None and validation.last is not None:
                shown["FPR95"] = f"{100 * validation.last:.2f}%"
            bar.set_postfix(shown, refresh=False)
    if writer is not None:
        writer.close()
    return smooth["loss"]


def _step(
    recipe: Recipe,
    state: State,
    team: Team,
    teacher: PatchDescriptor | None,
    half: bool,
    groups: Sequence[_Patches],
) -> dict[str, float]:
    """One step; the loss and, with a teacher, the parts that it is made of."""
    phase, _ = recipe.phase_at(state.step)
    generator = torch.Generator().manual_seed(_seed(recipe.seed, state.step, 1))
    anchors, positives = _views(groups, phase.views, generator, state.device).chunk(2)
    part = team.part(len(anchors))
    mine = torch.cat([anchors[part], positives[part]]).contiguous(memory_format=torch.channels_last)
    torch.manual_seed(_seed(recipe.seed, state.step, 2))  # dropout
    state.network.train()
    with torch.autocast(torch.device(state.device).type, torch.bfloat16, enabled=half):
        descriptors = state.network(mine)
    anchors, positives = (team.gather(rows.contiguous()) for rows in descriptors.chunk(2))
    loss = triplet = hardest_in_batch(anchors, positives, recipe.margin)
    parts = {}
    if teacher is not None:
        targets = taught_by_all(team, teacher, mine)
        parts = {"triplet": triplet, "regression": regression(torch.cat([anchors, positives]), targets)}
        loss = recipe.losses.triplet * triplet + recipe.losses.regression * parts["regression"]
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    team.sum_gradients(state.network)
    state.advance()
    return {key: float(value.detach()) for key, value in {"loss": loss, **parts}.items()}


def _shape_step(
    recipe: Recipe, state: State, judge: torch.nn.Module, half: bool, groups: Sequence[_Patches]
) -> dict[str, float]:
    """One step of a network of shapes; the loss and the parts that it is made of."""
    phase, _ = recipe.phase_at(state.step)
    chosen = recipe.shapes
    generator = torch.Generator().manual_seed(_seed(recipe.seed, state.step, 1))
    tilt = chosen.tilt_at(state.step / recipe.steps)
    frames = draw_frames(phase.batch, tilt, chosen.rotation, phase.views.flips, generator).to(state.device)
    torch.manual_seed(_seed(recipe.seed, state.step, 2))  # dropout
    state.network.train()
    rows, found = described_in_shape(
        functools.partial(_regions, [group.on(state.device) for group in groups], chosen.blur),
        frames,
        state.network,
        judge,
        half,
        lambda views: change_light(views, phase.views, generator),
    )
    anchors, positives = rows.chunk(2)
    triplet, lean = hardest_in_batch(anchors, positives, recipe.margin, hold=True), leaning(frames, found)
    loss = triplet + chosen.lean * lean
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    state.advance()
    return {"loss": float(loss.detach()), "triplet": float(triplet.detach()), "lean": float(lean.detach())}


def _regions(groups: Sequence[_Patches], blur: float, frames: torch.Tensor) -> torch.Tensor:
    """The regions of a batch in frames (2 N, 2, 2), all on one device: (2 N, 32, 32) float32, 0..1."""
    regions = torch.empty((len(frames), PATCH_SIZE, PATCH_SIZE), device=frames.device)
    for group in groups:
        regions[group.places] = cut(group.patches, group.contexts, frames[group.places], blur)
    return regions


def _views(groups: Sequence[_Patches], settings: ViewSettings, generator: torch.Generator, device: str) -> torch.Tensor:
    """Views of a batch of pairs: (2 N, 1, 32, 32) float32, anchors before positives."""
    count = sum(len(group.places) for group in groups) // 2
    views = torch.empty((2 * count, 1, PATCH_SIZE, PATCH_SIZE), device=device)
    for group in (group.on(device) for group in groups):
        views[group.places] = draw_views(group.patches, group.contexts, settings, generator)
    if not settings.flips:
        return views
    return torch.cat(flip_alike(views[:count], views[count:], generator))


def _batch(recipe: Recipe, patch_sets: Sequence[PatchSet], sampler: PairSampler, step: int) -> list[_Patches]:
    """The patches of a step, by size: sets of PhotoTour and HPatches differ."""
    phase, _ = recipe.phase_at(step)
    batch = sampler.draw(step, phase.batch)
    which = np.concatenate([batch.sets, batch.sets])
    chosen = np.concatenate([batch.anchors, batch.positives])
    sides = np.array([patch_set.patches.shape[1] for patch_set in patch_sets])
    groups = []
    for side in np.unique(sides):
        places = np.flatnonzero(sides[which] == side)
        patches = np.empty((len(places), side, side), np.uint8)
        contexts = np.empty(len(places), np.float32)
        for index in map(int, np.flatnonzero(sides == side)):
            at = which[places] == index
            patches[at] = patch_sets[index].patches[chosen[places[at]]]
            contexts[at] = patch_sets[index].context
        groups.append(_Patches(*map(torch.from_numpy, (places, patches, contexts))))
    return groups


def _seed(seed: int, step: int, purpose: int) -> int:
    """A 63-bit seed for one use at one step."""
    return int(np.random.SeedSequence([seed, step, purpose]).generate_state(1, np.uint64)[0] >> 1)


def _decisive(
    recipe: Recipe, patch_sets: Sequence[PatchSet], surroundings: Mapping[str, Any], stop_after: int
) -> dict[str, str]:
    """What the processes of a run must have in common; where files lie is not among it."""
    facts = {f"{name} version": _version(name) for name in ("hardnet-retrieval", "torch", "numpy")}
    facts |= {f"recipe's {key}": str(value) for key, value in flat(deciding(recipe))}
    facts |= {"recipe's checkpoint_every": str(recipe.checkpoint_every), "--steps": str(stop_after)}
    for number, patch_set in enumerate(patch_sets):
        facts[f"sets.{number}'s points"] = digest(patch_set)
        facts[f"sets.{number}'s pixels"] = glance(patch_set)
    return facts | {key: str(value) for key, value in surroundings.items() if key != "data"}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # run from a checkout
        return "not installed"


def _take_the_furthest(state: State, team: Team) -> None:
    """All processes go on from one state: that of the process whose machine has the furthest checkpoint.

    Machines need not share a disk, and torchrun may count them in another order than the last time.
    """
    steps = [int(step) for step in team.exchange(str(state.step).encode())]
    source = steps.index(max(steps))
    state.unpack(team.share(state.packed() if team.rank == source else b"", source))


def _require_one_network(state: State, team: Team) -> None:
    """Raises SharedError where the processes no longer hold one network, as they would on a machine that errs."""
    found = hashlib.sha256()
    for value in state.network.state_dict().values():
        found.update(value.cpu().contiguous().numpy().tobytes())
    digests = team.exchange(found.digest())
    if len(set(digests)) > 1:
        other = next(rank for rank, one in enumerate(digests) if one != digests[0])
        raise SharedError(
            f"processes 0 and {other} hold different weights after step {state.step}: their machines do not compute "
            "the same; the same command goes on from the last checkpoint, on one machine or on machines of one kind"
        )


def _half(precision: str, device: str) -> bool:
    """Whether to compute in bfloat16."""
    on_gpu = torch.device(device).type == "cuda"
    half = precision == "bfloat16" or (
        precision == "auto" and on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    _log.info("training on %s in %s precision", device, "bfloat16" if half else "single")
    return half


def _writer(logs: str | Path | None, name: str, step: int) -> Any:
    if logs is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        _log.warning("no TensorBoard logs are written: pip install 'hardnet-retrieval[train]' for them")
        return None
    return SummaryWriter(str(Path(logs) / name), purge_step=step or None)
