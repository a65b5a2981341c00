"""Two processes over gloo see the loss and the parameter gradients of one process with the whole batch."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from ssl_sat.losses.nt_xent import nt_xent

PAIRS, WORLD = 24, 2
TEMPERATURES = (0.02, 0.5)  # running and constant maximum


def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 16))  # no batch norm: it needs CUDA to sync


def views() -> torch.Tensor:
    return torch.randn(2, PAIRS, 10, generator=torch.Generator().manual_seed(4))


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    x_VNF = views().chunk(WORLD, dim=1)[rank]
    result: dict = {}
    for temperature in TEMPERATURES:
        net = nn.parallel.DistributedDataParallel(model())
        loss = nt_xent(net(x_VNF.flatten(0, 1)).view(2, PAIRS // WORLD, -1), temperature, gather=True)
        loss.backward()
        dist.all_reduce(mean := loss.detach() / WORLD)
        result[temperature] = {"loss": mean, "grads": [p.grad for p in net.parameters()]}
    try:
        nt_xent(torch.randn(2, 3 + rank, 4), 0.5, gather=True)
    except ValueError as error:
        result["refusal"] = str(error)
    if rank == 0:
        torch.save(result, f"{folder}/out.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("gloo")
    mp.spawn(worker, args=(str(folder),), nprocs=WORLD)
    return torch.load(folder / "out.pt")


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_two_processes_equal_one(two_processes: dict, temperature: float) -> None:
    net = model()
    loss = nt_xent(net(views().flatten(0, 1)).view(2, PAIRS, -1), temperature)
    loss.backward()
    assert two_processes[temperature]["loss"].item() == pytest.approx(loss.item(), rel=1e-6)
    for theirs, parameter in zip(two_processes[temperature]["grads"], net.parameters(), strict=True):
        scale = max(parameter.grad.abs().max().item(), 1.0)
        assert (theirs - parameter.grad).abs().max() <= 1e-6 * scale


def test_unequal_batches_are_refused(two_processes: dict) -> None:
    assert "equal batches" in two_processes["refusal"]
