"""Layers of a team, against torch's own on the whole batch."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional

from hardnet.descriptors.networks import HardNet
from hardnet.training.team import Team
from hardnet.training.whole_batch import WholeBatchNorm, WholeDropout, across


class Threads(Team):
    """A team of threads of one process, which meet at a barrier."""

    meeting = threading.Barrier(1)
    table = ()

    def all(self, values):
        Threads.table[self.rank] = values.detach()
        Threads.meeting.wait(600)
        found = [one.clone() for one in Threads.table]
        Threads.meeting.wait(600)
        return found


def together(size, work):
    """What `work(team)` gives in each of as many threads."""
    Threads.meeting, Threads.table = threading.Barrier(size), [None] * size
    found = [None] * size

    def run(rank):
        found[rank] = work(Threads(rank, size, "cpu"))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    return found


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_batchnorm_of_all_parts_is_that_of_torch(size, kind, tolerance):
    torch.manual_seed(0)
    values = (3 + 2 * torch.randn(12, 5, 4, 4, dtype=torch.float64)).to(kind)
    factors = torch.randn(12, 5, 4, 4, dtype=torch.float64)
    exact = nn.BatchNorm2d(5, affine=False).double()
    whole = values.double().clone().requires_grad_()
    expected = exact(whole)
    (expected * factors).sum().backward()

    def work(team):
        layer = nn.BatchNorm2d(5, affine=False).to(torch.float64 if kind == torch.float64 else torch.float32)
        norm = WholeBatchNorm(layer, team).train()
        rows = team.rows(12)
        part = values[rows].contiguous(memory_format=torch.channels_last).requires_grad_()
        normal = norm(part)
        (normal * factors[rows].to(normal.dtype)).sum().backward()
        return rows, normal, part.grad, norm

    found = together(size, work)
    assert torch.equal(torch.cat([rows for rows, *_ in found]).sort().values, torch.arange(12))
    for rows, normal, gradient, norm in found:
        assert normal.dtype == gradient.dtype == kind
        torch.testing.assert_close(normal.double(), expected[rows], rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(gradient.double(), whole.grad[rows], rtol=tolerance, atol=tolerance)
        for name in ("running_mean", "running_var"):
            ours, theirs = getattr(norm, name), getattr(exact, name)
            torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance)
            assert torch.equal(ours, getattr(found[0][3], name))
        assert norm.num_batches_tracked == 1
        torch.testing.assert_close(
            norm.eval()(values.to(norm.running_mean.dtype)).double(),
            exact.eval()(values.double()),
            rtol=tolerance,
            atol=tolerance,
        )
        exact.train()


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_dropout_of_all_parts_is_that_of_torch(layout):
    values = torch.randn(12, 5, 4, 4).contiguous(memory_format=layout)
    torch.manual_seed(3)
    expected = functional.dropout(values, 0.3)
    for rank in range(3):
        team = Team(rank, 3, "cpu")
        rows = team.rows(12)
        torch.manual_seed(3)
        assert torch.equal(
            WholeDropout(0.3, team).train()(values[rows].contiguous(memory_format=layout)), expected[rows]
        )
        assert torch.equal(WholeDropout(0.3, team).eval()(values), values)


def test_names_of_weights_stay():
    network = HardNet(0.3)
    before = network.state_dict()
    after = across(network, Team(1, 2, "cpu")).state_dict()
    assert list(before) == list(after)
    assert all(before[key].data_ptr() == after[key].data_ptr() for key in before)
    kinds = [type(layer) for layer in network.features]
    assert kinds.count(WholeBatchNorm) == 7
    assert kinds.count(WholeDropout) == 1
    assert not any(isinstance(layer, WholeBatchNorm) for layer in across(HardNet(0.3), Team()).features)
    with pytest.raises(ValueError, match="without scale and shift"):
        WholeBatchNorm(nn.BatchNorm2d(3), Team())
