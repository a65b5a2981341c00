"""Take an encoder away: into timm, ONNX Runtime, torch.export, with a card of what it expects and where it is from.

    python -m ssl_sat.export model=outputs/pretrain/latest to=weights
    python -m ssl_sat.export model=latest to=weights formats=[onnx] takes=dn     # normalisation inside the graph

Every file is read back without our code and gives the encoder's features to 1e-5, or nothing is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from ssl_sat.spec import Spec, UserError


class ExportSpec(Spec):
    """Which model, where to, as what. takes: what the graphs of onnx and torch_export read.

    normalised: images as the encoder reads them. value: reflectance or display values. dn: digital numbers, value =
    (dn - offset) / scale; scale null: 10000 for reflectance, 255 for display values.
    """

    model: str = "latest"
    to: str
    formats: tuple[Literal["timm", "safetensors", "onnx", "torch_export"], ...] | None = None
    takes: Literal["normalised", "value", "dn"] = "normalised"
    scale: float | None = Field(None, gt=0)
    offset: float = 0.0
    licence: str | None = None
    outputs: str = "outputs"


def run(spec: ExportSpec) -> None:
    """Write the folder and say what is in it."""
    from ssl_sat.artifact import Artifact, shown
    from ssl_sat.embed import model_artifact
    from ssl_sat.exporting.folder import write_folder
    from ssl_sat.stage import Lookup

    to = Path(spec.to).expanduser()
    if to.exists():
        raise UserError(f"{to} is there already; nothing is overwritten. Choose another folder with to=...")
    model = Artifact.open(model_artifact(Lookup(Path(spec.outputs).expanduser()), spec.model).path)
    card = write_folder(spec, model, to)
    print(
        f"export: {card['model']} to {shown(to)}: {len(card['bands'])} bands, {card['features']} features", flush=True
    )
    for name, file in card["files"].items():
        megabytes, worst = file["bytes"] / 1e6, file["relative_difference"]
        print(f"  {name}: {file['file']}, {megabytes:.1f} MB, features differ by {worst:.1e} at most (relative)")


def main() -> None:
    """The command line."""
    from ssl_sat import config

    config.run("export", ExportSpec, run)


if __name__ == "__main__":
    main()
