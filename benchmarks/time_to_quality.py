"""Quality of frozen features at an equal budget: `ssl_sat.pretrain` against lightly's transform, head and loss.

    python -m benchmarks.time_to_quality outputs/pack/<eurosat_rgb pack> [--seeds 0 1 2] [--epochs 10] [--threads 1]

One side after the other, so that neither slows the other down. Equal on both: the 5,000 training images, the encoder
(ResNet-18 with the 7x7 stem, 64 px) and its first weights, epochs, batch, optimiser, peak rate, schedule, bf16,
channels_last and threads; 20 nearest neighbours on the published test split, fitted on the same 5,000 labelled images.
Different: views, loss, temperature and head, each side's own (lightly's are its defaults for SimCLR), and everything
around them. Not part of `make bench`: it trains for an hour. Rows go to <out>/time_to_quality.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ssl_sat.augment.spec import AugmentSpec
from ssl_sat.augment.views import Views
from ssl_sat.data.packed import Pack
from ssl_sat.data.subset import SubsetSpec, select
from ssl_sat.encoders import ENCODERS
from ssl_sat.evaluation.detectable import mean_of
from ssl_sat.evaluation.packs import batches
from ssl_sat.evaluation.probes import knn_predict
from ssl_sat.optim.schedule import warmup_cosine
from ssl_sat.training.watching import chosen

IMAGES, BATCH, LR, DECAY, WARMUP_EPOCHS, K = 5000, 128, 1e-3, 1e-4, 1, 20


def ours(pack: Path, seed: int, epochs: int, threads: int, out: Path) -> dict[str, Any]:
    """The command that a user gives; what its artifact says."""
    line = [
        sys.executable, "-m", "ssl_sat.pretrain", "data=eurosat_rgb", f"pack={pack}", f"subset={{patches: {IMAGES}}}",
        "encoder=resnet18", "augment=simclr_rgb_nadir", "method.temperature=0.2", f"optim.lr={LR * 256 / BATCH}",
        f"optim.weight_decay={DECAY}", f"optim.warmup_epochs={WARMUP_EPOCHS}", f"epochs={epochs}",
        f"batch_size={BATCH}", f"seed={seed}", "trainer=bf16", f"trainer.threads={threads}", f"outputs={out}",
        f"watch.pack={pack}", "watch.score=test", f"watch.every_n_epochs={epochs}", f"watch.max_fit={IMAGES}",
        "watch.max_score=5400", f"watch.k={K}",
    ]  # fmt: skip
    subprocess.run(line, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    artifact = out / "pretrain" / "latest"
    metrics, facts = (json.loads((artifact / f"{name}.json").read_text()) for name in ("metrics", "provenance"))
    found = {name: metrics[f"knn_accuracy{end}"] for name, end in (("untrained", "_untrained"), ("knn", ""))}
    return {**found, "images_per_second": facts["speed"]["images_per_second"], "artifact": artifact.resolve().name}


class Lightly:
    """lightly's SimCLR as its example builds it, over images that lie decoded in memory."""

    def __init__(self, pack: Pack, seed: int, epochs: int) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead
        from lightly.transforms import SimCLRTransform

        torch.manual_seed(seed)
        self.pack, self.seed, self.epochs = pack, seed, epochs
        mean, std = ([getattr(pack.stats[band], of) for band in pack.bands] for of in ("mean", "std"))
        rows = select(pack, pack.rows("train"), SubsetSpec(patches=IMAGES))
        pixels = pack.read(rows)[0].transpose(0, 2, 3, 1)
        transform = SimCLRTransform(input_size=64, normalize={"mean": mean, "std": std})
        self.views = [lambda at=at: transform(Image.fromarray(pixels[at])) for at in range(len(rows))]
        self.encoder: Any = ENCODERS.build(
            ENCODERS.parse({"name": "resnet18"}), bands=pack.bands, image_size=64, seed=seed
        )
        self.head, self.loss = SimCLRProjectionHead(512, 512, 128), NTXentLoss()
        layout = [(tuple(group.bands), group.height, group.width) for group in pack.groups]
        self.center = Views(
            AugmentSpec(name="none", eval="resize"), layout, bands=pack.bands, scale=pack.manifest.scale,
            offset=pack.manifest.offset, mean_C=mean, std_C=std, image_size=64,
        ).center  # fmt: skip

    def run(self) -> dict[str, float]:
        """Train, and score before and after."""
        model = nn.ModuleList([self.encoder, self.head]).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        untrained, began = self.knn(), time.perf_counter()
        optimizer, schedule = self._optimised(model)
        for _ in range(self.epochs):
            order = torch.randperm(len(self.views)).tolist()
            for at in range(0, len(order) - BATCH + 1, BATCH):
                pairs = [self.views[image]() for image in order[at : at + BATCH]]
                self._step(torch.stack([view for pair in zip(*pairs, strict=True) for view in pair]), optimizer)
                schedule.step()
        seconds = time.perf_counter() - began
        images = self.epochs * (len(self.views) // BATCH) * BATCH
        return {"untrained": untrained, "knn": self.knn(), "images_per_second": images / seconds}

    def _optimised(self, model: nn.Module) -> tuple[Any, Any]:
        decayed = [p for p in model.parameters() if p.ndim > 1]
        spared = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": DECAY}, {"params": spared, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=LR, fused=True)
        steps = len(self.views) // BATCH
        factor = lambda step: warmup_cosine(step, steps * self.epochs, WARMUP_EPOCHS * steps, 1.0)  # noqa: E731
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def _step(self, x: Tensor, optimizer: Any) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            z = self.head(self.encoder(x.contiguous(memory_format=torch.channels_last)))
        loss = self.loss(*z.float().chunk(2))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def knn(self) -> float:
        """Accuracy on the test split, fitted on the images that ours is fitted on."""
        fit, test = chosen(self.pack.rows("train"), IMAGES, self.seed, "train"), self.pack.rows("test")
        self.encoder.eval()
        fitted, scored = (self._features(rows) for rows in (fit, test))
        self.encoder.train()
        labels = self.pack.labels
        return float((knn_predict(fitted, labels[fit], scored, K) == labels[test]).mean())

    def _features(self, rows: np.ndarray) -> np.ndarray:
        chunks = batches(self.pack, rows, self.center, 256, torch.device("cpu"))
        return torch.cat([self.encoder(x).float() for x, _, _ in chunks]).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="where our artifacts lie or will lie")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for seed in options.seeds:
        peer = Lightly(Pack.open(options.pack), seed, options.epochs).run()
        mine = ours(options.pack, seed, options.epochs, options.threads, options.outputs)
        rows.append({"seed": seed, "epochs": options.epochs, "ssl_sat": mine, "lightly": peer})
        for side in ("ssl_sat", "lightly"):
            found = rows[-1][side]
            print(f"seed {seed}  {side:8}  kNN {found['untrained']:.4f} -> {found['knn']:.4f}  "
                  f"{found['images_per_second']:.0f} images/s", flush=True)  # fmt: skip
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "time_to_quality.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(summary(rows))


def summary(rows: list[dict[str, Any]]) -> str:
    """The differences, seed by seed: their mean with Student's interval."""
    lines = []
    for measure, unit in (("knn", "kNN accuracy"), ("images_per_second", "images/s")):
        found = mean_of([row["ssl_sat"][measure] - row["lightly"][measure] for row in rows])
        half = "" if found.half_width is None else f" +- {found.half_width:.4f}"
        lines.append(f"ssl_sat - lightly, {unit}: {found.mean:+.4f}{half} over {len(rows)} seeds")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
