"""One, two and four processes over gloo see the loss and the parameter gradients of one with the whole batch."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from ssl_sat.losses.dcl import dcl
from ssl_sat.losses.nt_xent import nt_xent

PAIRS = 24
WORLDS = (4, 2, 1)
CASES = {
    f"{loss.__name__}-{temperature}-{views}": (loss, temperature, views)
    for loss in (nt_xent, dcl)
    for temperature in (0.02, 0.5)  # running and constant maximum
    for views in (2, 3)
}


def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 16))  # no batch norm: it needs CUDA to sync


def inputs(views: int) -> torch.Tensor:
    return torch.randn(views, PAIRS, 10, generator=torch.Generator().manual_seed(4))


def worker(rank: int, folder: str) -> None:
    """Ranks 0 to world - 1 form a group of their own, for each world in turn: starting processes costs the most."""
    torch.set_num_threads(1)
    for world in WORLDS:
        if rank < world:
            dist.init_process_group("gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world)
            result = measured(rank, world)
            if rank == 0:
                torch.save(result, f"{folder}/{world}.pt")
            dist.destroy_process_group()


def measured(rank: int, world: int) -> dict:
    result: dict = {"world": world}
    for name, (loss_of, temperature, views) in CASES.items():
        x_VNF = inputs(views).chunk(world, dim=1)[rank]
        net = nn.parallel.DistributedDataParallel(model())
        loss = loss_of(net(x_VNF.flatten(0, 1)).unflatten(0, x_VNF.shape[:2]), temperature, gather=True)
        loss.backward()
        dist.all_reduce(mean := loss.detach() / world)
        result[name] = {"loss": mean, "grads": [p.grad for p in net.parameters()]}
    try:
        nt_xent(torch.randn(2, 3 + rank, 4), 0.5, gather=True)
    except ValueError as error:
        result["refusal"] = str(error)
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gloo")
    mp.spawn(worker, args=(str(path),), nprocs=max(WORLDS))
    return path


@pytest.fixture(scope="module", params=WORLDS)
def processes(request: pytest.FixtureRequest, folder: Path) -> dict:
    return torch.load(folder / f"{request.param}.pt")


@pytest.mark.parametrize("name", CASES)
def test_processes_equal_one_with_the_whole_batch(processes: dict, name: str) -> None:
    loss_of, temperature, views = CASES[name]
    net = model()
    loss = loss_of(net(inputs(views).flatten(0, 1)).unflatten(0, (views, PAIRS)), temperature)
    loss.backward()
    assert processes[name]["loss"].item() == pytest.approx(loss.item(), rel=1e-6)
    for theirs, parameter in zip(processes[name]["grads"], net.parameters(), strict=True):
        scale = max(parameter.grad.abs().max().item(), 1.0)
        assert (theirs - parameter.grad).abs().max() <= 1e-6 * scale


def test_unequal_batches_are_refused(processes: dict) -> None:
    if processes["world"] > 1:
        assert "equal batches" in processes["refusal"]
    else:
        assert "refusal" not in processes
