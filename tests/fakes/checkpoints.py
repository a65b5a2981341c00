"""Checkpoints as others write them: the key names of the published files, on networks with random weights."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
import torchvision
from torch import Tensor, nn

State = Mapping[str, Tensor]


def moved(network: nn.Module, seed: int) -> nn.Module:
    """The network in eval mode, every parameter and statistic drawn anew so that none is a constant."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator) * 0.05
                value.copy_(noise.abs() + 0.5 if "var" in name or name.endswith("bn1.weight") else noise)
    return network.eval()


def torchvision_resnet18(channels: int, seed: int = 0) -> nn.Module:
    network = torchvision.models.resnet18(weights=None, num_classes=128)
    network.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    return moved(network, seed)


def vit(channels: int, seed: int = 0, px: int = 32) -> nn.Module:
    return moved(timm.create_model("vit_tiny_patch16_224", img_size=px, patch_size=8, in_chans=channels), seed)


def under(prefix: str, state: State) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


def moco_v2(path: Path, query: nn.Module, momentum: nn.Module) -> None:
    """SSL4EO-S12, pretrain_moco_v2_s2c.py: query and key encoder with an mlp as `fc`, and the queue."""
    mlp = {"fc.0.weight": torch.ones(512, 512), "fc.2.weight": torch.ones(128, 512), "fc.2.bias": torch.zeros(128)}
    parts = {}
    for name, network in (("q", query), ("k", momentum)):
        trunk = {key: value for key, value in network.state_dict().items() if not key.startswith("fc.")}
        parts |= under(f"module.encoder_{name}.", {**trunk, **mlp})
    parts |= {"module.queue": torch.ones(128, 64), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    torch.save({"epoch": 100, "arch": "resnet18", "state_dict": parts, "optimizer": {"state": {}}}, path)


def moco_v3(path: Path, base: nn.Module, momentum: nn.Module) -> None:
    """SSL4EO-S12, pretrain_moco_v3_s2c.py: base and momentum encoder with an mlp as `head`, and the predictor."""
    mlp = {"head.0.weight": torch.ones(4096, 192), "head.1.running_mean": torch.zeros(4096)}
    parts = under("module.predictor.", {"0.weight": torch.ones(8, 8)})
    for name, network in (("base", base), ("momentum", momentum)):
        trunk = {key: value for key, value in network.state_dict().items() if not key.startswith("head.")}
        parts |= under(f"module.{name}_encoder.", {**trunk, **mlp})
    torch.save({"epoch": 300, "arch": "vit_small", "state_dict": parts}, path)


def dino(path: Path, teacher: nn.Module, student: nn.Module) -> None:
    """SSL4EO-S12, pretrain_dino_s2c.py: MultiCropWrapper of backbone and head, the student inside DDP, options."""
    head = {"head.mlp.0.weight": torch.ones(8, 8), "head.last_layer.weight_v": torch.ones(8, 8)}
    trunks = [{k: v for k, v in n.state_dict().items() if not k.startswith("head.")} for n in (teacher, student)]
    parts = {"teacher": {**under("backbone.", trunks[0]), **head}}
    parts["student"] = under("module.", {**under("backbone.", trunks[1]), **head})
    torch.save({**parts, "epoch": 99, "args": Namespace(arch="vit_small", lr=1e-3)}, path)


def mae(path: Path, network: nn.Module) -> None:
    """SSL4EO-S12, models_mae.py: encoder and decoder in one network, options beside it."""
    state = {name: value for name, value in network.state_dict().items() if not name.startswith("head.")}
    decoder = {"mask_token": torch.ones(1, 1, 8), "decoder_embed.weight": torch.ones(8, 192),
               "decoder_blocks.0.attn.qkv.weight": torch.ones(24, 8), "decoder_pred.bias": torch.ones(8)}  # fmt: skip
    torch.save({"model": {**state, **decoder}, "epoch": 199, "args": Namespace(model="mae_vit")}, path)
