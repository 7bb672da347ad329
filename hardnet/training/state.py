"""The state of a training run, and the file that keeps it."""

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hardnet.descriptors import networks as descriptors
from hardnet.descriptors.networks import read_network, untrained
from hardnet.errors import TrainingError, WeightsError
from hardnet.files import replacing
from hardnet.shapes import networks as shapes
from hardnet.shapes.networks import AffNet
from hardnet.training.recipe import Recipe, fingerprint
from hardnet.weights import table

_log = logging.getLogger(__name__)

_NETWORKS = {**descriptors.NETWORKS, **shapes.NETWORKS}
ADAM_SQUARES = 0.999  # decay of mean squared gradients (Kingma and Ba 2015)
ALMOST_ROUND = 0.01  # factor on AffNet's last filters: FPR95 after 100 steps of 64 pairs is 5 %, and 43 % without


def initialise(network: nn.Module, gain: float, seed: int) -> None:
    """Orthogonal filters (released code: gain 0.6), drawn from a generator of their own; biases of 0.

    An AffNet's first shapes are almost circles.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.orthogonal_(layer.weight, gain=gain, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    if isinstance(network, AffNet):
        with torch.no_grad():
            network.features[-1].weight.mul_(ALMOST_ROUND)  # type: ignore[operator]


class State:
    """Weights, their average, optimiser and step.

    Args:
        recipe: what is trained.
        device: a torch device that exists.
        surroundings: what else the weights depend on, as plain values; a checkpoint made in others is refused.
        processes: that train together; a checkpoint made by another number is gone on with, equal but for rounding.

    Attributes:
        network: in training.
        kind: its name among the networks of descriptors or of shapes.
        average: exponential averages of parameters and running statistics; empty where the recipe wants none.
        step: steps done.
    """

    def __init__(self, recipe: Recipe, device: str, surroundings: dict[str, Any], processes: int = 1) -> None:
        self.recipe = recipe
        self.surroundings = surroundings
        self.processes = processes
        self.device = device
        self.step = 0
        self.kind = recipe.network.partition("-")[0]
        self.network = self._untrained(recipe.dropout)
        if recipe.start:
            path = table.resolve(recipe.start).path
            start = read_network(path, known={self.kind: _NETWORKS[self.kind]})[1].state_dict()
            if any(start[key].shape != value.shape for key, value in self.network.state_dict().items()):
                raise WeightsError(f"{path} is no {recipe.network}, but of another width: change network or start")
            self.network.load_state_dict(start)
        else:
            initialise(self.network, recipe.gain, recipe.seed)
        self.network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = {key: value.clone() for key, value in self._floats()} if recipe.averaging else {}
        self.optimiser = _optimiser(self.network, recipe)

    def _untrained(self, dropout: float) -> nn.Module:
        return AffNet(dropout) if self.kind == "affnet" else untrained(self.recipe.network, dropout)

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

    def result(self) -> nn.Module:
        """The network to use: averaged weights where the recipe asks for them, on the CPU, in evaluation mode."""
        network = self._untrained(0.0)
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
            raise TrainingError(diverged(self.step, path))
        with replacing(path) as temporary:
            torch.save(self._content(), temporary)

    def packed(self) -> bytes:
        """What a checkpoint would hold, for another process."""
        stream = io.BytesIO()
        torch.save(self._content(), stream)
        return stream.getvalue()

    def unpack(self, content: bytes) -> None:
        """Takes up what another process packed.

        Raises:
            TrainingError: it is of another recipe.
        """
        self._take(io.BytesIO(content), "the state of another process")

    def load(self, path: Path) -> None:
        """Takes up a checkpoint.

        Raises:
            TrainingError: damaged, or of another recipe.
        """
        self._take(path, str(path))

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = {
            "step": self.step,
            "recipe": fingerprint(self.recipe),
            "surroundings": self.surroundings,
            "processes": self.processes,
            "state_dict": self.network.state_dict(),
            "average": self.average,
            "momentum": [self.optimiser.state[p].get("momentum_buffer") for p in self.network.parameters()],
        }
        if self.recipe.optimiser.kind == "adam":
            content["momentum"] = [dict(self.optimiser.state[p]) for p in self.network.parameters()]
        return content

    def _take(self, source: Path | io.BytesIO, path: str) -> None:
        try:
            content = torch.load(source, map_location=self.device, weights_only=True)
            step, found = int(content["step"]), content["recipe"]
            if found != fingerprint(self.recipe):
                raise TrainingError(
                    f"{path} was made with another recipe ({found}, this one is {fingerprint(self.recipe)}): "
                    "train into another folder, or remove it to start again"
                )
            for key, ours in self.surroundings.items():
                if content["surroundings"][key] != ours:
                    raise TrainingError(
                        f"{path} was made with other {key} ({content['surroundings'][key]}, now {ours}): restore them, "
                        "train into another folder, or remove it to start again"
                    )
            if content["surroundings"].get("processes", 1) > 1:
                raise TrainingError(
                    f"{path} was made by several processes of an earlier version, which normalised the part of each by "
                    "itself: train into another folder, or remove it to start again"
                )
            made_by = content.get("processes", 1)
            self.network.load_state_dict(content["state_dict"])
            for key in self.average:
                self.average[key].copy_(content["average"][key])
            for parameter, buffer in zip(self.network.parameters(), content["momentum"], strict=True):
                if isinstance(buffer, dict):
                    counted = {"step": buffer["step"].cpu()}  # where adam wants it, whatever the device
                    self.optimiser.state[parameter].update(buffer | counted)
                elif buffer is not None:
                    self.optimiser.state[parameter]["momentum_buffer"] = buffer
        except TrainingError:
            raise
        except Exception as error:  # torch raises pickle, zip, runtime, key and other errors on damaged files
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise TrainingError(f"{path} cannot be taken up ({reason}): remove it to start again") from error
        self.step = step
        if made_by != self.processes:
            _log.info(
                "%s was made in %d processes, going on in %d: weights are the same but for rounding",
                path,
                made_by,
                self.processes,
            )


def _optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    chosen = recipe.optimiser
    if chosen.kind == "adam":
        return torch.optim.Adam(
            network.parameters(),
            lr=recipe.learning_rate(0),
            betas=(chosen.momentum, ADAM_SQUARES),
            weight_decay=chosen.weight_decay,
        )
    return torch.optim.SGD(
        network.parameters(),
        lr=recipe.learning_rate(0),
        momentum=chosen.momentum,
        dampening=chosen.dampening,
        weight_decay=chosen.weight_decay,
    )


def diverged(step: int, checkpoint: Path) -> str:
    """What to say when the loss or the weights are no numbers."""
    kept = f"{checkpoint} holds the last good state" if checkpoint.is_file() else "no checkpoint had been written yet"
    return (
        f"loss or weights are no number at step {step}; {kept}: lower the learning rate (phases.*.learning_rate) and "
        "restart"
    )
