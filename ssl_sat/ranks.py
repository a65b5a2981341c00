"""Processes of a distributed run: which of them writes, and how what it decides reaches the others.

Every process runs the whole command. Were each to resolve `latest` or the newest pack by itself, two of them could
choose differently while a third command finishes; so the main process decides and the others are told.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

_INHERITED = "SSL_SAT_AGREED"  # JSON, name -> value, for processes that the main process starts
_seen: Counter[str] = Counter()


def is_main_process() -> bool:
    """Whether this is the process of a distributed run that writes (the only one, without a launcher).

    RANK (torchrun) decides where it is set. Otherwise Slurm's and Lightning's variables must all be 0: processes that
    Lightning starts inside one Slurm task have SLURM_PROCID=0 in common, and the first of each node LOCAL_RANK=0.
    """
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"))


def started_by_main() -> bool:
    """Whether Lightning started this process from the main one (and not torchrun or srun)."""
    return "RANK" not in os.environ and not is_main_process() and _INHERITED in os.environ


def agreed(name: str, decide: Callable[[], Any], folder: Path) -> Any:
    """Return on every process what `decide` (JSON-ready) returns on the main one.

    It travels through the process group where there is one already, through the environment to processes that
    Lightning starts, through the store of torchrun's agent, and through a file in `folder` between the tasks of one
    srun. Under any other launcher each process decides for itself; training then compares the outcomes.
    """
    _seen[name] += 1
    key = f"{name}-{_seen[name]}"
    if _has_group():
        return _broadcast(decide)
    if is_main_process():
        return _decided(name, key, decide, folder)
    if "TORCHELASTIC_USE_AGENT_STORE" in os.environ:
        return json.loads(_torchrun_store().get(_in_store(key)))
    if _srun_file(folder, key) is not None:
        return _read(_srun_file(folder, key))
    inherited = json.loads(os.environ.get(_INHERITED, "{}"))
    return inherited[name] if name in inherited else decide()


def _decided(name: str, key: str, decide: Callable[[], Any], folder: Path) -> Any:
    """Decide as the main process and tell the others."""
    file = _srun_file(folder, key)
    try:
        value = decide()
    except BaseException:
        if file is not None:
            _write(file, {"failed": True})
        raise
    os.environ[_INHERITED] = json.dumps({**json.loads(os.environ.get(_INHERITED, "{}")), name: value})
    if "TORCHELASTIC_USE_AGENT_STORE" in os.environ:
        _torchrun_store().set(_in_store(key), json.dumps(value))
    elif file is not None:
        _write(file, {"value": value})
        atexit.register(file.unlink, missing_ok=True)
    return value


def _has_group() -> bool:
    torch: Any = sys.modules.get("torch")
    return torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()


def _broadcast(decide: Callable[[], Any]) -> Any:
    import torch.distributed as dist

    box = [decide() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _torchrun_store() -> Any:
    """A client of the store that torchrun's agent keeps; a key is waited for as long as packing may take."""
    from datetime import timedelta

    import torch.distributed as dist

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(address, port, is_master=False, timeout=timedelta(days=7))


def _in_store(key: str) -> str:
    return f"ssl_sat/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{key}"


def _srun_file(folder: Path, key: str) -> Path | None:
    """A file that only the tasks of this job step know; None where srun did not start several of them."""
    if "RANK" in os.environ or "SLURM_STEP_ID" not in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) < 2:
        return None
    job = [os.environ.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")]
    return folder / ".ranks" / f"{'.'.join(job)}.{key.replace(' ', '_')}.json"


def _write(file: Path, data: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(data))
    os.replace(temporary, file)


def _read(file: Path | None) -> Any:
    assert file is not None
    while not file.exists():
        time.sleep(0.2)
    data = json.loads(file.read_text())
    if "failed" in data:
        raise SystemExit(2)  # the main process has said why
    return data["value"]
