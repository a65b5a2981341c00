"""Objectives in two processes over gloo: the gradient is that of one process with the whole batch, queues are equal."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional

from ssl_sat.methods import METHODS
from ssl_sat.methods.contract import Method

PATCHES, QUEUE, WORLD = 8, 20, 2
NAMES = ("barlow", "byol", "moco", "simsiam", "vicreg")


class Little(nn.Module):
    """An encoder without batch norm, which needs CUDA to be synchronised."""

    embed_dim = 12

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 12), nn.Tanh())

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return self.layers(x_NCHW)


def make(name: str) -> Method:
    """In float64; batch norm of the heads by its running statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        encoder = Little()
    values = {"name": name, "head_hidden": 10, "head_out": 6, **({"queue": QUEUE} if name == "moco" else {})}
    method = METHODS.build(METHODS.parse(values), encoder=encoder, seed=0).double().train()
    for module in method.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
    return method


def inputs(step: int) -> torch.Tensor:
    return torch.randn(2, PATCHES, 3, 4, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


class Step(nn.Module):
    """As the Lightning module: the loss is computed within DDP's forward."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, x_VNCHW: torch.Tensor) -> torch.Tensor:
        return self.method.loss(x_VNCHW)[0]


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    found = {}
    for name in NAMES:
        method = make(name)
        step = nn.parallel.DistributedDataParallel(Step(method))
        for number in range(3):  # twice round the queue
            step.zero_grad()
            loss = step(inputs(number).chunk(WORLD, dim=1)[rank])
            loss.backward()
            method.after_step(number + 1, 3)
        dist.all_reduce(mean := loss.detach() / WORLD)
        grads = {key: p.grad for key, p in method.named_parameters() if p.requires_grad}
        found[name] = {"loss": mean, "grads": grads, "state": method.state_dict()}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gloo")
    mp.spawn(worker, args=(str(path),), nprocs=WORLD)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_equal_one_with_the_whole_batch(folder, name):
    theirs, method = torch.load(folder / "0.pt")[name], make(name)
    for number in range(3):
        method.zero_grad()
        loss, _ = method.loss(inputs(number))
        loss.backward()
        method.after_step(number + 1, 3)
    assert theirs["loss"].item() == pytest.approx(loss.item(), rel=1e-9)
    for key, parameter in method.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(theirs["grads"][key], parameter.grad, rtol=1e-7, atol=1e-10)


def test_queues_are_equal_and_hold_the_keys_of_both(folder):
    ours, theirs = (torch.load(folder / f"{rank}.pt")["moco"]["state"] for rank in range(WORLD))
    assert torch.equal(ours["queue"], theirs["queue"]) and torch.equal(ours["position"], theirs["position"])
    assert ours["position"].item() == 3 * PATCHES % QUEUE
    method = make("moco")
    with torch.no_grad():
        keys = [functional.normalize(method.embed(inputs(number))[1], dim=1) for number in range(3)]
    expected = torch.cat(keys)  # the networks did not move: no optimiser
    held = torch.cat([expected[QUEUE:], expected[3 * PATCHES - QUEUE : QUEUE]])
    torch.testing.assert_close(ours["queue"], held.to(ours["queue"].dtype))
