"""The state of a training run, and the file that keeps it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hardnet.descriptors.networks import HardNet, read_network
from hardnet.errors import TrainingError
from hardnet.files import replacing
from hardnet.training.recipe import Recipe, fingerprint
from hardnet.weights import table


def initialise(network: nn.Module, gain: float, seed: int) -> None:
    """Orthogonal filters (released code: gain 0.6), drawn from a generator of their own."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.orthogonal_(layer.weight, gain=gain, generator=generator)


class State:
    """Weights, their average, optimiser and step.

    Args:
        recipe: what is trained.
        device: a torch device that exists.
        surroundings: what else the weights depend on, as plain values; a checkpoint made in others is refused.

    Attributes:
        network: in training.
        average: exponential averages of parameters and running statistics; empty where the recipe wants none.
        step: steps done.
    """

    def __init__(self, recipe: Recipe, device: str, surroundings: dict[str, Any]) -> None:
        self.recipe = recipe
        self.surroundings = surroundings
        self.device = device
        self.step = 0
        self.network = HardNet(recipe.dropout)
        if recipe.start:
            resolved = table.resolve(recipe.start)
            self.network.load_state_dict(read_network(resolved.path, "hardnet")[1].state_dict())
        else:
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
            raise TrainingError(diverged(self.step, path))
        content: dict[str, Any] = {
            "step": self.step,
            "recipe": fingerprint(self.recipe),
            "surroundings": self.surroundings,
            "state_dict": self.network.state_dict(),
            "average": self.average,
            "momentum": [self.optimiser.state[p].get("momentum_buffer") for p in self.network.parameters()],
        }
        with replacing(path) as temporary:
            torch.save(content, temporary)

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
            for key, ours in self.surroundings.items():
                if content["surroundings"][key] != ours:
                    raise TrainingError(
                        f"{path} was made with other {key} ({content['surroundings'][key]}, now {ours}): restore them, "
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


def diverged(step: int, checkpoint: Path) -> str:
    """What to say when the loss or the weights are no numbers."""
    kept = f"{checkpoint} holds the last good state" if checkpoint.is_file() else "no checkpoint had been written yet"
    return (
        f"loss or weights are no number at step {step}; {kept}: lower the learning rate (phases.*.learning_rate) and "
        "restart"
    )
