"""How nodes are started: here, on this machine's GPUs, or by Slurm. Nothing of it changes a result."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from ssl_sat.graph.resources import Resources
from ssl_sat.spec import ConfigError, Spec

FILE = "launch.json"


class SlurmSpec(Spec):
    """What a site wants of a job beside its resources; options are further ones of sbatch, setup lines of its script.

    poll_s: seconds between two looks at the queue, one for all nodes together.
    """

    account: str | None = None
    qos: str | None = None
    options: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    poll_s: float = Field(10.0, gt=0)


class LaunchSpec(Spec):
    """jobs: nodes at the same time (null: one; as many as GPUs; 32 under Slurm). gpus: which; null, all visible.

    retries: further attempts at a node that ended by something transient (`endings`), after pause_s, 2 pause_s, ...
    """

    launch: Literal["local", "gpus", "slurm"] = "local"
    jobs: int | None = Field(None, ge=1)
    gpus: tuple[str, ...] | None = None
    retries: int = Field(2, ge=0)
    pause_s: float = Field(10.0, ge=0)
    resources: dict[str, Resources] = Field(default_factory=dict)
    slurm: SlurmSpec = SlurmSpec()

    @field_validator("gpus", mode="before")
    @classmethod
    def _as_texts(cls, value: Any) -> Any:
        if value is None:
            return None
        return tuple(str(item) for item in (value if isinstance(value, (list, tuple)) else [value]))

    def resolved(self) -> LaunchSpec:
        """With the number of jobs and the GPUs of this machine; ConfigError where gpus are asked for and none found."""
        own = {name: getattr(self, name) for name in LaunchSpec.model_fields}
        if self.launch == "gpus":
            own["gpus"] = self.gpus or visible_gpus()
            if not own["gpus"]:
                raise ConfigError("launch=gpus: no GPU is visible here; choose launch=local, or name them: gpus=[0,1]")
        return LaunchSpec(**{**own, "jobs": self.at_a_time()})

    def at_a_time(self) -> int:
        """How many nodes run at the same time; one where launch=gpus finds no GPU, as in a dry run elsewhere."""
        gpus = len(self.gpus or visible_gpus()) if self.launch == "gpus" else 0
        return self.jobs or {"local": 1, "gpus": max(1, gpus), "slurm": 32}[self.launch]

    def write(self, folder: Path) -> None:
        """Leave them for the processes of the nodes."""
        (folder / FILE).write_text(self.model_dump_json())


def read_settings(folder: Path) -> LaunchSpec:
    """The settings of the run under way in a plan's folder."""
    return LaunchSpec.model_validate_json((folder / FILE).read_text())


def visible_gpus() -> tuple[str, ...]:
    """Ids of the GPUs that CUDA would see, asked of the environment or the driver, without torch."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return tuple(part.strip() for part in said.split(",") if part.strip() not in ("", "-1"))
    if shutil.which("nvidia-smi") is None:
        return ()
    line = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        found = subprocess.run(line, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(found.stdout.split()) if found.returncode == 0 else ()
