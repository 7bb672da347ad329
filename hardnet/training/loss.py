"""Hardest-in-batch triplet margin loss (Mishchuk et al. 2017, section 3).

Every other pair of the batch offers two candidates for the negative of a pair: the positive nearest to its anchor,
and the anchor nearest to its positive (the anchor swap). The nearer one counts.

Shapes are trained with the negatives held (HardNegC: Mishkin et al. 2018, section 3, "the derivative by the negative is
zero"): what a pair's own patches show may move away from its negative, and the negative does not move.
"""

import torch

MASK = 10.0  # added to distances that must not be chosen (released code)
TOO_NEAR = 0.008  # below it two patches of different points are taken for duplicates (released code)
_SQUARE_FLOOR = 1e-6  # keeps the root's derivative finite (released code)
_DISTANCE_FLOOR = 1e-8


def distance_matrix(anchors: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """Euclidean distances of unit rows.

    Args:
        anchors: (N, D) unit rows.
        positives: (M, D) unit rows.

    Returns:
        (N, M) float32.
    """
    squared = 2.0 - 2.0 * anchors.float() @ positives.float().T
    return torch.sqrt(squared.clamp(min=0.0) + _SQUARE_FLOOR) + _DISTANCE_FLOOR


def hardest_in_batch(
    anchors: torch.Tensor, positives: torch.Tensor, margin: float = 1.0, hold: bool = False
) -> torch.Tensor:
    """Mean of max(0, margin + d(a_i, p_i) - nearest negative of pair i).

    Args:
        anchors: (N, D) unit rows, one for each of N different 3-D points.
        positives: (N, D) unit rows of the same points.
        margin: 1 as published.
        hold: whether negatives are held: no gradient goes to the descriptor that is another pair's negative.

    Returns:
        A scalar, float32.

    Raises:
        ValueError: fewer than two pairs (there is no negative), or shapes that differ.
    """
    if anchors.shape != positives.shape or anchors.ndim != 2 or len(anchors) < 2:
        raise ValueError(
            f"expected two (N, D) batches with N >= 2, got {tuple(anchors.shape)} and {tuple(positives.shape)}"
        )
    distances = distance_matrix(anchors, positives)
    matching = distances.diagonal()
    with torch.no_grad():
        hidden = (distances < TOO_NEAR).to(distances.dtype)
        hidden.fill_diagonal_(1.0)
    to_positives = distance_matrix(anchors, positives.detach()) if hold else distances
    to_anchors = distance_matrix(anchors.detach(), positives) if hold else distances
    negatives = torch.minimum(
        (to_positives + MASK * hidden).min(dim=1).values, (to_anchors + MASK * hidden).min(dim=0).values
    )
    return (margin + matching - negatives).clamp(min=0.0).mean()
