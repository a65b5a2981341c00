"""Keys: golden values, and no two different paths with one key."""

import hashlib
import itertools

from ssl_sat.seeding import key


def test_golden_values() -> None:
    digest = hashlib.sha256(b"0:batch-order:7").digest()
    assert key(0, "batch-order", 7) == int.from_bytes(digest[:8], "little") >> 1
    assert key(0, "batch-order", 7) == 7050919461821212474


def test_every_part_counts() -> None:
    paths = [(s, *p) for s in range(3) for n in range(4) for p in itertools.product((0, 1, "a"), repeat=n)]
    assert len({key(*path) for path in paths}) == len(paths)  # type: ignore[arg-type]


def test_a_colon_joins_no_parts() -> None:
    odd = [("a:b",), ("a", "b"), ("a\\", "b"), ("a\\:b",), ("a:", "b"), ("a", ":b"), ("a", "", "b")]
    assert len({key(0, *parts) for parts in odd}) == len(odd)


def test_keys_fit_torch_generators() -> None:
    assert all(0 <= key(seed, "x") < 2**63 for seed in range(1000))
