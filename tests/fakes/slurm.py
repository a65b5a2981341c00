"""One-machine Slurms for tests: Debian's slurm-wlm with a configuration of its own where it is installed, and a
stand-in of five small scripts that keep jobs in a folder. The stand-in knows what `ssl_sat.graph.slurm` asks and no
more: it shows that our side is sound, not that Slurm understands it; that is what the other one is for.
"""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

_COMMON = """
import os, re, signal, subprocess, sys, time
from pathlib import Path
JOBS = Path(os.environ["STANDIN_SLURM"])

def put(job, name, text):
    (JOBS / job / f".{name}").write_text(str(text))
    os.replace(JOBS / job / f".{name}", JOBS / job / name)

def get(job, name):
    path = JOBS / job / name
    return path.read_text() if path.exists() else ""
"""
_SCRIPTS = {
    "sbatch": """
    if (JOBS / "refuse-once").exists():
        (JOBS / "refuse-once").unlink()
        sys.exit("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation")
    script = Path(sys.argv[-1]).read_text()
    option = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", script, re.M))
    job = str(100 + len(list(JOBS.glob("[0-9]*"))))
    (JOBS / job).mkdir()
    put(job, "name", option["job-name"]); put(job, "output", option["output"]); put(job, "script", script)
    put(job, "state", "PENDING")
    runner = subprocess.Popen([sys.executable, "-S", str(Path(sys.argv[0]).with_name("runner")), job],
                              start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    put(job, "pid", runner.pid)
    print(job)
    """,
    "runner": """
    job = sys.argv[1]
    put(job, "state", "RUNNING")
    env = {**os.environ, "SLURM_JOB_ID": job, "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "here"}
    with open(get(job, "output"), "a") as output:
        status = subprocess.run(["bash", "-c", get(job, "script")], env=env, stdout=output, stderr=output).returncode
    if get(job, "state") == "RUNNING":
        put(job, "state", "FAILED" if status else "COMPLETED")
    """,
    "squeue": """
    for folder in sorted(JOBS.glob("[0-9]*")):
        print("|".join([folder.name, get(folder.name, "state"), "None", get(folder.name, "name")]))
    """,
    "scancel": """
    job = sys.argv[1]
    put(job, "state", "CANCELLED")
    os.killpg(int(get(job, "pid")), signal.SIGTERM)
    """,
    "scontrol": """
    print("here" if "hostnames" in sys.argv else "AccountingStorageType   = accounting_storage/none")
    """,
    "srun": """
    words = sys.argv[1:]
    while words[0].startswith("--"):
        words.pop(0)
    os.execvp(words[0], words)
    """,
}


class StandIn:
    """Scripts of the names of Slurm's commands; jobs are folders."""

    name = "stand-in"

    def __init__(self, folder: Path) -> None:
        self.jobs = folder / "jobs"
        self.jobs.mkdir(parents=True)
        for name, text in _SCRIPTS.items():
            path = folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!{sys.executable} -S\n{_COMMON}{textwrap.dedent(text)}")
            path.chmod(0o755)
        self.env = {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "STANDIN_SLURM": str(self.jobs)}

    def refuse_once(self) -> None:
        """The next sbatch times out."""
        (self.jobs / "refuse-once").touch()

    def lose_machine(self, job: str) -> None:
        """The job's machine is gone, with all that ran on it."""
        (self.jobs / job / "state").write_text("NODE_FAIL")
        os.killpg(int((self.jobs / job / "pid").read_text()), signal.SIGKILL)

    def stop(self) -> None:
        """End what still runs."""
        for pid in self.jobs.glob("*/pid"):
            try:
                os.killpg(int(pid.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                continue


def programs() -> dict[str, str] | None:
    """Paths of Slurm's daemons; None where one of them is not installed."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    names = ("munged", "slurmctld", "slurmd", "slurmstepd", "sbatch", "squeue", "scancel", "srun")
    found = {name: shutil.which(name, path=path) for name in names}
    return None if None in found.values() else found


class SlurmWlm:
    """The daemons of slurm-wlm as processes of this user, on ports and in a folder of their own; no slurmdbd."""

    name = "slurm-wlm"

    def __init__(self, folder: Path) -> None:
        self.paths, self.folder = programs(), folder
        self.daemons: list[subprocess.Popen] = []
        folder.mkdir(parents=True)
        (folder / "slurm.conf").write_text(self._conf())
        self.env = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": os.environ["PATH"]}
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        folder = self.folder
        munge = [f"--{name}-file={folder / f'munge.{name}'}" for name in ("pid", "log", "seed", "key")]
        self._run("munged", "--force", "--foreground", f"--socket={folder / 'munge.socket'}", *munge)
        self._until(lambda: (folder / "munge.socket").exists(), "munged")
        self._run("slurmctld", "-D", "-i")
        self._run("slurmd", "-D", "-d", self.paths["slurmstepd"])
        self._until(lambda: "idle" in self.ask("sinfo", "--noheader", "--format=%T"), "slurmd")

    def _conf(self) -> str:
        host, user = socket.gethostname().split(".")[0], pwd.getpwuid(os.getuid()).pw_name
        ports = [_free_port(), _free_port()]
        plugins = next((p.parent for p in self._libraries()), None)
        return textwrap.dedent(f"""
            ClusterName=test
            SlurmctldHost={host}(127.0.0.1)
            SlurmUser={user}
            SlurmdUser={user}
            AuthInfo=socket={self.folder / "munge.socket"}
            {f"PluginDir={plugins}" if plugins else ""}
            SlurmctldPort={ports[0]}
            SlurmdPort={ports[1]}
            StateSaveLocation={self.folder / "state"}
            SlurmdSpoolDir={self.folder / "spool"}
            SlurmctldPidFile={self.folder / "slurmctld.pid"}
            SlurmdPidFile={self.folder / "slurmd.pid"}
            SlurmctldLogFile={self.folder / "slurmctld.log"}
            SlurmdLogFile={self.folder / "slurmd.log"}
            ProctrackType=proctrack/linuxproc
            TaskPlugin=task/none
            MpiDefault=none
            SelectType=select/cons_tres
            SelectTypeParameters=CR_CPU
            ReturnToService=2
            KillWait=5
            NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory=512
            PartitionName=all Nodes=ALL Default=YES State=UP
        """)

    def _libraries(self) -> list[Path]:
        return list(Path(self.paths["slurmctld"]).resolve().parents[1].glob("lib/*/slurm*/auth_munge.so"))

    def _run(self, name: str, *options: str) -> None:
        with (self.folder / f"{name}.out").open("w") as output:
            env = {**os.environ, **self.env}
            line = [self.paths[name], *options]
            self.daemons.append(subprocess.Popen(line, env=env, stdout=output, stderr=output, start_new_session=True))

    def _until(self, ready, name: str) -> None:
        end = time.monotonic() + 120
        while not ready():
            words = "".join(path.read_text(errors="replace")[-500:] for path in self.folder.glob(f"{name}*.[lo]*"))
            assert time.monotonic() < end and all(d.poll() is None for d in self.daemons), f"{name}: {words}"
            time.sleep(0.1)

    def ask(self, *line: str) -> str:
        """What a command of Slurm prints."""
        return subprocess.run(line, env={**os.environ, **self.env}, capture_output=True, text=True).stdout

    def stop(self) -> None:
        """End jobs and daemons."""
        for job in re.findall(r"\d+", self.ask("squeue", "--noheader", "--format=%i")):
            self.ask("scancel", "--signal=KILL", job)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
