"""Run by torchrun in a test, or alone: trains, and says what the process ends with.

In double precision where that is asked for. What is added in another order then differs by so little that no ReLU opens
for it, and only what is computed differently is left.
"""

import sys
from pathlib import Path

import torch

from hardnet.training import loop
from hardnet.training.recipe import load_recipe
from hardnet.training.state import State


def in_double():
    """The layers of the network that is trained in float64; patches, descriptors and the loss stay in float32."""
    made = State.__init__

    def double(self, *arguments):
        made(self, *arguments)
        self.network.double()
        self.network.features.register_forward_pre_hook(lambda layers, given: (given[0].double(),))
        self.average = {key: value.double() for key, value in self.average.items()}

    State.__init__ = double


def main(recipe, folder, precision, stop_after=0):
    if precision == "double":
        in_double()
    run_steps, losses = loop._run_steps, []

    def observed(recipe, state, patch_sets, sampler, team, take, *rest):
        def noted(groups):
            values = take(groups)
            losses.append(values["loss"])
            return values

        loss = run_steps(recipe, state, patch_sets, sampler, team, noted, *rest)
        content = {"weights": state.network.state_dict(), "average": state.average, "losses": losses}
        torch.save(content, folder / f"rank{team.rank}.pth")
        return loss

    loop._run_steps = observed
    loop.train(load_recipe(recipe), folder / "run", "cpu", None, stop_after)
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert not any("gloo" in name for name in threads), threads  # they might abort the process at its end


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:]))
