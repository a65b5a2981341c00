"""Views on CUDA, as they are and compiled, equal the CPU's."""

from pathlib import Path

import pytest
import torch
import yaml

from ssl_sat.augment import AUGMENTS
from ssl_sat.augment.views import Views
from ssl_sat.bands import S2_L2A, S2_RGB

CONF = Path(__file__).parents[2] / "conf" / "augment"
LAYOUT = [(S2_L2A[1:4], 120, 120), (("B05", "B8A", "B11"), 60, 60), (("B01",), 20, 20)]


def views(name: str) -> tuple[Views, tuple[torch.Tensor, ...]]:
    spec = AUGMENTS.parse(yaml.safe_load((CONF / f"{name}.yaml").read_text()))
    bands = S2_RGB if spec.rgb is not None else ("B02", "B8A", "B01", "B04", "B11")
    made = Views(
        spec, LAYOUT, bands=bands, scale=1e4, offset=0.0, mean_C=[0.2] * len(bands), std_C=[0.1] * len(bands),
        image_size=64, seed=3,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    sizes = [(16, len(names), height, width) for names, height, width in LAYOUT]
    groups = (torch.randint(0, 40000, size, generator=generator) for size in sizes)
    return made, tuple(g.to(torch.uint16).view(torch.int16) for g in groups)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    difference = (a.cpu() - b.cpu()).abs()
    assert difference.median() < 1e-5 and (difference > 1e-3).float().mean() < 1e-3  # solarise jumps at its threshold


@pytest.mark.parametrize("name", ["eo_light", "simclr_ms", "simclr_rgb", "study"])
def test_cuda_equals_the_cpu_and_compiled_equals_both(name):
    made, groups = views(name)
    rows = torch.arange(100, 116)
    on_device, rows_there = tuple(g.cuda() for g in groups), rows.cuda()
    expected = [made(groups, rows, epoch) for epoch in (0, 1)]
    for epoch in (0, 1):
        close(made(on_device, rows_there, epoch), expected[epoch])
    made.compile()
    for epoch in (0, 1):
        close(made(on_device, rows_there, epoch), expected[epoch])
