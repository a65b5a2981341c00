"""Which groups of an experiment are compared: those tested on the same patches; of many those that differ in one."""

import itertools

import pytest
from scipy.stats import ttest_rel

from ssl_sat.graph.collect import Finished
from ssl_sat.graph.paired import paired_rows
from ssl_sat.graph.plan import Node

ENCODERS, STARTS, CLASSES = ("cnn", "resnet18", "vit_tiny"), ("scratch", "simclr"), ("Forest", "Highway", "River")


def made(name, stage, metrics, needs=None, config=None, **variables):
    ident = "-".join([name, *(f"seed{v}" if k == "seed" else v for k, v in variables.items())])
    inputs = {"data": "d"} | ({"ood": "o"} if name.startswith("far") else {})
    node = Node(ident, name, stage, variables, [], needs or {}, f"nowhere/{ident}", f"{ident:_<64}"[:64], inputs, False,
                "done", config or {})  # fmt: skip
    return Finished(node, metrics, {})


def accuracy(encoder, start, seed):
    """Grows with each; its differences between starts are .11, .12, .13 over the seeds."""
    return 0.5 + 0.05 * ENCODERS.index(encoder) + 0.1 * STARTS.index(start) + 0.01 * int(seed) * (start == "simclr")


def main_matrix():
    for encoder, start, seed in itertools.product(ENCODERS, STARTS, "123"):
        metrics = {"test_accuracy": accuracy(encoder, start, seed)}
        yield made("finetune", "finetune", metrics, encoder=encoder, start=start, seed=seed)


def without_classes():
    """Models of nine classes, more accurate than those of ten, one seed each; their evaluations."""
    for encoder, held_out, start in itertools.product(ENCODERS[:2], CLASSES, STARTS):
        variables = {"encoder": encoder, "held_out": held_out, "start": start, "seed": "1"}
        value = accuracy(encoder, start, "1") + 0.2
        own, found = {"held_out": [held_out]}, {"test_accuracy": value}
        model = made("finetune_without", "finetune", found, None, own, **variables)
        yield model
        config = {"tier": "held_out", "max_id": 600, "seed": 0}
        yield made("near", "ood_eval", {"msp_auroc": value}, {"model": model.node.id}, config, **variables)


def pairs(rows, metric):
    return {frozenset((row["first"], row["second"])) for row in rows if row["metric"] == metric}


def test_models_of_nine_classes_do_not_meet_those_of_ten_nor_of_nine_others():
    found = paired_rows([*main_matrix(), *without_classes()])
    for metric, held in (("test_accuracy", "finetune_without"), ("msp_auroc", "near")):
        own = {pair for pair in pairs(found, metric) if any(name.startswith(held) for name in pair)}
        classes = [{next((c for c in CLASSES if c in name), None) for name in pair} for pair in own]
        assert all(len(one) == 1 for one in classes)
        assert len(own) == 3 * 6  # all pairs of two encoders and two starts, class by class


def test_the_start_is_compared_within_every_encoder_of_a_matrix_with_held_out_models():
    found = paired_rows([*main_matrix(), *without_classes()])
    for encoder in ENCODERS:
        names = frozenset(f"finetune-{encoder}-{start}" for start in STARTS)
        (row,) = [r for r in found if {r["first"], r["second"]} == names]
        assert row["first"] == f"finetune-{encoder}-simclr"
        assert (row["seeds"], row["difference"].value) == (3, pytest.approx(0.12))


def test_of_many_groups_those_are_compared_that_differ_in_one_variable_or_in_the_node():
    others = [made("finetune_short", "finetune", {"test_accuracy": 0.4}, encoder="cnn", seed=s) for s in "123"]
    others += [made("finetune_imagenet", "finetune", {"test_accuracy": 0.9}, trunk="vit_tiny", seed=s) for s in "123"]
    others += [made("finetune_bands", "finetune", {"test_accuracy": 0.3}, bands="rgb", seed=s) for s in "123"]
    found = pairs(paired_rows([*main_matrix(), *others]), "test_accuracy")
    want = {frozenset(f"finetune-{encoder}-{start}" for start in STARTS) for encoder in ENCODERS}
    for start in STARTS:
        want |= {frozenset(f"finetune-{e}-{start}" for e in two) for two in itertools.combinations(ENCODERS, 2)}
        want |= {frozenset(("finetune_short-cnn", f"finetune-cnn-{start}"))}
        want |= {frozenset(("finetune_imagenet-vit_tiny", f"finetune-vit_tiny-{start}"))}
    want |= {frozenset(("finetune_bands-rgb", "finetune_imagenet-vit_tiny"))}  # like nothing: with the best
    assert found == want


def test_p_is_adjusted_for_all_pairs_of_a_metric():
    noisy = {"scratch": (0.50, 0.52, 0.51), "simclr": (0.60, 0.63, 0.64)}
    items = [
        made("finetune", "finetune", {"test_accuracy": noisy[start][int(seed) - 1]}, None, {"held_out": [held_out]},
             held_out=held_out, start=start, seed=seed)
        for held_out, start, seed in itertools.product(CLASSES, STARTS, "123")
    ]  # fmt: skip
    rows = paired_rows(items)
    p = ttest_rel(noisy["simclr"], noisy["scratch"]).pvalue
    assert [row["p"] for row in rows] == pytest.approx([p] * 3, rel=1e-9)
    assert [row["p_holm"] for row in rows] == pytest.approx([3 * p] * 3, rel=1e-9)


@pytest.mark.parametrize("change", [{"tier": "split"}, {"ood_split": "val"}, {"id_split": "unused"}, {"max_id": 300}])
def test_evaluations_of_other_patches_are_not_compared(change):
    asked = {"tier": "data", "ood_split": "test", "id_split": "test", "max_id": 600, "seed": 0}
    evaluations = [
        made("far", "ood_eval", {"msp_auroc": 0.9}, None, asked, start="scratch"),
        made("far", "ood_eval", {"msp_auroc": 0.8}, None, {**asked, "batch_size": 7}, start="simclr"),
        made("far_other", "ood_eval", {"msp_auroc": 0.7}, None, {**asked, **change}, start="simclr"),
    ]
    assert pairs(paired_rows(evaluations), "msp_auroc") == {frozenset(("far-scratch", "far-simclr"))}
