"""Layers that see the whole batch of a team: BatchNorm's statistics and dropout's numbers are those of one process.

torch's own SyncBatchNorm wants GPUs. This one computes the same on any device, by the kernels of BatchNorm2d: mean
and variance of the whole batch from those of the parts, and gradients through both (Ioffe and Szegedy 2015, section 3).
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from hardnet.training.team import Team

_backward = torch.ops.aten.native_batch_norm_backward


def across(network: nn.Module, team: Team) -> nn.Module:
    """A network whose layers see the whole batch, though each process describes its part of it alone.

    Args:
        network: a module whose `features` is a Sequential; its layers are exchanged, weights and their names stay.
        team: processes of equal parts.

    Returns:
        The same module.
    """
    layers: Any = network.features
    for place, layer in enumerate(layers if team.size > 1 else ()):
        if isinstance(layer, nn.BatchNorm2d):
            layers[place] = WholeBatchNorm(layer, team)
        elif isinstance(layer, nn.Dropout):
            layers[place] = WholeDropout(layer.p, team)
    return network


class WholeBatchNorm(nn.Module):
    """BatchNorm of a batch (N, C, H, W) of which each process has as many rows.

    Args:
        layer: whose running statistics and settings it takes; without scale and shift.
        team: the processes.

    Raises:
        ValueError: a layer with scale and shift, which no network that is trained here has.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def __init__(self, layer: nn.BatchNorm2d, team: Team) -> None:
        super().__init__()
        if layer.affine or layer.momentum is None:
            raise ValueError("expected BatchNorm without scale and shift, and with a momentum")
        self.eps, self.momentum, self.team = layer.eps, layer.momentum, team
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(layer, name))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """This process's rows, (M, C, H, W), normalised by the whole batch in training."""
        if not self.training:
            return functional.batch_norm(values, self.running_mean, self.running_var, eps=self.eps)
        normal, mean, variance = _Normalised.apply(values, self.team, self.eps)
        count = self.team.size * values.numel() / values.shape[1]
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        return normal


class WholeDropout(nn.Module):
    """Dropout of a batch of which each process has its part: drawn for all rows, anchors before positives.

    Args:
        share: probability.
        team: the processes, whose generators are in one state.
    """

    def __init__(self, share: float, team: Team) -> None:
        super().__init__()
        self.share, self.team = share, team

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """This process's rows (M, C, H, W), of which some are 0 in training."""
        if not self.training or not self.share:
            return values
        count = self.team.size * len(values)
        last = values.is_contiguous(memory_format=torch.channels_last)  # numbers are drawn in the order of memory
        layout = torch.channels_last if last else torch.contiguous_format
        whole = values.new_ones((count, *values.shape[1:])).contiguous(memory_format=layout)
        factors = functional.dropout(whole, self.share)
        return values * factors[self.team.rows(count).to(values.device)]


class _Normalised(torch.autograd.Function):
    """(M, C, H, W) less the mean of the whole batch, over its deviation; and mean and variance (C,) of that batch."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, team: Team, eps: float) -> tuple[torch.Tensor, ...]:
        kind = torch.promote_types(values.dtype, torch.float32)  # statistics of half precision are of single
        unused = values.new_zeros(values.shape[1], dtype=kind)
        own = torch.stack(torch.batch_norm_update_stats(values, unused, unused.clone(), 0.0))  # mean, variance
        means, variances = torch.stack(team.all(own)).unbind(1)
        mean = means.mean(dim=0)
        variance = (variances + (means - mean).square()).mean(dim=0)
        ctx.team, ctx.eps = team, eps
        ctx.save_for_backward(values, mean, variance)
        ctx.mark_non_differentiable(mean, variance)
        return functional.batch_norm(values, mean, variance, eps=eps), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Of `values`: (outer - mean of outer - normal * mean of outer * normal) / deviation, over the whole batch."""
        (values, mean, variance), outer = ctx.saved_tensors, gradients[0]
        inverse, ones = torch.rsqrt(variance + ctx.eps), torch.ones_like(mean)
        given = (outer, values, ones, mean, variance, mean, inverse)
        _, turned, level = _backward(*given, True, ctx.eps, [False, True, True])
        count = ctx.team.size * values.numel() / values.shape[1]
        turned, level = torch.stack(ctx.team.all(torch.stack([turned, level]))).sum(dim=0) * (inverse / -count)
        inner, _, _ = _backward(*given, False, ctx.eps, [True, False, False])  # inverse * outer
        return inner.add_(functional.batch_norm(values, mean, variance, turned, level, eps=ctx.eps)), None, None
