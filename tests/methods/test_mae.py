"""The masked autoencoder: which tokens, which pixels, what a decoder that knows nothing gets, what is refused."""

import pytest
import torch
from lightly.models import utils
from torch import nn

from ssl_sat.augment.draws import Draws
from ssl_sat.bands import S2_L2A
from ssl_sat.encoders import ENCODERS
from ssl_sat.methods import METHODS
from ssl_sat.spec import ConfigError

DECODER = {"decoder_width": 24, "decoder_depth": 1, "decoder_heads": 3}
TOKENS = 16


def encoder(**values):
    spec = ENCODERS.parse({"name": "timm", "model": "test_vit", "patch_size": 4, **values})
    return ENCODERS.build(spec, bands=S2_L2A, image_size=16, seed=1)


def mae(**values):
    return METHODS.build(METHODS.parse({"name": "mae", **DECODER, **values}), encoder=encoder(), seed=0)


def images(count: int = 6) -> torch.Tensor:
    return torch.randn(1, count, 12, 16, 16, generator=torch.Generator().manual_seed(0))


def draws(rows, epoch: int = 0, seed: int = 0) -> Draws:
    return Draws(seed, epoch, "mask", torch.as_tensor(rows))


def test_masks_follow_from_seed_epoch_and_sample_alone():
    method = mae()
    keep, mask = method.masks(draws([7, 3, 900]))
    assert keep.shape == (3, 4) and mask.shape == (3, 12)
    assert torch.equal(torch.cat([keep, mask], 1).sort(1).values, torch.arange(TOKENS).expand(3, -1))
    alone, other_batch = method.masks(draws([3]))[0], method.masks(draws([5, 6, 3, 8]))[0]
    assert torch.equal(alone[0], keep[1]) and torch.equal(other_batch[2], keep[1])
    for changed in (draws([7, 3, 900], epoch=1), draws([7, 3, 900], seed=1), draws([8, 4, 901])):
        assert not torch.equal(method.masks(changed)[0], keep)


def test_every_token_is_kept_equally_often():
    keep, _ = mae().masks(draws(range(4000)))
    share = torch.bincount(keep.flatten(), minlength=TOKENS) / 4000
    assert (share - 0.25).abs().max() < 5 * (0.25 * 0.75 / 4000) ** 0.5


def test_the_error_is_that_of_masked_pixels_alone():
    method, x, key = mae().eval(), images(), draws(range(6))
    _, mask = method.masks(key)
    for p in (method.pixels.weight, method.pixels.bias):
        nn.init.zeros_(p)
    target = method.pixels_of(x[0])
    expected = torch.stack([target[n, mask[n]].square().mean() for n in range(6)])
    with torch.no_grad():
        torch.testing.assert_close(method.embed(x, key)[0, :, 0], expected)
        assert method.objective(method.embed(x, key))[0].item() == pytest.approx(1 - 1 / 192, abs=1e-4)  # unbiased var
    drawn = utils.get_at_index(target, mask)
    method.pixels.forward = lambda tokens: drawn  # type: ignore[method-assign]
    assert method.embed(x, key).abs().max() == 0


def test_masked_pixels_do_not_reach_the_encoder():
    method, x, key = mae().eval(), images(), draws(range(6))
    _, mask = method.masks(key)
    seen: list[torch.Tensor] = []
    method.bridge.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    changed = x[0].clone()
    tiles = changed.unfold(2, 4, 4).unfold(3, 4, 4)
    for n in range(6):
        for token in mask[n].tolist():
            tiles[n, :, token // 4, token % 4] = 99.0
    for images_NCHW in (x, changed[None]):
        method.embed(images_NCHW, key)
    assert torch.equal(*seen) and seen[0].shape == (6, 1 + 4, 64)


def test_with_all_tokens_kept_the_encoder_is_the_encoder():
    method, x = mae().eval(), images()
    every = torch.arange(1 + TOKENS).expand(6, -1)
    with torch.no_grad():
        tokens = method._masked[0].encode(x[0], idx_keep=every)
        torch.testing.assert_close(tokens[:, 0], method.encoder(x[0]), rtol=1e-4, atol=1e-5)


def test_targets_are_normalised_over_all_bands_of_a_token():
    x = images()[0] * 3 + 5
    target = mae().pixels_of(x)
    assert target.shape == (6, TOKENS, 4 * 4 * 12)
    torch.testing.assert_close(target.mean(-1), torch.zeros(6, TOKENS), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.var(-1), torch.ones(6, TOKENS), atol=1e-4, rtol=0)
    plain = mae(normalise=False).pixels_of(x)
    assert torch.equal(plain[2, 5], x[2, :, 4:8, 4:8].permute(1, 2, 0).flatten())
    assert torch.equal(mae().pixels_of(torch.full_like(x, 7.0)), torch.zeros_like(target))  # no variation: no NaN


def test_it_learns_what_the_seen_tokens_tell():
    """One pattern, as it is or negative: without a look at the seen tokens the error of the others is 1 at best."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(12, 4, 4, generator=generator).repeat(1, 4, 4)
    sign = torch.randn(32, 1, 1, 1, generator=generator).sign()
    x = (sign * picture)[None]
    torch.manual_seed(0)
    method = mae(decoder_width=48).train()
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for epoch in range(40):
        optimizer.zero_grad()
        loss, _ = method.objective(method.embed(x, draws(range(32), epoch)))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.9 and sum(losses[-5:]) / 5 < 0.5


def test_the_encoder_is_held_once():
    method = mae()
    names = list(method.state_dict())
    assert len({t.data_ptr() for t in method.state_dict().values()}) == len(names)
    assert {name.partition(".")[0] for name in names} == {"encoder", "bridge", "decoder", "pixels"}
    assert [name for name, p in method.named_parameters() if not p.requires_grad] == ["decoder.pos_embed"]


@pytest.mark.parametrize(("spec", "size", "says"), [
    ({"name": "cnn"}, 16, "needs a plain ViT, not CNN"),
    ({"name": "resnet18"}, 16, "needs a plain ViT, not ResNet"),
    ({"name": "timm", "model": "vit_wee_patch16_reg1_gap_256"}, 32, "would not train fc_norm.weight"),
    ({"name": "vit_tiny"}, 8, "image_size=8 cannot be divided into several tokens of 8 x 8"),
])  # fmt: skip
def test_encoders_that_cannot_be_masked_are_refused(spec, size, says):
    other = ENCODERS.build(ENCODERS.parse(spec), bands=S2_L2A, image_size=size, seed=0)
    with pytest.raises(ConfigError, match=says):
        METHODS.build(METHODS.parse({"name": "mae"}), encoder=other, seed=0)
    with pytest.raises(ConfigError, match="decoder_width=100 must be divisible"):
        METHODS.parse({"name": "mae", "decoder_width": 100, "decoder_heads": 16})


def test_register_tokens_are_taken():
    spec = ENCODERS.parse({"name": "timm", "model": "vit_small_patch14_reg4_dinov2", "patch_size": 4})
    vit = ENCODERS.build(spec, bands=S2_L2A, image_size=16, seed=0)
    method = METHODS.build(METHODS.parse({"name": "mae", **DECODER}), encoder=vit, seed=0).train()
    method.objective(method.embed(images(2)))[0].backward()
    assert method.prefix == 5 and all((p.grad is not None) == p.requires_grad for p in method.parameters())
