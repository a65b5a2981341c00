import os

from ssl_sat.graph.code import CodeDigests
from ssl_sat.provenance import code_digests


def test_a_kept_digest_follows_its_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    source = tmp_path / "module_that_changes.py"
    source.write_text("VALUE = 1\n")
    kept = tmp_path / ".graph" / "code.json"
    first = CodeDigests(kept)
    digest = first["module_that_changes"]
    assert digest == code_digests(["module_that_changes"])["module_that_changes"]
    first.keep()
    assert not kept.exists()  # a dry run in an empty folder writes nothing
    kept.parent.mkdir()
    first.keep()
    assert CodeDigests(kept)["module_that_changes"] == digest

    source.write_text("VALUE = 2\n")
    os.utime(source, ns=(1, 1))
    assert CodeDigests(kept)["module_that_changes"] != digest
    assert CodeDigests(kept)["module_that_never_was"] == ""
    kept.write_text("{ half")
    assert CodeDigests(kept)["module_that_changes"] not in ("", digest)
