"""Every shipped experiment can be planned in every size, on generated data in the real folder layout."""

from pathlib import Path

import pytest
from fakes import bigearthnet, eurosat, folders

from ssl_sat.graph import claims, expected
from ssl_sat.graph.plan import Plan
from ssl_sat.graph.planner import make_plan
from ssl_sat.graph.sizes import FULL
from ssl_sat.graph.spec import read_graph
from ssl_sat.graph.verdicts import UNTESTABLE, judge

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


def test_the_notebooks_start_from_imagenet_and_nothing_else_does(data, monkeypatch):
    monkeypatch.chdir(data)
    for name, size in [(name, size) for name in STUDY for size in (FULL, "small")]:
        started = {node.node for node in planned(name, size).nodes if node.config.get("init") == "imagenet"}
        want = {"study_notebooks": {"pretrain_large"}, "study_corrected": {"finetune_imagenet"}}
        assert started == want.get(name, {"finetune_imagenet"} if name == "backbones" else set())


@pytest.mark.parametrize(
    ("name", "node", "there"),
    [("label_efficiency", "pretrain", "rgb"), ("band_transfer", "three", "rgb"), ("band_transfer", "twelve", "l2a")],
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
