"""Training HardNet (Mishchuk et al. 2017) in pieces that can be cut off anywhere and taken up again.

Everything drawn at a step depends on the seed and the step's number alone: batch, views, dropout. So the state of a
run is its weights, their average, the momentum and a step number, and a resumed run gives the same weights as one
that was left alone (same machine, same number of threads).

Under ``torchrun`` each process describes its part of every batch; descriptors are gathered, so the hardest
negatives are still those of the whole batch.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from hardnet import checkpoints
from hardnet.errors import TrainingError
from hardnet.loss import hardest_in_batch
from hardnet.networks import HardNet
from hardnet.patchsets import PatchSet, read_arrays
from hardnet.recipe import Recipe, SetSettings, ValidationSettings, fingerprint
from hardnet.sampling import Batch, PairSampler
from hardnet.views import ViewSettings, draw_views, flip_alike

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
        TrainingError: nothing to train on, a checkpoint of another recipe, or a loss that is no number (the last
            checkpoint is kept).
        PatchSetError: a patch set that cannot be read.
        ValueError: a device that does not exist.
    """
    from hardnet.descriptor import choose_device

    team = _Team.join(device)
    run = Path(folder)
    target = team.device or choose_device(device)
    if not recipe.sets:
        raise TrainingError("the recipe names no patch sets: add sets with their paths, or --set sets=[{path: DIR}]")
    patch_sets = [open_set(part) for part in recipe.sets]
    disturbs = all(phase.views.disturbs for phase in recipe.phases)
    shares = [part.share or 0.0 for part in recipe.sets] if recipe.sets[0].share is not None else None
    sampler = PairSampler(patch_sets, shares, recipe.seed, single=disturbs)
    for phase in recipe.phases:
        sampler.check(phase.batch)
        if phase.batch % team.size:
            raise TrainingError(f"a batch of {phase.batch} cannot be divided among {team.size} processes")
    state = _State(recipe, target)
    checkpoint = run / CHECKPOINT
    if checkpoint.is_file():
        state.load(checkpoint)
        _log.info("%s: going on after step %d of %d", run, state.step, recipe.steps)
    run.mkdir(parents=True, exist_ok=True)
    validation = _Validation.of(recipe) if team.leads and recipe.validation.path else None
    last = recipe.steps if stop_after == 0 else min(recipe.steps, state.step + stop_after)
    loss = _run_steps(recipe, state, patch_sets, sampler, team, last, checkpoint, logs, validation)
    weights = run / f"{recipe.name}.safetensors" if state.step == recipe.steps else None
    if weights is not None and team.leads:
        notes = {"recipe": fingerprint(recipe), "steps": str(recipe.steps), "seed": str(recipe.seed)}
        checkpoints.write_network(weights, state.result(), "hardnet", notes)
    team.leave()
    return Outcome(weights, checkpoint, state.step, recipe.steps, loss, validation.last if validation else None)


def open_set(part: SetSettings | ValidationSettings) -> PatchSet:
    """The patch set that settings name.

    Raises:
        PatchSetError: it cannot be read.
    """
    if part.kind == "phototour":
        from hardnet.patchsets.phototour import read_phototour

        return read_phototour(part.path)
    if part.kind == "hpatches":
        from hardnet.patchsets.hpatches import read_hpatches

        return read_hpatches(part.path, part.sequences or None)
    return read_arrays(part.path)


def initialise(network: nn.Module, gain: float, seed: int) -> None:
    """Orthogonal filters (released code: gain 0.6), drawn from a generator of their own."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.orthogonal_(layer.weight, gain=gain, generator=generator)


class _State:
    """Weights, their average, optimiser and step."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        self.recipe = recipe
        self.device = device
        self.step = 0
        self.network = HardNet(recipe.dropout)
        initialise(self.network, recipe.gain, recipe.seed)
        self.network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = {key: value.clone() for key, value in self._floats()} if recipe.averaging else {}
        chosen = recipe.optimiser
        self.optimiser = torch.optim.SGD(
            self.network.parameters(),
            lr=recipe.learning_rate(0),
            momentum=chosen.momentum,
            dampening=chosen.dampening,
            weight_decay=chosen.weight_decay,
        )

    def _floats(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Parameters and running statistics."""
        return ((key, value) for key, value in self.network.state_dict().items() if value.is_floating_point())

    @torch.no_grad()
    def advance(self) -> None:
        """Takes the step that the gradients ask for."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate(self.step)
        self.optimiser.step()
        self.step += 1
        # early on an average over few steps would remember the initialisation
        decay = min(self.recipe.averaging, self.step / (self.step + 10.0))
        if self.average:
            for key, value in self._floats():
                self.average[key].lerp_(value, 1.0 - decay)

    def result(self) -> HardNet:
        """The network to use: averaged weights where the recipe asks for them, on the CPU, in evaluation mode."""
        network = HardNet(0.0)
        state = {key: value.detach().cpu() for key, value in self.network.state_dict().items()}
        state.update({key: value.detach().cpu() for key, value in self.average.items()})
        network.load_state_dict(state)
        return network.eval()

    def save(self, path: Path) -> None:
        """Replaces the checkpoint in one go.

        Raises:
            TrainingError: the weights are no numbers; the checkpoint stays as it was.
        """
        if not all(bool(value.isfinite().all()) for _, value in self._floats()):
            raise TrainingError(_diverged(self.step, path))
        content: dict[str, Any] = {
            "step": self.step,
            "recipe": fingerprint(self.recipe),
            "state_dict": self.network.state_dict(),
            "average": self.average,
            "momentum": [self.optimiser.state[p].get("momentum_buffer") for p in self.network.parameters()],
        }
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Takes up a checkpoint.

        Raises:
            TrainingError: damaged, or of another recipe.
        """
        try:
            content = torch.load(path, map_location=self.device, weights_only=True)
            step, found = int(content["step"]), content["recipe"]
            if found != fingerprint(self.recipe):
                raise TrainingError(
                    f"{path} was made with another recipe ({found}, this one is {fingerprint(self.recipe)}): "
                    "train into another folder, or remove it to start again"
                )
            self.network.load_state_dict(content["state_dict"])
            for key in self.average:
                self.average[key].copy_(content["average"][key])
            for parameter, buffer in zip(self.network.parameters(), content["momentum"], strict=True):
                if buffer is not None:
                    self.optimiser.state[parameter]["momentum_buffer"] = buffer
        except TrainingError:
            raise
        except Exception as error:  # torch raises pickle, zip, runtime, key and other errors on damaged files
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise TrainingError(f"{path} cannot be taken up ({reason}): remove it to start again") from error
        self.step = step


@dataclass(frozen=True)
class _Team:
    """The processes that train together: one, or those that torchrun started."""

    rank: int = 0
    size: int = 1
    device: str | None = None

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @classmethod
    def join(cls, device: str) -> "_Team":
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
        on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
        if on_gpu:
            torch.cuda.set_device(local)
        torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
        return cls(rank, size, f"cuda:{local}" if on_gpu else "cpu")

    def leave(self) -> None:
        if self.size > 1:
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()

    def part(self, count: int) -> slice:
        """This process's share of a batch."""
        share = count // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def gather(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Rows of all processes; the gradient goes through this one's own."""
        if self.size == 1:
            return descriptors
        rows = [torch.empty_like(descriptors) for _ in range(self.size)]
        torch.distributed.all_gather(rows, descriptors.detach())
        rows[self.rank] = descriptors
        return torch.cat(rows)

    def sum_gradients(self, network: nn.Module) -> None:
        """Each process holds the whole loss's gradient through its own rows: the sum is the whole gradient."""
        if self.size > 1:
            for parameter in network.parameters():
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)

    def average_statistics(self, network: nn.Module) -> None:
        """Running means and variances of all processes, so that their networks stay equal."""
        if self.size > 1:
            for key, value in network.named_buffers():
                if "running" in key:
                    torch.distributed.all_reduce(value)
                    value /= self.size


class _Validation:
    """FPR at 95 % recall on pairs that were drawn once."""

    def __init__(self, settings: ValidationSettings, seed: int) -> None:
        from hardnet.benchmarks.brown import draw_pairs

        self.every = settings.every
        self.last: float | None = None
        self._patches = open_set(settings)
        self._pairs = draw_pairs(self._patches, settings.pairs, seed)

    @classmethod
    def of(cls, recipe: Recipe) -> "_Validation":
        return cls(recipe.validation, recipe.seed)

    def measure(self, network: HardNet) -> float:
        """The share 0..1 of false matches."""
        from hardnet.benchmarks.brown import evaluate_brown
        from hardnet.descriptor import NetworkDescriptor

        level = logging.getLogger("hardnet.descriptor").level
        logging.getLogger("hardnet.descriptor").setLevel(logging.WARNING)
        try:
            descriptor = NetworkDescriptor(network, "validation", "validation")
        finally:
            logging.getLogger("hardnet.descriptor").setLevel(level)
        self.last = evaluate_brown(descriptor, self._patches, *self._pairs)
        return self.last


def _run_steps(
    recipe: Recipe,
    state: _State,
    patch_sets: Sequence[PatchSet],
    sampler: PairSampler,
    team: _Team,
    last: int,
    checkpoint: Path,
    logs: str | Path | None,
    validation: _Validation | None,
) -> float:
    """Trains up to (not including) step `last`; the mean loss of the last steps."""
    writer = _writer(logs, recipe.name, state.step) if team.leads else None
    half = _half(recipe.precision, state.device)
    smooth = float("nan")
    bar = tqdm(total=recipe.steps, initial=state.step, unit="step", desc=recipe.name, disable=None)
    with bar, ThreadPoolExecutor(1) as background:

        def prepare(step: int) -> tuple[torch.Tensor, torch.Tensor]:
            return _batch(recipe, patch_sets, sampler, step)

        waiting = [background.submit(prepare, step) for step in range(state.step, min(last, state.step + _AHEAD))]
        while state.step < last:
            step = state.step
            patches, contexts = waiting.pop(0).result()
            if step + _AHEAD < last:
                waiting.append(background.submit(prepare, step + _AHEAD))
            value = _step(recipe, state, team, patches, contexts, half)
            if not np.isfinite(value):
                raise TrainingError(_diverged(step, checkpoint))
            smooth = value if np.isnan(smooth) else smooth + 0.02 * (value - smooth)
            done = state.step
            if team.leads and (done % recipe.checkpoint_every == 0 or done == last):
                state.save(checkpoint)
            if writer is not None and done % LOG_EVERY == 0:
                writer.add_scalar("loss", smooth, done)
                writer.add_scalar("learning rate", recipe.learning_rate(step), done)
            if validation is not None and (done % validation.every == 0 or done == recipe.steps):
                found = validation.measure(state.result())
                _log.info("step %d of %d: loss %.4f, validation FPR95 %.4f", done, recipe.steps, smooth, found)
                if writer is not None:
                    writer.add_scalar("validation FPR95", found, done)
            bar.update()
            shown = {"loss": f"{smooth:.4f}"}
            if validation is not None and validation.last is not None:
                shown["FPR95"] = f"{100 * validation.last:.2f}%"
            bar.set_postfix(shown, refresh=False)
    if writer is not None:
        writer.close()
    return smooth


def _step(
    recipe: Recipe,
    state: _State,
    team: _Team,
    patches: torch.Tensor,
    contexts: torch.Tensor,
    half: bool,
) -> float:
    """One step; the loss."""
    phase, _ = recipe.phase_at(state.step)
    count = len(patches) // 2
    generator = torch.Generator().manual_seed(_seed(recipe.seed, state.step, 1))
    views = make_views(patches.to(state.device, non_blocking=True), contexts, phase.views, generator)
    part = team.part(count)
    mine = torch.cat([views[:count][part], views[count:][part]]).contiguous(memory_format=torch.channels_last)
    torch.manual_seed(_seed(recipe.seed, state.step, 2 + team.rank))  # dropout
    state.network.train()
    with torch.autocast(torch.device(state.device).type, torch.bfloat16, enabled=half):
        descriptors = state.network(mine)
    anchors, positives = (team.gather(rows.contiguous()) for rows in descriptors.chunk(2))
    loss = hardest_in_batch(anchors, positives, recipe.margin)
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    team.sum_gradients(state.network)
    state.advance()
    team.average_statistics(state.network)
    return float(loss.detach())


def make_views(
    patches: torch.Tensor, contexts: torch.Tensor, settings: ViewSettings, generator: torch.Generator
) -> torch.Tensor:
    """Views of a batch of pairs.

    Args:
        patches: (2 N, S, S) uint8, anchors before positives.
        contexts: (2 N,) float32.
        settings: how far views differ.
        generator: CPU source of randomness.

    Returns:
        (2 N, 1, 32, 32) float32.
    """
    views = draw_views(patches, contexts, settings, generator)
    if not settings.flips:
        return views
    count = len(views) // 2
    return torch.cat(flip_alike(views[:count], views[count:], generator))


def _batch(
    recipe: Recipe, patch_sets: Sequence[PatchSet], sampler: PairSampler, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The patches of a step, anchors before positives, and their contexts."""
    phase, _ = recipe.phase_at(step)
    batch = sampler.draw(step, phase.batch)
    side = max(patch_set.patches.shape[1] for patch_set in patch_sets)
    patches = np.empty((2 * phase.batch, side, side), np.uint8)
    contexts = np.empty(2 * phase.batch, np.float32)
    for index, patch_set in enumerate(patch_sets):
        _fill(patches, contexts, patch_set, batch, index)
    return torch.from_numpy(patches), torch.from_numpy(contexts)


def _fill(patches: np.ndarray, contexts: np.ndarray, patch_set: PatchSet, batch: Batch, index: int) -> None:
    """Copies one set's share of a batch; sets of another patch size are brought to the common one."""
    at = np.flatnonzero(batch.sets == index)
    count = len(batch.sets)
    for chosen, offset in ((batch.anchors[at], 0), (batch.positives[at], count)):
        found = patch_set.patches[chosen]
        if found.shape[1] != patches.shape[1]:
            from hardnet.patchsets.resize import resize_patches

            found = np.rint(resize_patches(found, patches.shape[1])).astype(np.uint8)
        patches[at + offset] = found
        contexts[at + offset] = patch_set.context


def _seed(seed: int, step: int, purpose: int) -> int:
    """A 63-bit seed for one use at one step."""
    return int(np.random.SeedSequence([seed, step, purpose]).generate_state(1, np.uint64)[0] >> 1)


def _half(precision: str, device: str) -> bool:
    """Whether to compute in bfloat16."""
    on_gpu = torch.device(device).type == "cuda"
    half = precision == "bfloat16" or (precision == "auto" and on_gpu and torch.cuda.is_bf16_supported())
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


def _diverged(step: int, checkpoint: Path) -> str:
    kept = f"{checkpoint} holds the last good state" if checkpoint.is_file() else "no checkpoint had been written yet"
    return f"the loss is no number at step {step}; {kept}: lower the learning rate (phases.*.learning_rate) and restart"
