"""Who decides, how many run, and what is refused, without starting any process."""

from __future__ import annotations

import copy
import json
import socket
from datetime import timedelta
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import nn

from ssl_sat import ranks
from ssl_sat.spec import ConfigError
from ssl_sat.training import distribution
from ssl_sat.training.spec import TrainerSpec

LAUNCHERS = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_ID",
             "TORCHELASTIC_USE_AGENT_STORE", "SSL_SAT_AGREED")  # fmt: skip


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ranks, "_seen", ranks.Counter())


def not_asked():
    raise AssertionError("only the main process decides")


def as_rank(monkeypatch, **variables) -> None:
    """The next call is that of another process, which counts for itself."""
    monkeypatch.setattr(ranks, "_seen", ranks.Counter())
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_process_that_lightning_starts_inherits_what_the_main_one_decided(monkeypatch, tmp_path):
    assert ranks.agreed("inputs", lambda: {"data": "a"}, tmp_path) == {"data": "a"}
    as_rank(monkeypatch, LOCAL_RANK="1")
    assert ranks.agreed("inputs", not_asked, tmp_path) == {"data": "a"}
    assert ranks.started_by_main()
    assert ranks.agreed("other", lambda: "own", tmp_path) == "own"


def test_tasks_of_one_srun_read_it_from_a_file_of_their_job_step(monkeypatch, tmp_path):
    job = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"}
    as_rank(monkeypatch, SLURM_PROCID="0", **job)
    assert ranks.agreed("inputs of pretrain", lambda: ["x"], tmp_path) == ["x"]
    monkeypatch.delenv("SSL_SAT_AGREED")
    as_rank(monkeypatch, SLURM_PROCID="1")
    assert ranks.agreed("inputs of pretrain", not_asked, tmp_path) == ["x"]

    as_rank(monkeypatch, SLURM_PROCID="0", SLURM_RESTART_COUNT="1")  # requeued: the old file is not read
    with pytest.raises(ConfigError):
        ranks.agreed("inputs of pretrain", lambda: (_ for _ in ()).throw(ConfigError("no such pack")), tmp_path)
    as_rank(monkeypatch, SLURM_PROCID="1")
    with pytest.raises(SystemExit):  # the main process has said why
        ranks.agreed("inputs of pretrain", not_asked, tmp_path)


def test_processes_of_torchrun_ask_the_store_of_its_agent(monkeypatch, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    agent = dist.TCPStore("localhost", port, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=20))
    launched = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    as_rank(monkeypatch, RANK="0", **launched)
    assert ranks.agreed("inputs", lambda: {"data": "a"}, tmp_path) == {"data": "a"}
    monkeypatch.delenv("SSL_SAT_AGREED")
    as_rank(monkeypatch, RANK="1")
    assert ranks.agreed("inputs", not_asked, tmp_path) == {"data": "a"}
    assert json.loads(agent.get("ssl_sat/0/inputs-1")) == {"data": "a"}


def test_torchruns_number_is_taken_and_another_one_refused(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert distribution.devices(TrainerSpec(num_nodes=2)) == 2
    assert distribution.devices(TrainerSpec(num_nodes=2, devices=2)) == 2
    for wrong in (TrainerSpec(), TrainerSpec(devices=4), TrainerSpec(devices=3, num_nodes=2)):
        with pytest.raises(ConfigError, match=r"torchrun started 4 processes, 2 on this node; set trainer.num_nodes=2"):
            distribution.devices(wrong)


def test_the_world_is_the_one_that_was_asked_for():
    trainer = SimpleNamespace(world_size=1)
    distribution.check_world(trainer, TrainerSpec(devices=1))
    with pytest.raises(
        ConfigError, match=r"trainer.devices=8 on trainer.num_nodes=4 was asked for, but 1 processes run"
    ):
        distribution.check_world(trainer, TrainerSpec(devices=8, num_nodes=4))


def test_batch_norm_between_processes_on_the_cpu_is_refused_unless_it_is_frozen_or_off():
    cpu = SimpleNamespace(world_size=2, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with pytest.raises(ConfigError, match="1 batch norm layers cannot be synchronised between 2 processes on the cpu"):
        distribution.check_batch_norm(cpu, net, TrainerSpec())
    distribution.check_batch_norm(cpu, net, TrainerSpec(sync_batchnorm=False))
    distribution.check_batch_norm(cpu, net.requires_grad_(False), TrainerSpec())
    assert TrainerSpec().science() != TrainerSpec(sync_batchnorm=False).science()


def test_synchronised_batch_norm_keeps_activations_and_parameters_and_is_made_once():
    net = nn.Sequential(nn.Conv2d(2, 3, 1), BatchNormAct2d(3), nn.BatchNorm2d(3)).eval()
    x_NCHW = torch.randn(2, 2, 4, 4)
    expected, weights = net(x_NCHW), [id(p) for p in net.parameters()]
    assert not torch.equal(nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))(x_NCHW), expected)  # torch's
    plugin = distribution.SyncedBatchNorm()
    synced = plugin.apply(plugin.apply(net))
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in synced.modules()) == 2
    assert torch.equal(synced(x_NCHW), expected)
    assert [id(p) for p in synced.parameters()] == weights


def test_lightning_still_has_what_is_switched_off():
    """Its broadcast in every step, which makes the host wait for the device; Survival does what it is for."""
    assert callable(pl.Trainer(accelerator="cpu", logger=False).fit_loop.epoch_loop._broadcast_sigterm_tensor)
