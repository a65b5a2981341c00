"""SyncBN over two processes is batch norm over the whole batch: outputs, gradients, running statistics.

Both processes share one device, over gloo, so that one GPU is enough.
"""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from timm.layers import BatchNormAct2d
from torch import nn

from ssl_sat.losses.nt_xent import nt_xent
from ssl_sat.training.distribution import SyncedBatchNorm

PAIRS, WORLD = 12, 2


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), BatchNormAct2d(8), nn.Flatten(), nn.Linear(8 * 36, 16), nn.BatchNorm1d(16))


def views() -> torch.Tensor:
    return torch.randn(2, PAIRS, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def outcome(net: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    found = {f"grad {name}": p.grad for name, p in net.named_parameters() if p.grad is not None}
    return {name: t.detach().cpu() for name, t in {"loss": loss, **found, **dict(net.named_buffers())}.items()}


def worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    net = SyncedBatchNorm().apply(network().cuda())
    parallel = nn.parallel.DistributedDataParallel(net)
    x_VNCHW = views().chunk(WORLD, dim=1)[rank].cuda()
    loss = nt_xent(parallel(x_VNCHW.flatten(0, 1)).unflatten(0, (2, -1)), 0.5, gather=True)
    loss.backward()
    mean = loss.detach().cpu() / WORLD
    dist.all_reduce(mean)
    if rank == 0:
        torch.save(outcome(net, mean), f"{folder}/out.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path) -> None:
    mp.spawn(worker, args=(str(tmp_path),), nprocs=WORLD)
    theirs = torch.load(tmp_path / "out.pt")
    net = network().cuda()
    loss = nt_xent(net(views().cuda().flatten(0, 1)).unflatten(0, (2, -1)), 0.5)
    loss.backward()
    ours = outcome(net, loss)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert theirs[name].float() == pytest.approx(value.float(), rel=1e-3, abs=1e-5), name
