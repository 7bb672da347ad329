"""Training in several processes, as torchrun starts them; one process needs none of it.

The loss is over the whole batch on every process, its gradient through the process's own rows: the sum over the
processes is the gradient that one process would have.
"""

import os
from dataclasses import dataclass

import torch
from torch import nn

from hardnet.errors import TrainingError


@dataclass(frozen=True)
class Team:
    """The processes that train together: one, or those that torchrun started.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        device: this process's own; None where it trains alone.
    """

    rank: int = 0
    size: int = 1
    device: str | None = None

    @property
    def leads(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    @classmethod
    def join(cls, device: str) -> "Team":
        """Meets the others, if torchrun started any.

        Raises:
            TrainingError: a device that the processes cannot share, or fewer GPUs than processes.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
        if device not in ("auto", "cpu", "cuda"):
            raise TrainingError(
                f"--device {device}: under torchrun each process takes its own GPU; use auto, cuda or cpu"
            )
        on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
        if on_gpu and local >= torch.cuda.device_count():
            raise TrainingError(
                f"{size} processes need as many GPUs, {torch.cuda.device_count()} are here: start fewer"
            )
        if on_gpu:
            torch.cuda.set_device(local)
        torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
        return cls(rank, size, f"cuda:{local}" if on_gpu else "cpu")

    def leave(self) -> None:
        """Waits for the others and parts."""
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
