"""What a node's numbers are about: which encoder, from which start, on which bands and data, at which budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ssl_sat.graph.collect import Finished, model_card


@dataclass(frozen=True)
class About:
    """None where a node has no such thing. train_patches: labelled ones, or those of pretraining itself.

    budget: the same in words: passes over patches of pretraining and of fine-tuning, and the share of labels.
    """

    encoder: str | None
    initialisation: str | None
    bands: str | None
    data: str | None
    ood_data: str | None
    pretrain_epochs: int | None
    pretrain_patches: int | None
    finetune_epochs: int | None
    train_patches: int | None
    label_share: float | None
    budget: str | None


def about(item: Finished, by_id: Mapping[str, Finished]) -> About:
    """Read it from the node, its model's card and the nodes that it needs."""
    card = model_card(item, by_id)
    chain = [item, *_needed(item, by_id)]
    tuned, before = (_first(chain, stage) for stage in ("finetune", "pretrain"))
    encoder = card.get("encoder") or {}
    epochs = _integer(tuned, "epochs"), _integer(before, "epochs")
    patches = _integer(tuned, "train_patches"), _integer(before, "patches")
    share = _share(tuned)
    data, ood = item.metrics.get("id_data") or _data(tuned or before, by_id), item.metrics.get("ood_data")
    return About(
        encoder=encoder.get("model") or encoder.get("name"),
        initialisation=card.get("initialisation") if tuned is None else tuned.metrics.get("initialisation"),
        bands=" ".join(card.get("bands", ())) or None,
        data=data,
        ood_data=ood,
        pretrain_epochs=epochs[1],
        pretrain_patches=patches[1],
        finetune_epochs=epochs[0],
        train_patches=patches[0] if tuned is not None else patches[1],
        label_share=share,
        budget=_words(epochs, patches, share),
    )


def _needed(item: Finished, by_id: Mapping[str, Finished]) -> Iterator[Finished]:
    """Everything that a node needs, nearest first."""
    for need in item.node.needs.values():
        if need in by_id:
            yield by_id[need]
            yield from _needed(by_id[need], by_id)


def _first(chain: list[Finished], stage: str) -> Finished | None:
    return next((item for item in chain if item.node.stage == stage), None)


def _integer(item: Finished | None, name: str) -> int | None:
    value = item.metrics.get(name) if item is not None else None
    return int(value) if isinstance(value, (int, float)) else None


def _share(item: Finished | None) -> float | None:
    """The share of the labels that fine-tuning saw, None where it was told a number of patches."""
    if item is None:
        return None
    subset = item.node.config.get("subset") or {}
    share = subset.get("fraction", 1.0 if not subset else None)
    return None if share is None else float(share)


def _data(item: Finished | None, by_id: Mapping[str, Finished]) -> str | None:
    """The name of the data that a model was trained on."""
    if item is None:
        return None
    packs = (by_id[need] for need in item.node.needs.values() if need in by_id and by_id[need].node.stage == "pack")
    for pack in packs:
        return str(pack.node.config["data"]["name"])
    data = item.node.config.get("data")
    return str(data["name"]) if isinstance(data, Mapping) and "name" in data else None


def _words(
    epochs: tuple[int | None, int | None], patches: tuple[int | None, int | None], share: float | None
) -> str | None:
    parts = []
    if epochs[1] is not None and patches[1] is not None:
        parts.append(f"pretraining {epochs[1]} × {patches[1]:,} patches")
    if epochs[0] is not None and patches[0] is not None:
        of = "" if share in (None, 1.0) else f" ({share:.3g} of the labels)"
        parts.append(f"fine-tuning {epochs[0]} × {patches[0]:,} labels{of}")
    return "; ".join(parts) or None
