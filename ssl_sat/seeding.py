"""Seeds as keys: every draw names what it is for, so that none depends on what ran before it."""

from __future__ import annotations

import hashlib


def key(seed: int, *parts: int | str) -> int:
    """Return a 63-bit seed that depends on `seed` and on every part, and on nothing else.

    `key(0, "batch-order", epoch)` and `key(0, "dropout", epoch, step)` are independent streams; a colon inside a
    part is escaped, so that ('a:b',) and ('a', 'b') differ.
    """
    escaped = [str(part).replace("\\", r"\\").replace(":", r"\:") for part in parts]
    text = ":".join([str(int(seed)), *escaped])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
