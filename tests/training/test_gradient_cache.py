"""Chunks give the value and the gradient of the whole batch, move statistics once, and hold less memory."""

import weakref
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssl_sat.losses.nt_xent import nt_xent
from ssl_sat.training.gradient_cache import embed_in_chunks

PATCHES = 12


def network(norm: str) -> nn.Module:
    norms = {
        "none": nn.Identity,
        "layer": lambda: nn.LayerNorm([8, 6, 6]),
        "group": lambda: nn.GroupNorm(2, 8),
        "batch": lambda: nn.BatchNorm2d(8),
        "dropout": lambda: nn.Dropout(0.5),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        parts = [nn.Conv2d(3, 8, 3), norms[norm](), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten()]
        return nn.Sequential(*parts, nn.Linear(8 * 16, 16)).double().train()


def inputs(count: int = PATCHES) -> torch.Tensor:
    return torch.randn(2, count, 3, 8, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def embed_with(net: nn.Module):
    return lambda x_VNCHW: net(x_VNCHW.flatten(0, 1)).unflatten(0, x_VNCHW.shape[:2])


def cached(net: nn.Module, x: torch.Tensor, chunk: int) -> torch.Tensor:
    return embed_in_chunks(embed_with(net), lambda part: x[:, part], x.shape[1], chunk, net)


@pytest.mark.parametrize("norm", ["none", "layer", "group"])
@pytest.mark.parametrize("chunk", [1, 5, 12, 50])
def test_value_and_gradient_are_those_of_the_whole_batch(norm, chunk):
    whole, parts, x = network(norm), network(norm), inputs()
    expected, loss = nt_xent(embed_with(whole)(x), 0.1), nt_xent(cached(parts, x, chunk), 0.1)
    expected.backward()
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    for a, b in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-13)


def test_batch_norm_moves_once_a_chunk_and_its_gradient_is_that_of_the_chunks():
    plain, parts, x = network("batch"), network("batch"), inputs()
    z = torch.cat([embed_with(plain)(x[:, first : first + 4]) for first in (0, 4, 8)], 1)
    nt_xent(z, 0.1).backward()
    loss = nt_xent(cached(parts, x, 4), 0.1)
    forward = {name: value.clone() for name, value in parts.named_buffers()}
    loss.backward()
    assert forward["1.num_batches_tracked"] == 3
    for (name, ours), theirs in zip(parts.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, forward[name]), name  # backward left them alone
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)
    for a, b in zip(parts.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-13)


def test_statistics_that_are_frozen_stay_frozen():
    net, x = network("batch").eval(), inputs()
    before = {name: value.clone() for name, value in net.named_buffers()}
    nt_xent(cached(net, x, 4), 0.1).backward()
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())


def test_dropout_is_the_same_in_both_passes():
    """Otherwise the gradient would be that of another network than the one whose loss was computed."""
    net, x = network("dropout"), inputs()

    def loss() -> torch.Tensor:
        torch.manual_seed(7)
        return nt_xent(cached(net, x, 4), 0.5)

    loss().backward()
    weight = net[0].weight
    analytic, epsilon = weight.grad.flatten()[5].item(), 1e-6
    with torch.no_grad():
        weight.view(-1)[5] += epsilon
        above = loss().item()
        weight.view(-1)[5] -= 2 * epsilon
        below = loss().item()
    assert analytic == pytest.approx((above - below) / (2 * epsilon), rel=1e-5)


def test_autocast_holds_in_both_passes():
    seen: list[torch.dtype] = []
    net = network("none").float()
    net[3].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent(cached(net, inputs().float(), 6), 0.5)
    loss.backward()
    assert seen == [torch.bfloat16] * 4 and loss.dtype == torch.float32  # two chunks, twice each


class Peak(TorchDispatchMode):
    """Bytes of all tensors made inside, at their most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self._known:
                storage = tensor.untyped_storage()
                self._known.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return outputs

    def _gone(self, identity: int, size: int) -> None:
        self._known.discard(identity)
        self.now -= size


def test_memory_falls_with_the_chunk():
    def peak(chunk: int) -> int:
        net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        x = torch.randn(2, 32, 3, 24, 24, generator=torch.Generator().manual_seed(4))
        with Peak() as measured:
            nt_xent(cached(net, x, chunk), 0.5).backward()
        return measured.peak

    by_chunk = [peak(chunk) for chunk in (32, 16, 8, 4)]
    assert all(smaller < 0.65 * larger for larger, smaller in pairwise(by_chunk)), by_chunk


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    x = inputs().chunk(2, dim=1)[rank]

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network("group")

        def forward(self) -> torch.Tensor:
            return nt_xent(cached(self.net, x, 4), 0.1, gather=True)

    step = nn.parallel.DistributedDataParallel(Step())
    losses = []
    for _ in range(2):  # the second backward shows that the first left the reducer in order
        step.zero_grad()
        loss = step()
        loss.backward()
        dist.all_reduce(mean := loss.detach() / 2)
        losses.append(mean.item())
    if rank == 0:
        torch.save({"losses": losses, "grads": [p.grad for p in step.parameters()]}, f"{folder}/out.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one_with_the_whole_batch(tmp_path):
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2)
    theirs = torch.load(tmp_path / "out.pt")
    net = network("group")
    loss = nt_xent(embed_with(net)(inputs()), 0.1)
    loss.backward()
    assert theirs["losses"] == pytest.approx([loss.item()] * 2, rel=1e-13)
    for ours, parameter in zip(theirs["grads"], net.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-10, atol=1e-13)
