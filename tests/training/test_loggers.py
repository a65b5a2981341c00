"""metrics.csv stays exact; further loggers come by configuration and are missed before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from ssl_sat.spec import ConfigError
from ssl_sat.training import loggers
from ssl_sat.training.callbacks import History, read_history
from ssl_sat.training.metrics_csv import MetricsCsv
from ssl_sat.training.spec import LoggerSpec, TrainerSpec


class Fake:
    """The part of a Trainer that History reads when it begins."""

    is_global_zero, global_step, train_dataloader = True, 4, None


def row(step: int, **values: float) -> dict:
    return {"phase": "", "epoch": 0, "step": step, **values}


def test_a_later_name_widens_the_table_and_a_cut_leaves_what_was_written(tmp_path):
    table = MetricsCsv(tmp_path / "metrics.csv")
    table.append([row(1, loss=0.5), row(2, loss=0.25)])
    table.append([row(2, knn=1.0)])
    table.append([row(3, loss=0.125)])
    assert (
        tmp_path / "metrics.csv"
    ).read_text() == "phase,epoch,step,loss,knn\n,0,1,0.5,\n,0,2,0.25,\n,0,2,,1.0\n,0,3,0.125,\n"
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write(",0,4,0.0")  # a kill has cut this line short
    again = MetricsCsv(tmp_path / "metrics.csv")
    again.cut(lambda line: line["step"] <= 2)
    again.append([row(3, loss=0.125)])
    assert (
        tmp_path / "metrics.csv"
    ).read_text() == "phase,epoch,step,loss,knn\n,0,1,0.5,\n,0,2,0.25,\n,0,2,,1.0\n,0,3,0.125,\n"


def test_a_line_that_a_kill_has_cut_short_does_not_swallow_the_next_one(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text("".join(json.dumps(row(step, loss=1.0)) + "\n" for step in (1, 2, 3, 4)) + '{"phase": "", "ep')
    history = History(path, 1)
    history.on_train_start(Fake(), None)  # type: ignore[arg-type]
    with path.open("a") as file:
        file.write(json.dumps(row(5, loss=1.0)) + "\n")
    assert [line["step"] for line in read_history(path)] == [1, 2, 3, 4, 5]


def test_a_missing_package_and_a_wrong_class_are_one_clear_error(tmp_path: Path):
    for logger, message in [
        ({"class_path": "no_such_package.Logger"}, "needs 'no_such_package'"),
        ({"class_path": "collections.OrderedDict"}, "is no Lightning logger"),
        ({"class_path": "pytorch_lightning.loggers.CSVLogger", "options": {"nonsense": 1}}, "nonsense"),
    ]:
        spec = TrainerSpec(loggers=(LoggerSpec.model_validate(logger),))
        with pytest.raises(ConfigError, match=message):
            loggers.build(spec, tmp_path, "", None)
    with pytest.raises(ConfigError, match="needs 'no_such_package'"):  # before any work
        loggers.check(TrainerSpec.parse({"loggers": [{"class_path": "no_such_package.Logger"}]}))
    with pytest.raises(ConfigError, match=r"a name .* or a class_path, and not both"):
        TrainerSpec.parse({"loggers": [{"name": "wandb", "class_path": "a.B"}]})


def test_one_of_ones_own_is_built_beside_tensorboard(tmp_path: Path):
    own = {"class_path": "pytorch_lightning.loggers.CSVLogger", "options": {"save_dir": str(tmp_path)}}
    spec = TrainerSpec.parse({"loggers": [own]})
    built = loggers.build(spec, tmp_path, "head", 12)
    assert [type(logger) for logger in built] == [TensorBoardLogger, CSVLogger]
    assert built[0]._kwargs["purge_step"] == 13  # what it holds beyond the checkpoint is written again
    assert spec.science() == TrainerSpec().science()
