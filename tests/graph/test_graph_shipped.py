"""Every shipped experiment can be planned in every size, on generated data in the real folder layout."""

from pathlib import Path

import pytest
import torch
from fakes import bigearthnet, eurosat, folders

from ssl_sat.graph import claims, expected
from ssl_sat.graph.plan import Node, Plan
from ssl_sat.graph.planner import make_plan
from ssl_sat.graph.sizes import FULL
from ssl_sat.graph.spec import read_graph
from ssl_sat.graph.stages import stage_named
from ssl_sat.graph.verdicts import UNTESTABLE, judge
from ssl_sat.training.pretraining import scheduled
from ssl_sat.training.rates import curve_of, legs

ROOT = Path(__file__).resolve().parents[2] / "experiments"
SHIPPED = [
    (path.parent.name, size) for path in sorted(ROOT.glob("*/graph.yaml")) for size in (FULL, *read_graph(path).sizes)
]
STUDY = ("label_efficiency", "study_corrected", "study_readme", "study_notebooks", "backbones")
SMALL = (*STUDY, "imbalance", "band_transfer")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the READMEs call `data/`, a few patches each."""
    folder = tmp_path_factory.mktemp("shipped")
    root = folder / "data"
    eurosat.write_rgb(root / "EuroSAT_RGB", per_class=6)
    eurosat.write_ms(root / "EuroSAT_MS")
    for scheme in ("random", "spatial"):
        eurosat.write_lists(root / "eurosat_splits", scheme)
    folders.write_ucmerced(root / "UCMerced_LandUse")
    folders.write_npy(root / "S2_L2A")
    bigearthnet.write_v1(root / "BigEarthNet-v1.0", root / "BigEarthNet-v1.0")
    return folder


def planned(name: str, size: str) -> Plan:
    return make_plan(ROOT / name / "graph.yaml", size=size)


@pytest.mark.parametrize(("name", "size"), SHIPPED, ids=[f"{name}-{size}" for name, size in SHIPPED])
def test_it_plans_and_its_claims_name_nodes_of_it(name, size, data, monkeypatch):
    monkeypatch.chdir(data)
    plan = planned(name, size)
    assert plan.nodes and not plan.absent
    expected.read_expected(plan)
    asked = claims.read_claims(plan)
    claims.refuse_unknown(asked, plan)
    assert all(claim.tests or claim.untested for claim in asked)
    assert all(claim.verdict == UNTESTABLE for claim in judge(asked, []))
    assert (ROOT / name / "README.md").is_file()


def spec_of(node: Node):
    """As the node itself reads it before it runs."""
    return stage_named(node.stage).spec.parse(node.config)


def rate_of_pretraining(node: Node) -> tuple[float, float]:
    """The factor on the rate when its warm-up is over and in its last step; ConfigError where it cannot train."""
    spec = spec_of(node)
    patches = spec.subset.patches if spec.subset is not None else None
    per_epoch = patches // spec.batch_size if patches else 1000
    total = spec.epochs * per_epoch
    made = scheduled(spec.optim, torch.nn.Linear(2, 2).named_parameters(), spec.batch_size, total, per_epoch)
    (factor,) = {*made["lr_scheduler"]["scheduler"].lr_lambdas}
    return factor(max(round(spec.optim.warmup_epochs * per_epoch) - 1, 0)), factor(total - 1)


@pytest.mark.parametrize(("name", "size"), SHIPPED, ids=[f"{name}-{size}" for name, size in SHIPPED])
def test_no_warm_up_leaves_nothing_to_train(name, size, data, monkeypatch):
    """The schedules that the stages build before their first step, of every node: the full rate is reached."""
    monkeypatch.chdir(data)
    for node in planned(name, size).nodes:
        if node.stage == "pretrain":
            assert node.config["optim"]["warmup_epochs"] < node.config["epochs"], node.id
            peak, last = rate_of_pretraining(node)
            assert peak > 0.9 and last == pytest.approx(0, abs=1e-9), node.id
        if node.stage == "finetune":
            spec = spec_of(node)
            for leg in legs(spec.phases.steps):
                own, factor = leg.schedule.warmup_epochs, curve_of(leg, spec.optim, 1000)
                warmup = spec.optim.warmup_epochs if own is None else own
                assert warmup < leg.length, (node.id, leg.name)
                assert leg.start > 0 or factor(max(round(warmup * 1000) - 1, 0)) > 0.9, (node.id, leg.name)


@pytest.mark.parametrize("name", sorted({name for name, _ in SHIPPED}))
def test_its_readme_says_what_is_asked_what_it_costs_and_what_is_expected(name):
    text = (ROOT / name / "README.md").read_text()
    for heading in ("Question", "What it does", "Cost", "Expectation"):
        assert f"\n**{heading}" in text, heading
    assert "None is stated" not in text


@pytest.mark.parametrize("name", SMALL)
def test_it_has_a_small_size_that_needs_no_bigearthnet(name, data, monkeypatch):
    monkeypatch.chdir(data)
    read = {node.config["data"]["name"] for node in planned(name, "small").nodes if node.stage == "pack"}
    assert read <= {"eurosat_rgb", "eurosat_ms", "ucmerced", "npy"}


def test_the_published_matrix_is_for_the_whole_bigearthnet_and_gpus(data, monkeypatch):
    monkeypatch.chdir(data)
    for name, batches in (("study_readme", {64}), ("study_notebooks", {64, 32})):
        nodes = planned(name, FULL).nodes
        packs = [node.config["data"] for node in nodes if node.stage == "pack"]
        (whole,) = [pack for pack in packs if pack["name"] == "bigearthnet_v1"]
        assert (whole["root"], whole["split"], whole["max_patches"]) == ("data/BigEarthNet-v1.0", "official", None)
        pretraining = [node for node in nodes if node.stage == "pretrain"]
        assert {node.config["batch_size"] for node in pretraining} == batches
        assert all(node.config["subset"] is None and node.resources["gpus"] == 1 for node in pretraining)
        assert {tuple(node.config["bands"]) for node in pretraining} == {("B04", "B03", "B02")}
        assert {node.config["encoder"]["name"] for node in pretraining} == {"cnn", "resnet50", "vit"}
        assert {node.stage for node in nodes} == {"pack", "pretrain", "finetune", "ood_eval", "umap_report"}


def row_of(node: Node, plan: Plan) -> tuple:
    """Of a fine-tuned node: encoder, what its pretraining started from (None: none), its epochs, and its rate."""
    rates = {step["lr"] for step in node.config["phases"]["steps"].values()}
    (rate,) = rates
    if "init" not in node.needs:
        assert node.config["init"] == "scratch"
        return node.config["encoder"]["name"], None, None, rate
    before = plan.by_id[node.needs["init"]].config
    assert (before["method"]["temperature"], before["optim"]["name"], before["optim"]["lr"]) == (0.5, "adam", 1e-3)
    return before["encoder"]["name"], before["init"], before["epochs"], rate


def test_the_published_matrix_has_the_rows_that_were_published(data, monkeypatch):
    """README: 50 and 300 epochs for all three. Notebooks: large ones 50, from ImageNet. Scratch: ten times the rate."""
    monkeypatch.chdir(data)
    fresh = {(encoder, None, None, 1e-3) for encoder in ("cnn", "resnet50", "vit")}
    readme = {(encoder, "scratch", epochs, 1e-4) for encoder in ("cnn", "resnet50", "vit") for epochs in (50, 300)}
    notebooks = {("cnn", "scratch", epochs, 1e-4) for epochs in (50, 300)}
    notebooks |= {(encoder, "imagenet", 50, 1e-4) for encoder in ("resnet50", "vit")}
    for name, want in (("study_readme", fresh | readme), ("study_notebooks", fresh | notebooks)):
        plan = planned(name, FULL)
        rows = [row_of(node, plan) for node in plan.nodes if node.stage == "finetune"]
        assert len(rows) == len(want) and {*rows} == want
        lengths = [node.config["phases"]["steps"] for node in plan.nodes if node.stage == "finetune"]
        assert {tuple((k, v["epochs"]) for k, v in steps.items()) for steps in lengths} == {
            (("head", 10), ("last_stage", 10), ("all", 80))
        }


def test_the_notebooks_start_from_imagenet_and_nothing_else_does(data, monkeypatch):
    monkeypatch.chdir(data)
    for name, size in [(name, size) for name in STUDY for size in (FULL, "small")]:
        started = {node.node for node in planned(name, size).nodes if node.config.get("init") == "imagenet"}
        want = {"study_notebooks": {"pretrain_large"}, "study_corrected": {"finetune_imagenet"}}
        assert started == want.get(name, {"finetune_imagenet"} if name == "backbones" else set())


@pytest.mark.parametrize(
    ("name", "node", "there"),
    [("band_transfer", "three", "rgb"), ("band_transfer", "twelve", "l2a")],
)
def test_small_sizes_share_the_pretrainings_of_simclr_gain(name, node, there, data, monkeypatch):
    monkeypatch.chdir(data)
    shared = {n.fingerprint for n in planned("simclr_gain", FULL).nodes if n.node == there}
    own = {n.fingerprint for n in planned(name, "small").nodes if n.node == node}
    assert own == shared and len(own) == 3


def test_the_budgets_of_study_corrected_are_equal(data, monkeypatch):
    """What differs between the rows of the matrix is the encoder, the start and the seed."""
    monkeypatch.chdir(data)
    for size in (FULL, "small"):
        nodes = planned("study_corrected", size).nodes
        aside = ("encoder", "init", "seed", "pack", "outputs", "data", "held_out")
        for kind in ("finetune", "finetune_imagenet", "finetune_without"):
            rows = [node for node in nodes if node.node == kind]
            assert len({str({k: v for k, v in node.config.items() if k not in aside}) for node in rows}) == 1
        alike = [next(n for n in nodes if n.node == k).config["phases"] for k in ("finetune", "finetune_imagenet")]
        assert alike[0] == alike[1]


def test_pretraining_in_study_corrected_costs_every_encoder_the_same(data, monkeypatch):
    monkeypatch.chdir(data)
    lengths = {
        FULL: {"pretrain": 300, "pretrain_short": 50, "pretrain_bands": 50, "pretrain_aligned": 832},
        "small": {"pretrain": 6, "pretrain_short": 1, "pretrain_bands": 10},
    }
    encoders = {FULL: {"cnn", "resnet50", "vit"}, "small": {"cnn", "resnet18", "vit_tiny"}}
    aside = ("encoder", "seed", "pack", "outputs", "data", "bands")
    for size in (FULL, "small"):
        made = [node for node in planned("study_corrected", size).nodes if node.stage == "pretrain"]
        assert {node.node: node.config["epochs"] for node in made} == lengths[size]
        assert {node.variables["encoder"] for node in made if node.node == "pretrain"} == encoders[size]
        for kind in lengths[size]:
            rows = [node.config for node in made if node.node == kind]
            assert len({str({k: v for k, v in row.items() if k not in aside}) for row in rows}) == 1, kind


def names_in(asked: list[claims.Asked], *ids: str) -> set[str]:
    """Left-hand sides of the tests of these claims."""
    return {test.terms[0][1] for claim in asked if claim.id in ids for test in claim.tests}


def test_the_claims_of_the_study_ask_every_published_row(data, monkeypatch):
    """The table has seven rows: CNN and the large ones from scratch and after SimCLR, the CNN at two lengths."""
    monkeypatch.chdir(data)
    for size, (resnet, vit) in ((FULL, ("resnet50", "vit")), ("small", ("resnet18", "vit_tiny"))):
        asked = claims.read_claims(planned("study_corrected", size))
        scratch = {f"far-{encoder}-scratch" for encoder in ("cnn", resnet, vit)}
        simclr = {f"far-{encoder}-simclr" for encoder in ("cnn", resnet, vit)} | {"far_short-cnn"}
        msp = names_in(asked, "msp_is_worse_than_chance", "msp_of_the_vit_from_scratch_is_at_chance")
        assert msp == {f"{row}.msp_auroc" for row in scratch | simclr}
        own = names_in(asked, "mutual_information_beats_msp_after_simclr")
        assert own == {f"{row}.mutual_information_auroc" for row in simclr}
        own = {name for name in names_in(asked, "mutual_information_beats_msp") if name.startswith("far")}
        assert own == {f"{row}.mutual_information_auroc" for row in scratch}
        own = names_in(asked, "mutual_information_beats_predictive_entropy")
        assert own == {f"{row}.mutual_information_auroc" for row in scratch}
        for ident in ("longer_pretraining_is_better_for_large_encoders", "pretraining_helps_near_detection_of_the_vit"):
            assert bool(names_in(asked, ident)) == (size == FULL)
        (samples,) = [claim for claim in asked if claim.id == "all_samples"]
        assert not samples.tests and "official train split" in samples.untested
