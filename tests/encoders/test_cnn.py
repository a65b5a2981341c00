"""The study's CNN."""

import torch
from torch.nn import functional as F

from ssl_sat.bands import S2_RGB
from ssl_sat.encoders import ENCODERS


def test_has_the_studys_number_of_parameters():
    encoder = ENCODERS.build(ENCODERS.parse({"name": "cnn"}), bands=S2_RGB, image_size=64, seed=0)
    assert sum(p.numel() for p in encoder.parameters()) == 1_147_200
    assert encoder.embed_dim == 256


def test_equals_its_description_written_out():
    encoder = ENCODERS.build(ENCODERS.parse({"name": "cnn"}), bands=S2_RGB, image_size=32, seed=0).eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    h = x
    for block in encoder.blocks:
        for k in (0, 3):
            h = F.conv2d(h, block[k].weight, block[k].bias, padding=1)
            norm = block[k + 1]
            h = F.batch_norm(h, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps).relu()
        h = F.max_pool2d(h, 2)
    torch.testing.assert_close(encoder(x), F.adaptive_avg_pool2d(h, 1).flatten(1), rtol=1e-5, atol=1e-6)
