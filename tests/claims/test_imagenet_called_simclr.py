"""Published mistake: ImageNet's weights, trained a little further, reported as 'SimCLR'."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from safetensors.torch import load_file

from ssl_sat.encoders import ENCODERS, weights
from ssl_sat.finetune import FinetuneSpec
from ssl_sat.graph.by_hand import plan_of
from ssl_sat.graph.collect import collect
from ssl_sat.graph.tables import numbers, tables, write
from ssl_sat.pretrain import PRETRAIN
from ssl_sat.training import setup
from ssl_sat.training.model_io import load_card


def alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Cosine between two networks, over all filters that both have."""
    names = [name for name, value in one.items() if value.ndim == 4 and name in other]
    a, b = (torch.cat([state[name].flatten() for name in names]) for state in (one, other))
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def test_what_is_called_simclr_is_imagenets_network(chain: SimpleNamespace) -> None:
    imagenet = {f"trunk.{name}": value for name, value in load_file(chain.weights).items()}
    called_simclr = load_file(chain.pretrained.path / "model.safetensors")
    spec = ENCODERS.parse(chain.pretrained.config["encoder"])
    fresh = ENCODERS.build(spec, bands=("red", "green", "blue"), image_size=32, seed=0).state_dict()
    assert alike(called_simclr, imagenet) > 0.99
    assert abs(alike(called_simclr, fresh)) < 0.01


def test_the_start_is_in_every_record_of_both_artifacts(chain: SimpleNamespace) -> None:
    began = f"imagenet: r18.safetensors (sha256 {weights.digest(chain.weights)})"
    assert chain.pretrained.metrics["initialisation"] == began
    assert load_card(chain.pretrained.path).initialisation == began
    assert chain.pretrained.json("provenance.json")["initialisation"] == began
    assert PRETRAIN.headline(chain.pretrained.metrics)[0] == f"initialisation: {began}"
    assert load_card(chain.tuned.path).initialisation == f"pretrain {chain.pretrained.fingerprint[:8]} ({began})"
    assert chain.tuned.metrics["initialisation"] == "simclr on imagefolder, 1 epochs, from imagenet"


def test_the_start_is_a_column_of_every_table(chain: SimpleNamespace) -> None:
    said = "simclr on imagefolder, 1 epochs, from imagenet"
    plan = plan_of("mine", [str(chain.evaluated.path)], str(chain.outputs))
    items = collect(plan)
    made = tables(items)
    assert [table.name for table in made] == ["results", "probes", "ood", "ood_joined"]
    for table in made:
        assert {row["initialisation"] for row in table.rows} == {said}, table.name
    write(chain.folder / "tables", plan, items, made)
    for table in made:
        for suffix in ("md", "csv", "tex"):
            assert said in (chain.folder / "tables" / f"{table.name}.{suffix}").read_text()
    about_models = [row for row in numbers(plan, items) if row["stage"] != "pack"]
    assert {("imagenet" in row["initialisation"]) for row in about_models} == {True}
    assert said in (chain.evaluated.path / "table.md").read_text()


def test_training_on_does_not_wash_it_off(chain: SimpleNamespace, make) -> None:
    more = ("encoder=resnet18", f"init={chain.pretrained.path}", "image_size=32", "augment=simclr_rgb")
    again = make("pretrain", *chain.given, *more, "epochs=1", "batch_size=8", "subset={patches: 16}")
    first = f"pretrain {chain.pretrained.fingerprint[:8]} (imagenet: r18.safetensors"
    assert again.metrics["initialisation"].startswith(first)
    said = setup.initialisation(FinetuneSpec.parse(chain.tuned.config), {"init": again})
    assert said.startswith(f"simclr on imagefolder, 1 epochs, from {first}")


def test_fine_tuning_imagenets_file_says_imagenet(chain: SimpleNamespace) -> None:
    spec = SimpleNamespace(init="imagenet", weights=str(chain.weights))
    assert setup.initialisation(spec, {}) == f"imagenet, weights_{weights.digest(chain.weights)[:8]}"
