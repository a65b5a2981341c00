import json

import pytest

from ssl_sat.graph.estimate import ENCODER, LIKE, STAGE, Guess, duration, guesses, in_words
from ssl_sat.graph.plan import Node, Plan


def run(outputs, name, seconds, epochs, patches, image_size=64, **facts):
    folder = outputs / "pretrain" / name
    folder.mkdir(parents=True)
    for file, values in {
        "artifact": {},
        "provenance": {"seconds": seconds, "resumed": False, **facts},
        "metrics": {"patches": patches},
        "config": {"epochs": epochs, "image_size": image_size},
    }.items():
        (folder / f"{file}.json").write_text(json.dumps(values))


def node(name, kind="cnn-rgb-simclr-s5", needs=(), state="to do", **config):
    values = {"epochs": 4, "image_size": 64, "subset": {"patches": 100}, **config}
    return Node(name, name, "pretrain", {}, [], {str(at): need for at, need in enumerate(needs)},
                f"pretrain/{kind}-0123abcd", name * 8, {}, False, state, values)  # fmt: skip


def plan(outputs, *nodes):
    return Plan("x", "?", str(outputs), ".", list(nodes))


def test_the_nearest_runs_are_scaled_by_epochs_and_patches(tmp_path):
    run(tmp_path, "cnn-rgb-simclr-s0-00000001", 30.0, 2, 50)
    run(tmp_path, "cnn-rgb-simclr-s1-00000002", 50.0, 2, 50)
    run(tmp_path, "cnn-rgb-simclr-s2-00000003", 1.0, 2, 50, resumed=True)  # the time of its last part alone
    run(tmp_path, "cnn-rgb-byol-s0-00000004", 10.0, 4, 100)
    run(tmp_path, "vit-rgb-simclr-s0-00000005", 70.0, 4, 100)
    found = guesses(plan(tmp_path, node("a"), node("b", "cnn-rgb-dcl-s0"), node("c", "swin-rgb-dcl-s0", image_size=32)))
    assert found["a"] == Guess(4 * 40.0, LIKE, 2)  # twice the epochs, twice the patches
    assert (found["b"].basis, found["b"].runs) == (ENCODER, 3)
    assert found["b"].seconds == 4 * 30.0  # of 120, 200 and 10 seconds for its work
    assert (found["c"].basis, found["c"].runs) == (STAGE, 4)


def test_where_patches_are_unknown_the_same_encoder_is_scaled_by_epochs(tmp_path):
    run(tmp_path, "cnn-rgb-simclr-s0-00000001", 30.0, 2, 50)
    assert guesses(plan(tmp_path, node("a", subset=None)))["a"] == Guess(60.0, LIKE, 1)
    assert guesses(plan(tmp_path, node("a", "cnn-rgb-byol-s0", subset=None)))["a"] == Guess(60.0, ENCODER, 1)
    assert guesses(plan(tmp_path, node("a", state="done"))) == {}


def test_a_short_run_of_a_small_encoder_tells_nothing_of_a_long_one_of_a_large_encoder(tmp_path):
    run(tmp_path, "resnet18-rgb-simclr-s0-00000001", 20.0, 2, 300)
    large = node("a", "resnet50-bigearthnet_v1-simclr-s0", epochs=300, subset=None)
    assert guesses(plan(tmp_path, large)) == {}
    assert in_words(plan(tmp_path, large), {}, 1).startswith("no estimate")
    known = node("a", "resnet50-bigearthnet_v1-simclr-s0", epochs=300, subset={"patches": 3000})
    assert guesses(plan(tmp_path, known))["a"] == Guess(20.0 * 150 * 10, STAGE, 1)


def test_training_of_unknown_length_is_unknown_and_a_stage_without_epochs_takes_the_time_as_it_is(tmp_path):
    run(tmp_path, "cnn-rgb-simclr-s0-00000001", 30.0, None, 50)
    assert guesses(plan(tmp_path, node("a"))) == {}
    assert guesses(plan(tmp_path, node("a", epochs=None, subset=None)))["a"] == Guess(30.0, LIKE, 1)


def test_times_that_an_earlier_version_kept_are_read_again(tmp_path):
    (tmp_path / ".graph").mkdir()
    run(tmp_path, "cnn-rgb-simclr-s0-00000001", 30.0, 2, 50)
    old = {"stage": "pretrain", "kind": "cnn-rgb-simclr", "image_size": 64, "work": None, "seconds": 9.0}
    (tmp_path / ".graph" / "times.json").write_text(json.dumps({"pretrain/cnn-rgb-simclr-s0-00000001": old}))
    assert guesses(plan(tmp_path, node("a")))["a"] == Guess(120.0, LIKE, 1)


def test_a_schedule_of_two_at_a_time(tmp_path):
    nodes = [node("a"), node("b", needs=["a"]), node("c", needs=["a"]), node("d"), node("e", needs=["b", "c"])]
    known = {name: Guess(seconds, LIKE, 1) for name, seconds in zip("abcd", (10.0, 20.0, 30.0, 5.0), strict=True)}
    made = plan(tmp_path, *nodes)
    assert duration(made, known, 1) == 65.0
    assert duration(made, known, 2) == 40.0  # a, then b and c side by side, d after b; e is unknown
    words = in_words(made, known, 2)
    assert (
        words == "about 0:40 to come with 2 at a time (5 nodes: 4 by runs of the same kind, 1 unknown and not counted)"
    )
    assert in_words(made, {}, 2).startswith("no estimate")
    assert in_words(plan(tmp_path, node("a", state="done")), {}, 1) == "nothing is left to do"


def test_known_times_are_kept(tmp_path):
    (tmp_path / ".graph").mkdir()
    run(tmp_path, "cnn-rgb-simclr-s0-00000001", 30.0, 2, 50)
    first = guesses(plan(tmp_path, node("a")))
    (tmp_path / "pretrain/cnn-rgb-simclr-s0-00000001/provenance.json").write_text("{")
    assert guesses(plan(tmp_path, node("a"))) == first  # an artifact never changes
    assert first["a"].seconds == pytest.approx(120.0)
