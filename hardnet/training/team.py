"""Training in several processes, as torchrun starts them; one process needs none of it.

The loss is over the whole batch on every process, its gradient through the process's own rows: the sum over the
processes is the gradient that one process would have. Layers that mix rows, or draw random numbers for them, do so for
the whole batch as well (`hardnet.training.whole_batch`), so a team trains the network that one process trains, but for
the order in which float numbers are added.
"""

import contextlib
import importlib
import json
import os
import platform
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import nn

from hardnet.errors import TrainingError

_GO_ON = "the same command goes on from the last checkpoint"
_FALLEN = f"another process of the run has ended, whose own output says why: {_GO_ON}"
_STOPPED = f"stopped by SIGTERM (torchrun sends it when another process has ended, or it is to stop itself): {_GO_ON}"
_TOLD = 3  # most differences that are told


class SharedError(TrainingError):
    """What every process of a run raises alike; one of each machine is enough to tell it."""


def leads() -> bool:
    """Whether this process is the one that torchrun counts as the first, or was started alone."""
    return os.environ.get("RANK", "0") == "0"


def leads_machine() -> bool:
    """Whether this process is the first on its machine, or was started alone."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


@dataclass(frozen=True)
class Team:
    """The processes that train together: one, or those that torchrun started.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        device: this process's own; None where it trains alone.
        ending: what is done when they part.
    """

    rank: int = 0
    size: int = 1
    device: str | None = None
    ending: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False, compare=False)

    @property
    def leads(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    @classmethod
    def join(cls, device: str) -> "Team":
        """Meets the others, if torchrun started any. The team is a context, and parts when the block has ended well.

        Args:
            device: "auto", "cpu" or "cuda" where there are others.

        Raises:
            TrainingError: a device that the processes cannot share, or fewer GPUs than processes; in the block, another
                process that ended, or SIGTERM.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
        if device not in ("auto", "cpu", "cuda"):
            raise SharedError(
                f"--device {device}: under torchrun each process takes its own GPU; use auto, cuda or cpu"
            )
        on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
        here = int(os.environ.get("LOCAL_WORLD_SIZE", size))
        if on_gpu and here > torch.cuda.device_count():
            raise SharedError(f"{here} processes need as many GPUs, {torch.cuda.device_count()} are here: start fewer")
        if on_gpu:
            torch.cuda.set_device(local)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_ending_told())
            stack.enter_context(_talking())
            # what the first step of an optimiser imports would hold the group for ever, and with it threads that may
            # abort the program at its end
            importlib.import_module("torch._dynamo")
            torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
            stack.push(_part)
            return cls(rank, size, f"cuda:{local}" if on_gpu else "cpu", stack.pop_all())

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *raised: Any) -> None:
        self.ending.__exit__(*raised)

    def part(self, count: int) -> slice:
        """This process's share of a batch."""
        share = count // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def rows(self, count: int) -> torch.Tensor:
        """Where this process's share of a batch stands among its `count` rows, anchors before positives: int64."""
        part, half = self.part(count // 2), count // 2
        anchors = torch.arange(part.start, part.stop)
        return torch.cat([anchors, anchors + half])

    def gather(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Rows of all processes; the gradient goes through this one's own."""
        if self.size == 1:
            return descriptors
        rows = self.all(descriptors)
        rows[self.rank] = descriptors
        return torch.cat(rows)

    def all(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Tensors of one shape of all processes, in order of ranks; without gradients."""
        values = values.detach().contiguous()
        found = [torch.empty_like(values) for _ in range(self.size)]
        torch.distributed.all_gather(found, values)
        return found

    def sum_gradients(self, network: nn.Module) -> None:
        """Each process holds the whole loss's gradient through its own rows: the sum is the whole gradient."""
        if self.size > 1:
            for parameter in network.parameters():
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)

    def exchange(self, content: bytes) -> list[bytes]:
        """What every process says, in order of ranks."""
        if self.size == 1:
            return [content]
        lengths = [int(length) for length in self.all(torch.tensor([len(content)], device=self.device))]
        padded = torch.zeros(max(1, *lengths), dtype=torch.uint8)
        padded[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else padded[:0]
        found = self.all(padded.to(self.device))
        return [one[:length].cpu().numpy().tobytes() for one, length in zip(found, lengths, strict=True)]

    def share(self, content: bytes, source: int) -> bytes:
        """What one process says, to all.

        Args:
            content: counts on `source` alone.
            source: rank of that process.
        """
        length = torch.tensor([len(content)], device=self.device)
        torch.distributed.broadcast(length, source)
        sent = torch.empty(int(length), dtype=torch.uint8)
        if self.rank == source:
            sent.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        sent = sent.to(self.device)
        torch.distributed.broadcast(sent, source)
        return sent.cpu().numpy().tobytes()

    def agree(self, facts: Mapping[str, str]) -> None:
        """Sees to it that all processes train the same thing.

        Args:
            facts: name and value of each thing that has to be the same.

        Raises:
            SharedError: it is not; says what differs, and where.
        """
        said = json.dumps([platform.node(), dict(facts)]).encode()
        (first_host, first), *others = (json.loads(one) for one in self.exchange(said))
        for rank, (host, other) in enumerate(others, 1):
            keys = [key for key in {**first, **other} if first.get(key) != other.get(key)]
            if keys:
                told = "; ".join(f"{key} {other.get(key)}, there {first.get(key)}" for key in keys[:_TOLD])
                more = f"; and {len(keys) - _TOLD} more" if len(keys) > _TOLD else ""
                raise SharedError(
                    f"process {rank} on {host} differs from process 0 on {first_host}: {told}{more}: give "
                    "all processes the same recipe, patches and versions"
                )


def _part(kind: type[BaseException] | None, *_: object) -> None:
    """Waits for the others, if all went well, and parts. NCCL would wait for those that failed; it ends with them."""
    if kind is None:
        torch.distributed.barrier()
    else:
        _ignore_sigterm()
    if kind is None or torch.distributed.get_backend() == "gloo":
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def _talking() -> Iterator[None]:
    """What the libraries below raise when a process that they talk to is gone, as one line."""
    try:
        yield
    except torch.distributed.DistError as error:
        raise TrainingError(_FALLEN) from error
    except RuntimeError as error:  # gloo has no class of its own
        if "gloo" not in str(error) and "onnection" not in str(error):
            raise
        raise TrainingError(_FALLEN) from error


@contextlib.contextmanager
def _ending_told() -> Iterator[None]:
    """SIGTERM ends the block as an error that is told, where signals can be handled."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TrainingError(_STOPPED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException:
        _ignore_sigterm()
        raise
    signal.signal(signal.SIGTERM, before)


def _ignore_sigterm() -> None:
    """After an error: torchrun sends it to all as soon as one fails, and what has failed is yet to be told."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
