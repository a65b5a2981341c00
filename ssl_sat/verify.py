"""Verify an artifact: are its files as they were written, and does it follow from its config and inputs?

    python -m ssl_sat.verify outputs/finetune/latest
    python -m ssl_sat.verify outputs/finetune/latest --replay     # run the stage again, compare to the bit

Checked: the sha256 of every file, the inputs with their fingerprints, and the fingerprint recomputed from config,
versions and inputs. A replay compares metrics.json and all weights byte for byte; it needs the same versions and
number of threads. Status 0 when all is well, 1 when something is wrong, 2 when there is no artifact to look at.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_sat.artifact import Artifact, Ref
    from ssl_sat.stage import Stage


_ARRAYS = (".safetensors", ".npy", ".bin")  # weights, predictions, packed patches


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `state` is ok, WRONG, note or skipped."""

    state: str
    text: str


def verify(path: str | os.PathLike[str], replay: bool = False) -> list[Finding]:
    """Check the artifact at `path`; MissingInput when there is none."""
    from ssl_sat.artifact import Artifact

    artifact = Artifact.open(path)
    refs, findings = _inputs(artifact)
    findings = [*_files(artifact), *findings, _fingerprint(artifact, refs), *_code(artifact)]
    if replay and any(finding.state == "WRONG" for finding in findings):
        findings.append(Finding("skipped", "replay: nothing to compare with until the above is mended"))
    elif replay:
        findings += _replay(artifact, refs)
    return findings


def _files(artifact: Artifact) -> list[Finding]:
    damaged = artifact.damaged()
    count = len(artifact.json("files.json"))
    return [Finding("WRONG", f"file {line}") for line in damaged] or [Finding("ok", f"{count} files have their sha256")]


def _inputs(artifact: Artifact) -> tuple[dict[str, Ref], list[Finding]]:
    """Open the recorded inputs; those that were moved are looked for by fingerprint."""
    from ssl_sat.artifact import Artifact, find
    from ssl_sat.spec import UserError

    outputs = artifact.path.parent.parent
    refs, findings = {}, []
    for slot, fingerprint in artifact.record["inputs"].items():
        recorded = outputs / artifact.record["input_paths"][slot]
        try:
            found = Artifact.open(recorded)
            if found.fingerprint != fingerprint:
                found = find(found.stage, fingerprint, outputs)
            refs[slot] = found.ref
            findings.append(_input(artifact, slot, found))
        except UserError as error:
            findings.append(Finding("WRONG", f"input {slot} ({fingerprint[:8]}): {error}"))
    return refs, findings


def _input(artifact: Artifact, slot: str, found: Artifact) -> Finding:
    """Whether an input still holds what went in; of one that is younger what went in is not known."""
    from ssl_sat.artifact import remade

    which = f"input {slot} is {found.stage} {found.fingerprint[:8]}"
    if not remade(artifact.record, {slot: found.path}):
        return Finding("ok", which)
    if "input_files" in artifact.record:
        return Finding("WRONG", f"{which}, but made again since: its files are not those that went in")
    return Finding("note", f"{which}, made again since; what it held before was not recorded")


def _stage_and_spec(artifact: Artifact) -> tuple[Stage, Any]:
    from ssl_sat.graph.stages import stage_named

    stage = stage_named(artifact.stage)
    return stage, stage.spec.parse(artifact.config, "config.json")


def _fingerprint(artifact: Artifact, refs: dict[str, Ref]) -> Finding:
    from ssl_sat.spec import MissingInput, UserError
    from ssl_sat.stage import fingerprint

    if set(refs) != set(artifact.record["inputs"]):
        return Finding("skipped", "the fingerprint cannot be recomputed without the inputs")
    try:
        stage, spec = _stage_and_spec(artifact)
        now = fingerprint(stage, spec, refs)
    except MissingInput as error:
        return Finding("skipped", f"the fingerprint cannot be recomputed: {error}")
    except UserError as error:
        return Finding("WRONG", f"the config is not one of this version: {error}")
    if now == artifact.fingerprint:
        return Finding("ok", f"the fingerprint {now[:8]} follows from config, versions and inputs")
    text = f"recorded {artifact.fingerprint[:8]}, but config, versions and inputs give {now[:8]}"
    return Finding("WRONG", f"fingerprint: {text}: they were changed, or a component has another version by now")


def _code(artifact: Artifact) -> list[Finding]:
    """Name the modules whose code is not that of the artifact; no error, but a reason for a replay to differ."""
    from ssl_sat.provenance import code_digests

    changed = []
    for module, digest in artifact.record["code"].items():
        try:
            same = code_digests([module])[module] == digest
        except ModuleNotFoundError:
            same = False
        changed += [] if same else [module]
    return [Finding("note", f"made by other code of {', '.join(changed)}")] if changed else []


def _replay(artifact: Artifact, refs: dict[str, Ref]) -> Iterator[Finding]:
    """Run the stage in a temporary folder with the same inputs and compare."""
    from ssl_sat.artifact import Artifact, check_metrics, sha256_file, write_json
    from ssl_sat.spec import UserError

    stage, spec = _stage_and_spec(artifact)
    with tempfile.TemporaryDirectory(prefix="ssl_sat-replay-") as folder, _threads_of(artifact):
        out = Path(folder)
        try:
            metrics = stage.run(spec, {slot: Artifact.open(ref.path) for slot, ref in refs.items()}, out)
        except UserError as error:
            yield Finding("WRONG", f"replay: {error}")
            return
        write_json(out / "metrics.json", check_metrics(metrics))
        arrays = sorted(p.relative_to(artifact.path) for p in artifact.path.rglob("*") if p.suffix in _ARRAYS)
        for name in [Path("metrics.json"), *arrays]:
            same = (out / name).is_file() and sha256_file(out / name) == sha256_file(artifact.path / name)
            text = "the same bytes" if same else _difference(artifact.path / name, out / name)
            yield Finding("ok" if same else "WRONG", f"replay: {name}: {text}")


@contextmanager
def _threads_of(artifact: Artifact) -> Iterator[None]:
    """Give torch the number of threads that the artifact was made with: other numbers round differently."""
    provenance = artifact.json("provenance.json")
    device = provenance.get("device")
    recorded = device.get("torch_threads") if isinstance(device, dict) else provenance.get("torch_threads")
    if not recorded:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(int(recorded))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _difference(recorded: Path, replayed: Path) -> str:
    import json

    if not replayed.is_file():
        return "the replay did not write it"
    if recorded.suffix != ".json":
        return "other bytes"
    old, new = json.loads(recorded.read_text()), json.loads(replayed.read_text())
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    shown = ", ".join(f"{name} {old.get(name)} against {new.get(name)}" for name in names[:5])
    return f"{len(names)} of {len(old)} differ: {shown}"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ssl_sat.verify", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("artifact", help="its folder, or a link to it such as outputs/pretrain/latest")
    parser.add_argument("--replay", action="store_true", help="run the stage again and compare metrics and weights")
    options = parser.parse_args()

    from ssl_sat.spec import UserError

    try:
        findings = verify(options.artifact, options.replay)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for finding in findings:
        print(f"{finding.state:8}{finding.text}")
    wrong = sum(finding.state == "WRONG" for finding in findings)
    print(f"{options.artifact}: {f'{wrong} wrong' if wrong else 'verified'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
