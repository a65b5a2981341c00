"""NT-Xent against lightly's NTXentLoss: time, peak memory, and across two gloo processes.

    python -m benchmarks.loss [--quick] [--threads 1]

Both sides take the same float32 embeddings (2, N, 128) and give loss and gradient. Before anything is timed, loss and
gradient must agree with each other and with float64.

Legend: M = 2N embeddings, D features.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from benchmarks import harness
from benchmarks.harness import Bench, Gate, Task, ratios
from benchmarks.memory import peak_bytes
from ssl_sat.losses.nt_xent import nt_xent

D, TEMPERATURE, WORLD = 128, 0.1, 2
_PEER = "lightly NTXentLoss"
_NEEDS = ("lightly",)
GATES = (
    Gate("NT-Xent time, 2N = 8,192", 4.0, ">=", "x faster", _PEER, _NEEDS, on_cuda=2.0),
    Gate("NT-Xent peak memory, 2N = 8,192", 20.0, ">=", "x less", _PEER, _NEEDS),
    Gate("NT-Xent peak memory, 2N = 16,384", 40.0, ">=", "x less", _PEER, _NEEDS),
    Gate("NT-Xent memory when 2N doubles (8,192 to 16,384)", 2.2, "<=", "x", "itself at half the batch"),
    Gate("NT-Xent peak memory, 2N = 65,536", 300.0, "<=", "MB", "a fixed bound"),
    Gate("NT-Xent gradient error, one process", 1e-6, "<=", "absolute", "float64 over the same embeddings"),
    Gate("NT-Xent gradient error, 2 processes", 1e-6, "<=", "absolute", "float64 in one process"),
    Gate("NT-Xent time, 2 gloo processes", 1.5, ">=", "x faster", f"{_PEER}, gathered", _NEEDS),
)


def embeddings(rows: int, device: str) -> Tensor:
    """(2, M / 2, D), the two views of a pair near each other, as during training."""
    generator = torch.Generator().manual_seed(rows)
    base = torch.randn(1, rows // 2, D, generator=generator)
    return (base + 0.5 * torch.randn(2, rows // 2, D, generator=generator)).to(device).requires_grad_()


def ours(rows: int, device: str) -> Callable[[], tuple[Tensor, Tensor]]:
    """Loss and gradient by ssl_sat."""
    z = embeddings(rows, device)
    return lambda: _with_gradient(nt_xent(z, TEMPERATURE), z)


def lightly(rows: int, device: str) -> Callable[[], tuple[Tensor, Tensor]]:
    """The same by lightly."""
    from lightly.loss import NTXentLoss

    z, criterion = embeddings(rows, device), NTXentLoss(TEMPERATURE)
    return lambda: _with_gradient(criterion(z[0], z[1]), z)


def _with_gradient(loss: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    return loss.detach(), torch.autograd.grad(loss, z)[0]


def oracle(z_VND: Tensor) -> tuple[Tensor, Tensor]:
    """Equation 1 of SimCLR in float64, the whole matrix at once."""
    z = z_VND.detach().double().requires_grad_()
    u = torch.nn.functional.normalize(z.flatten(0, 1), dim=-1)
    logits = (u @ u.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(u), device=u.device).roll(len(u) // 2)
    return _with_gradient(torch.nn.functional.cross_entropy(logits, partner), z)


def run(bench: Bench, folder: Path) -> None:
    """Correctness, time, memory, two processes."""
    _correct(bench)
    sizes = [512, 1024] if bench.quick else [512, 2048, 8192, 16384]
    if bench.device == "cuda" and not bench.quick:
        sizes.append(32768)
    has_peer = bench.can(*(gate.name for gate in GATES if gate.needs))
    for rows in sizes:
        tasks = {f"ours, 2N = {rows:,}": Task(1, ours(rows, bench.device))}
        if has_peer:
            tasks[f"lightly, 2N = {rows:,}"] = Task(1, lightly(rows, bench.device))
        # 16,384 takes lightly many seconds a call on one core; the gate on time is at 8,192
        times = bench.time(tasks, rounds=min(bench.rounds, 3) if rows > 8192 and bench.device == "cpu" else None)
        if has_peer:
            found = ratios(times, f"lightly, 2N = {rows:,}", f"ours, 2N = {rows:,}")
            name = f"NT-Xent time, 2N = {rows:,}"
            bench.gate(name, found) if rows == 8192 else bench.figure(name, found, "x faster", f"against {_PEER}")
    _memory(bench, sizes, has_peer)
    _two_processes(bench, has_peer)


def _correct(bench: Bench) -> None:
    z = embeddings(512, bench.device)
    truth, truth_grad = oracle(z)
    loss, grad = ours(512, bench.device)()
    if abs(loss.item() - truth.item()) > 1e-5:
        raise AssertionError(f"our loss is {loss.item()}, float64 gives {truth.item()}: nothing to time")
    bench.gate("NT-Xent gradient error, one process", _error(grad, truth_grad), "of the summed loss, 2N = 512")
    if not GATES[0].absent():
        theirs = lightly(512, bench.device)()[1]
        bench.figure("NT-Xent gradient error, lightly", _error(theirs, truth_grad), "absolute", "the same measure")


def _error(grad: Tensor, truth: Tensor) -> float:
    """Largest difference of the summed loss's gradient: that of the mean would shrink with the batch by itself."""
    return ((grad.double() - truth).abs().max() * truth.shape[0] * truth.shape[1]).item()


def _memory(bench: Bench, sizes: list[int], has_peer: bool) -> None:
    room = torch.cuda.mem_get_info()[0] if bench.device == "cuda" else harness.free_memory()
    wanted = {"ours": [*sizes, bench.size(65536, 2048)]}
    if has_peer:
        wanted["lightly"] = [rows for rows in sizes if 6 * 4 * rows**2 < room]  # about six float32 matrices of M x M
    peaks: dict[tuple[str, int], int] = {}
    for side, asked in wanted.items():
        for rows, peak in peak_bytes(f"benchmarks.loss:{side}", asked, bench.device, bench.threads).items():
            peaks[side, rows] = peak
            print(f"  {peak / 1e6:14,.1f} MB  {side}, 2N = {rows:,}", flush=True)
            bench.figure(f"NT-Xent peak memory, 2N = {rows:,}, {side}", peak / 1e6, "MB")
    for rows in (8192, 16384):
        if ("lightly", rows) in peaks and ("ours", rows) in peaks:
            bench.gate(f"NT-Xent peak memory, 2N = {rows:,}", peaks["lightly", rows] / peaks["ours", rows])
    if ("ours", 16384) in peaks:
        bench.gate(GATES[3].name, peaks["ours", 16384] / peaks["ours", 8192])
    if ("ours", 65536) in peaks:
        bench.gate(GATES[4].name, peaks["ours", 65536] / 1e6)


def _two_processes(bench: Bench, has_peer: bool) -> None:
    """Two CPU processes over gloo; on CUDA too, where several devices would be needed otherwise."""
    rows = bench.size(8192, 512)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_worker, args=(folder, rows, bench.rounds, has_peer, bench.threads), nprocs=WORLD)
        found = torch.load(f"{folder}/found.pt")
    _, truth_grad = oracle(embeddings(512, "cpu"))
    bench.gate(GATES[6].name, _error(found["grad"], truth_grad))
    if has_peer:
        note = f"2N = {rows:,} over {WORLD} processes, gathering included"
        cores = len(os.sched_getaffinity(0)) // bench.threads
        bench.gate(GATES[7].name, found["ratios"], note + (f"; only {cores} core for both" if cores < WORLD else ""))
        print(f"  {statistics.median(found['ratios']):14,.2f} x   ours / lightly, {note}")


def _worker(rank: int, folder: str, rows: int, rounds: int, has_peer: bool, threads: int) -> None:
    torch.set_num_threads(threads)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    tasks = {"ours": Task(1, _share(rank, rows, _ours_gathered))}
    if has_peer:
        from lightly.loss import NTXentLoss

        criterion = NTXentLoss(TEMPERATURE, gather_distributed=True)
        tasks["lightly"] = Task(1, _share(rank, rows, lambda z: criterion(z[0], z[1])))

    def together(call: Callable[[], object]) -> float:
        dist.barrier()
        return harness.wall_seconds(lambda: (call(), dist.barrier()))

    times = harness.interleaved(tasks, rounds, together)
    # DDP averages over processes: the local gradients divided by WORLD are those of the global loss
    grad = _share(rank, 512, _ours_gathered)()[1] / WORLD
    parts = [torch.empty_like(grad) for _ in range(WORLD)]
    dist.all_gather(parts, grad.contiguous())
    if rank == 0:
        speed = ratios(times, "lightly", "ours") if has_peer else []
        torch.save({"grad": torch.cat(parts, dim=1), "ratios": speed}, f"{folder}/found.pt")
    dist.destroy_process_group()


def _ours_gathered(z: Tensor) -> Tensor:
    return nt_xent(z, TEMPERATURE, gather=True)


def _share(rank: int, rows: int, loss: Callable[[Tensor], Tensor]) -> Callable[[], tuple[Tensor, Tensor]]:
    """Loss and gradient of this process's pairs."""
    pairs = rows // 2 // WORLD
    z = embeddings(rows, "cpu").detach()[:, rank * pairs : (rank + 1) * pairs].clone().requires_grad_()
    return lambda: _with_gradient(loss(z), z)


if __name__ == "__main__":
    harness.main("loss", __doc__, GATES, run)
