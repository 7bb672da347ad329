"""Run by torchrun in a test: what every process of a parallel run ends with."""

import sys
from pathlib import Path

import torch

from hardnet.descriptors.networks import unit_rows
from hardnet.training import loop
from hardnet.training.distillation import load_teacher, regression, taught, taught_by_all
from hardnet.training.loss import hardest_in_batch
from hardnet.training.recipe import LossSettings, PhaseSettings, Recipe, SetSettings


def gradients(team):
    """Of a small layer over a batch that the processes share, and over the whole batch."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn((2, 8, 6), generator=generator)
    targets = unit_rows(torch.randn((16, 4), generator=generator))
    layer = torch.nn.Linear(6, 4, bias=False)
    layer.weight.data.copy_(torch.randn((4, 6), generator=generator))

    def loss(anchors, positives):
        return hardest_in_batch(anchors, positives) + 2 * regression(torch.cat([anchors, positives]), targets)

    part = team.part(8)
    loss(*(team.gather(unit_rows(layer(inputs[k][part]))) for k in (0, 1))).backward()
    team.sum_gradients(layer)
    shared = layer.weight.grad.clone()
    layer.weight.grad = None
    loss(*(unit_rows(layer(inputs[k])) for k in (0, 1))).backward()
    views = 255 * torch.rand((2, 8, 1, 32, 32), generator=generator)
    teacher = load_teacher("hardnet", "cpu", half=False)
    told = taught_by_all(team, teacher, torch.cat([views[0][part], views[1][part]]))
    taught_alone = taught(teacher, views.flatten(0, 1))
    return {"gradient": shared, "expected": layer.weight.grad, "told": told, "taught": taught_alone}


def main(patches, folder):
    phase = PhaseSettings(pairs=48, batch=16, learning_rate=5.0)
    distilled = {"network": "compact-8", "teacher": "hardnet", "losses": LossSettings(regression=2.0)}
    sets = (SetSettings(patches),)
    recipe = Recipe(name="toy", sets=sets, phases=(phase,), precision="single", averaging=0.9, **distilled)
    run_steps = loop._run_steps

    def observed(recipe, state, patch_sets, sampler, team, *rest):
        content = gradients(team)
        loss = run_steps(recipe, state, patch_sets, sampler, team, *rest)
        content["weights"], content["average"] = state.network.state_dict(), state.average
        torch.save(content, folder / f"rank{team.rank}.pth")
        return loss

    loop._run_steps = observed
    loop.train(recipe, folder / "run", "cpu", None)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
