"""What is measured between epochs of pretraining: effective rank, nearest neighbours and a linear probe.

    row at epoch -1, step 0    the untrained encoder, so that the gain is seen
    row at epoch e             after every n-th epoch and after the last

Nothing here changes a weight: eval mode, no draw from a global generator, modes restored. A row is a function of the
weights, so that a resumed run makes up for one that a kill has cost.
"""

# N patches, C bands, D features, V views

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ssl_sat import bands as band_names
from ssl_sat.augment.views import Views
from ssl_sat.data.packed import Pack
from ssl_sat.encoders.stem import map_bands, stem_keys
from ssl_sat.evaluation.classification import wilson_interval
from ssl_sat.evaluation.packs import batches
from ssl_sat.evaluation.probes import knn_predict, linear_predict
from ssl_sat.losses.collapse import rankme
from ssl_sat.seeding import key
from ssl_sat.spec import ConfigError, UserError
from ssl_sat.stage import record_facts
from ssl_sat.training import setup
from ssl_sat.training.callbacks import History, read_history
from ssl_sat.training.model_io import ModelCard, build_encoder
from ssl_sat.training.spec import WatchSpec


@dataclass(frozen=True)
class RankSample:
    """A fixed choice of training patches whose effective rank is measured."""

    pack: Pack
    views: Views
    rows_N: np.ndarray
    batch_size: int

    def measure(self, method: Any, device: torch.device) -> dict[str, float]:
        """RankMe of the embeddings, in which collapse shows, and of the encoder's features, which are kept.

        A method that reconstructs has no embeddings: features alone.
        """
        if not len(self.rows_N):
            return {}
        found_h: list[Tensor] = []
        hook = method.encoder.register_forward_hook(lambda module, inputs, output: found_h.append(output.float()))
        try:
            chunks = batches(self.pack, self.rows_N, self.views.center, self.batch_size, device)
            found_z = [_embedded(method, x_NCHW) for x_NCHW, _, _ in chunks]
        finally:
            hook.remove()
        features = {"rankme_features": float(rankme(torch.cat(found_h)))}
        return features if method.reconstructs else {"rankme": float(rankme(torch.cat(found_z))), **features}


def _embedded(method: Any, x_NCHW: Tensor) -> Tensor:
    """Embeddings of one view, or features where a method has none."""
    return (method.encoder(x_NCHW) if method.reconstructs else method.embed(x_NCHW[None])[0]).float()


@dataclass(frozen=True)
class LabelledProbe:
    """Labelled patches, and how the encoder sees them: `card` names its bands and normalisation on this pack.

    copy: an encoder for fewer bands, which takes the mapped weights anew each time; None where the bands are the same.
    """

    pack: Pack
    views: Views
    card: ModelCard
    trained: ModelCard
    copy: nn.Module | None
    fit_M: np.ndarray
    score_N: np.ndarray
    k: int
    batch_size: int

    def measure(self, encoder: Any, device: torch.device) -> dict[str, float]:
        """Accuracy of both probes on frozen features."""
        if self.copy is not None:
            keys = stem_keys(encoder)
            state = map_bands(encoder.state_dict(), keys, self.trained.bands, self.card.bands, "by_name", 0)
            self.copy.load_state_dict(state)
            encoder = self.copy.to(device).eval()
        fit_MD, score_ND = (self._features(encoder, rows, device) for rows in (self.fit_M, self.score_N))
        labels_M, labels_N = self.pack.labels[self.fit_M], self.pack.labels[self.score_N]
        knn_N = knn_predict(fit_MD, labels_M, score_ND, self.k)
        linear_N = linear_predict(fit_MD, labels_M, score_ND)
        return {
            "knn_accuracy": float((knn_N == labels_N).mean()),
            "linear_accuracy": float((linear_N == labels_N).mean()),
        }

    @torch.no_grad()
    def _features(self, encoder: Any, rows: np.ndarray, device: torch.device) -> np.ndarray:
        chunks = batches(self.pack, rows, self.views.center, self.batch_size, device)
        h_ND = torch.cat([encoder(x_NCHW).float() for x_NCHW, _, _ in chunks])
        if not torch.isfinite(h_ND).all():
            raise UserError("the features of watched patches are not finite; lower optim.lr")
        return h_ND.cpu().numpy()


class Watch(pl.Callback):
    """Measure before the first epoch, after every n-th and after the last; the main process alone does it."""

    def __init__(self, every: int, rank: RankSample, probe: LabelledProbe | None) -> None:
        self.every, self.rank, self.probe = every, rank, probe

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Measure the untrained encoder, or what a kill has cost at the step that is resumed from."""
        per_epoch = -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)
        done, rest = divmod(trainer.global_step, per_epoch)
        if rest == 0:
            self._measure_if_due(trainer, module, done)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Measure when it is time."""
        self._measure_if_due(trainer, module, trainer.current_epoch + 1)

    def _measure_if_due(self, trainer: pl.Trainer, module: Any, done: int) -> None:
        if done % self.every and done != trainer.max_epochs:
            return
        history = next(callback for callback in trainer.callbacks if isinstance(callback, History))  # type: ignore[attr-defined]
        if trainer.is_global_zero and not _is_watched(history.path, trainer.global_step):
            row = {"phase": history.phase, "epoch": done - 1, "step": trainer.global_step}
            values = self.measure(module.method, module.device)
            if values:
                history.write(trainer, [{**row, **values}])
        trainer.strategy.barrier("watched")
        history.speed.start(trainer)

    def measure(self, method: Any, device: torch.device) -> dict[str, float]:
        """All measures of a method as it is now."""
        with torch.no_grad(), evaluating(method):
            values = self.rank.measure(method, device)
            return values if self.probe is None else {**values, **self.probe.measure(method.encoder, device)}


def _is_watched(history: Path, step: int) -> bool:
    rows = read_history(history) if history.exists() else []
    return any(row["step"] == step and "loss" not in row for row in rows)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside, each module's own mode afterwards."""
    modes = {part: part.training for part in module.modules()}
    try:
        module.eval()
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def build(
    spec: Any, pack: Pack, rows: np.ndarray, card: ModelCard, views: Views, out: Path, labelled: Path | None
) -> Watch:
    """What `spec.watch` asks for; ConfigError or UserError before training where the labelled pack does not fit."""
    watch: WatchSpec = spec.watch
    rank = RankSample(pack, views, chosen(rows, watch.rankme, spec.seed, "rankme"), spec.batch_size)
    probe = None if labelled is None else labelled_probe(spec, Pack.open(labelled), card)
    if probe is not None:
        source = probe.pack.manifest
        record_facts(out, watched={"source": source.source, "patches_sha256": source.patches_sha256})
        print(f"  watch: {_described(probe, watch)}", flush=True)
    return Watch(watch.every_n_epochs, rank, probe)


def _described(probe: LabelledProbe, watch: WatchSpec) -> str:
    gsd = "" if probe.card.gsd_m is None else f", {probe.card.gsd_m:g} m a pixel"
    bands = f"{len(probe.card.bands)} of the encoder's {len(probe.trained.bands)} bands"
    return (
        f"{probe.pack.manifest.source}, {len(probe.fit_M)} {watch.fit} and {len(probe.score_N)} {watch.score} patches, "
        f"{bands}{gsd}, normalised by {probe.card.normalisation.origin}"
    )


def labelled_probe(spec: Any, pack: Pack, card: ModelCard) -> LabelledProbe:
    """The probe on a labelled pack, as an encoder of `card` sees it."""
    watch: WatchSpec = spec.watch
    if pack.manifest.label_kind != "single":
        raise ConfigError(f"watch: {pack.folder} has {pack.manifest.label_kind} labels; the probes need one a patch.")
    seen = card_on(pack, card, spec.augment.eval)
    fit_M, score_N = (
        chosen(rows[pack.labels[rows] >= 0], most, spec.seed, split)
        for split, most in ((watch.fit, watch.max_fit), (watch.score, watch.max_score))
        for rows in (pack.rows(split),)
    )
    if len(fit_M) < watch.k or not len(score_N) or len(set(pack.labels[fit_M].tolist())) < 2:
        raise ConfigError(
            f"watch: {len(fit_M)} labelled {watch.fit} patches of {len(set(pack.labels[fit_M].tolist()))} classes and "
            f"{len(score_N)} of {watch.score} are too few for watch.k={watch.k}; lower it or choose other splits."
        )
    views = setup.views(spec.augment, pack, seen, spec.seed)
    copy = None if seen.bands == card.bands else build_encoder(seen)
    return LabelledProbe(pack, views, seen, card, copy, fit_M, score_N, watch.k, spec.batch_size)


def card_on(pack: Pack, card: ModelCard, framing: Any) -> ModelCard:
    """How the encoder of a card sees another pack: the bands of both by name, in the encoder's order.

    Its own statistics are kept where the unit is the same; otherwise they mean nothing there and the pack's are taken.
    Raises ConfigError when no band is shared.
    """
    shared = tuple(name for name in card.bands if band_names.find(name, pack.bands) is not None)
    if not shared:
        raise ConfigError(
            f"watch: {pack.folder} has none of the encoder's bands ({', '.join(card.bands)}), but "
            f"{', '.join(pack.bands)}. Watch another labelled set."
        )
    same_unit = card.normalisation.unit == setup.unit_of(pack)
    normalisation = card.normalisation if same_unit else setup.normalisation_of(pack, shared)
    gsd_m = setup.seen_gsd_m(pack, card.image_size, framing)
    return card.model_copy(update={"bands": shared, "normalisation": normalisation, "gsd_m": gsd_m})


def chosen(rows: np.ndarray, most: int, seed: int, what: str) -> np.ndarray:
    """At most so many rows, ascending, a choice by key."""
    if len(rows) <= most:
        return rows
    generator = np.random.Generator(np.random.Philox(key=key(seed, "watch", what)))
    return np.sort(generator.choice(rows, most, replace=False))


def summary(history: Path, watch: Watch) -> dict[str, Any]:
    """Flat metrics from the watched rows of a history: last value, the untrained encoder's, the gain."""
    watched = [row for row in read_history(history) if "loss" not in row]
    if not watched:
        return {}
    first, last = watched[0], watched[-1]
    found: dict[str, Any] = {name: last[name] for name in last if name not in ("phase", "epoch", "step")}
    for name in [name for name in found if name in first and first["step"] == 0]:
        found |= {f"{name}_untrained": first[name], f"{name}_gain": last[name] - first[name]}
    if watch.probe is not None and "knn_accuracy" in last:
        found["watched_patches"] = count = len(watch.probe.score_N)
        for name in ("knn_accuracy", "linear_accuracy"):
            found[f"{name}_low"], found[f"{name}_high"] = wilson_interval(round(last[name] * count), count)
    return found
