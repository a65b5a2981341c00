"""Progress: rate and time left are of the work since the first call."""

import io

import pytest

from ssl_sat.progress import Rate, clock, counter


def test_rate_counts_new_work_only() -> None:
    now = [100.0]
    rate = Rate(lambda: now[0])
    rate.note(400, 1000, 160_000)
    assert rate.a_second == 0.0 and rate.left is None
    now[0] += 10.0
    rate.note(600, 1000, 160_000)
    assert rate.a_second == 20.0 and rate.left == 20.0
    assert rate.text("patches") == "20 patches/s, 3.2 MB/s, 0:20 left"
    now[0] += 20.0
    rate.note(1000, 1000, 0)
    assert rate.text("patches") == "20 patches/s"


@pytest.mark.parametrize("seconds, shown", [(0.4, "0:00"), (59.7, "1:00"), (760, "12:40"), (10_930, "3:02:10")])
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_lines_in_a_log(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    times = iter(range(0, 1000, 6))
    with counter("pack", "patches") as advance:
        for done in (10, 11, 40):
            advance(done, 40, 1_000_000)
    assert capsys.readouterr().out.splitlines() == [
        "  pack: 11/40 patches, 0 patches/s, 0.2 MB/s, 2:54 left",
        "  pack: 40/40 patches, 2 patches/s, 2.5 MB/s",
    ]
    with counter("pack", "patches", shown=False) as advance:
        advance(1, 2)
    assert capsys.readouterr().out == ""
