"""Distillation: a small network learns to describe patches as a large one does, the teacher.

The student is told the teacher's descriptor of every view and is drawn towards it (regression of what the teacher puts
out: Romero et al. 2015, "FitNets: hints for thin deep nets", section 2.2, with its last layer as the hint), beside the
triplets that it learns from anyway. Liu and Dong 2024, "Descriptor distillation" (DesDis), draw distances of pairs
together instead; rows that agree have the same distances, so this asks for more, and more is told of each patch.
"""

import torch

from hardnet.descriptors.descriptor import PatchDescriptor
from hardnet.descriptors.loading import load
from hardnet.training.recipe import require_network
from hardnet.training.team import Team


def load_teacher(name_or_path: str, device: str, half: bool) -> PatchDescriptor:
    """The network that is learned from; it stays as it is.

    Args:
        name_or_path: of weights, as `hardnet.load` takes them.
        device: where the student is trained.
        half: whether the student computes in bfloat16; the teacher then takes the fastest precision there is here
            (int8, or half precision on a GPU) and single precision otherwise.

    Raises:
        TrainingError: RootSIFT, or an ONNX file.
        WeightsError: unknown, unreadable or of another architecture.
    """
    require_network("teacher", name_or_path)
    return load(name_or_path, device, precision="auto" if half else "float32")


def taught(teacher: PatchDescriptor, views: torch.Tensor) -> torch.Tensor:
    """What the teacher says of views.

    Args:
        teacher: from `load_teacher`.
        views: (N, 1, 32, 32) float32 on its device, grey values 0..255.

    Returns:
        (N, 128) float32 unit rows there, without gradients.
    """
    return torch.from_numpy(teacher.describe(views[:, 0])).to(views.device)


def taught_by_all(team: Team, teacher: PatchDescriptor, mine: torch.Tensor) -> torch.Tensor:
    """What the teacher says of a batch that the processes of a run share.

    Args:
        team: the processes.
        teacher: from `load_teacher`.
        mine: (2 M, 1, 32, 32) views of this process, anchors before positives.

    Returns:
        (2 N, 128) float32 unit rows of all processes, anchors before positives.
    """
    return torch.cat([team.gather(rows.contiguous()) for rows in taught(teacher, mine).chunk(2)])


def regression(rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean of 1 - cosine: half the mean squared distance of unit rows.

    Args:
        rows: (N, D) unit rows of the student.
        targets: (N, D) unit rows of the teacher, of the same patches.

    Returns:
        A scalar, float32, 0..2.

    Raises:
        ValueError: shapes that differ.
    """
    if rows.shape != targets.shape:
        raise ValueError(f"expected rows of one shape, got {tuple(rows.shape)} and {tuple(targets.shape)}")
    return 1.0 - (rows.float() * targets.float()).sum(dim=1).mean()
