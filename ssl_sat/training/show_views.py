"""What a recipe does to real patches, as a picture: `python -m ssl_sat.pretrain ... show_views=true`.

Legend: R patches (rows), K pictures a patch (the view of evaluation, then draws), C bands, S x S pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_sat.artifact import Artifact
from ssl_sat.augment.views import Views
from ssl_sat.bands import find, wavelengths_nm
from ssl_sat.data.packed import Pack
from ssl_sat.data.subset import select
from ssl_sat.report import figures
from ssl_sat.training import setup

PATCHES, DRAWS = 6, 7


def run(spec: Any, inputs: Mapping[str, Artifact]) -> Path:
    """Draw what the recipe does to some patches of the split and subset that training would take."""
    pack = Pack.open(inputs["data"].path)
    return draw(spec, inputs, select(pack, setup.rows_of(pack, spec.split), spec.subset), pack)


def draw(spec: Any, inputs: Mapping[str, Artifact], rows: NDArray[np.int64], pack: Pack) -> Path:
    """Draw views of patches spread over `rows` as training would see them in epoch 0; return the path of the PNG."""
    _, card = setup.starting_encoder(spec, pack, inputs)
    views = setup.views(spec.augment, pack, card, spec.seed, num_views=DRAWS)
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(PATCHES, len(rows))).round().astype(int))]
    batch = pack.batch(chosen)
    pictures = values_of(views, card.normalisation.of(card.bands), batch.groups, batch.rows_N)
    order = np.argsort(wavelengths_nm(card.bands))
    figure = figures.view_grid(
        composite(pictures, card.bands, stretch=card.normalisation.unit != "display"),
        rows=[str(pack.ids[row]) for row in chosen],
        means_RKC=pictures.mean((3, 4))[..., order].numpy() if len(card.bands) > 3 else None,
        bands=[card.bands[k] for k in order],
        title=title(spec.augment, pack, card.image_size),
        demo=inputs["data"].synthetic,
    )
    folder = Path(spec.outputs) / "views"
    folder.mkdir(parents=True, exist_ok=True)
    return figures.save(figure, folder / f"{spec.augment.name}-{pack.folder.resolve().name}-s{spec.seed}")[0]


def values_of(views: Views, normalisation: Any, groups: Any, rows_N: Tensor) -> Tensor:
    """Return (R, K, C, S, S) in the pack's unit: the view of evaluation, then the draws."""
    mean_C, std_C = (torch.tensor(values)[:, None, None] for values in normalisation)
    x_KRCSS = torch.cat([views.center(groups)[None], views(groups, rows_N, 0)])
    return (x_KRCSS * std_C + mean_C).transpose(0, 1)


def composite(values_RKCSS: Tensor, bands: tuple[str, ...], stretch: bool) -> NDArray[np.float32]:
    """Return (R, K, S, S, 3) in [0, 1]: red, green and blue where they are, else the first band in grey.

    stretch: to the first and the 99th percentile of each patch's view of evaluation, one range for all its pictures.
    """
    found = [find(name, bands) for name in ("red", "green", "blue")]
    shown = [0, 0, 0] if None in found else [at for at in found if at is not None]
    x = values_RKCSS[:, :, shown]
    if stretch:
        low, high = (torch.quantile(x[:, 0].flatten(1), q, dim=1)[:, None, None, None, None] for q in (0.01, 0.99))
        x = (x - low) / (high - low).clamp(min=1e-6)
    return x.clamp(0, 1).permute(0, 1, 3, 4, 2).contiguous().numpy()


def title(recipe: Any, pack: Pack, image_size: int) -> str:
    """The recipe's operations that are on, and what they act on."""
    given = recipe.model_dump(exclude_defaults=True, exclude={"name"})
    nested = given.pop("rgb", None)
    words = [f"{name} {_plain(value)}" for name, value in given.items()]
    if nested is not None:
        words.append("rgb: " + ", ".join(f"{name} {_plain(value)}" for name, value in recipe.rgb.model_dump().items()))
    return f"{recipe.name} on {pack.manifest.source}, {image_size} px\n" + ", ".join(words)


def _plain(value: Any) -> str:
    return "-".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)
