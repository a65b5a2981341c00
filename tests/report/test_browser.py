"""The page in a browser: maps under pointer and keyboard, tables, curves; no error, nothing fetched, names as text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.chromium import ABSENT, Browser, find_chromium
from fakes.maps import colour, write_map

from ssl_sat.report.html import Page, Prints
from ssl_sat.report.map_page import read_map

HOSTILE = (
    '<img src=x onerror="window.harmed=1">',
    "</script><script>window.harmed=2</script>",
    '"><b onmouseover=alert(1)>bold</b>',
    "{{7*7}} \u2028 & <sea>",
)
OURS = "Canvas2D: Multiple readback operations"  # a hint about what these tests do
ROWS = [
    {"runs": "b <i>x</i>", "accuracy": 0.9, "from": Prints(("1a2b3c4d",))},
    {"runs": "seed10", "accuracy": None},
    {"runs": "seed9", "accuracy": 0.1234567},
    {"runs": "a", "accuracy": -2.0},
    {"runs": "c", "accuracy": 0.5},
]


def write_page(folder: Path) -> Path:
    write_map(folder / "map", HOSTILE)
    page = Page("A page <script>window.harmed=3</script>", "with maps & tables")
    page.heading("Results")
    page.table(ROWS, caption="five runs", anchors=["fp-1a2b3c4d", *(f"row-{n}" for n in range(4))])
    page.heading("Maps")
    found = read_map(folder / "map")
    page.map(found.data, found.sheets)
    page.heading("Curves")
    lines = [
        {"name": f"run {n}", "group": group, "fingerprint": f"{n}" * 8, "xs": [1, 2, 3], "ys": [n + 1.0, n + 0.5, 0.1]}
        for n, group in enumerate(["<u>one</u>", "<u>one</u>", "two"])
    ]
    page.curves(
        {"x": "epoch", "panels": [{"name": "loss", "series": lines}, {"name": "accuracy", "series": lines[:1]}]}
    )
    return page.write(folder / "page.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if find_chromium() is None:
        assert not os.environ.get("SSL_SAT_NEEDS_BROWSER"), ABSENT
        pytest.skip(ABSENT)
    folder = tmp_path_factory.mktemp("browser")
    with Browser(folder / "profile") as browser:
        browser.open(write_page(folder))
        browser.evaluate("document.querySelector('.map').scrollIntoView({behavior: 'instant'})")
        browser.wait("document.querySelector('.map').patchMap?.panels[0].width")
        browser.evaluate("window.map = document.querySelector('.map').patchMap, 0")
        yield browser
        assert [error for error in browser.errors if not error.startswith(OURS)] == []
        assert [url for url in browser.requests if not url.endswith("page.html")] == []


@pytest.fixture(autouse=True)
def calm(browser: Browser) -> None:
    """Every test begins with nothing hidden, pinned or zoomed."""
    browser.evaluate("map.hidden.clear(); map.pinned = null; map.hover(null); map.reset(); map.legend(); 0")
    browser.evaluate("document.querySelector('.map').scrollIntoView({behavior: 'instant'})")


def place(browser: Browser, n: int, panel: int = 0) -> tuple[float, float]:
    """Where patch n lies in the window."""
    at = f"(() => {{ const b = map.panels[{panel}].over.getBoundingClientRect(), [x, y] = map.place({n}, {panel});"
    x, y = browser.evaluate(f"{at} return [b.left + x, b.top + y]; }})()")
    return x, y


def alone(browser: Browser) -> int:
    """A patch that no other covers in the first panel."""
    return browser.evaluate("""(() => {
      for (let n = 0; n < map.count; n++) {
        const [x, y] = map.place(n, 0); let least = 1e9;
        for (let m = 0; m < map.count; m++) {
          if (m !== n) { const [u, v] = map.place(m, 0); least = Math.min(least, Math.hypot(u - x, v - y)); }
        }
        if (least > 12) return n;
      }
    })()""")


def inked(browser: Browser, panel: int, canvas: str = "base") -> int:
    """Pixels of a panel that are drawn on."""
    browser.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return browser.evaluate(f"""(() => {{
      const c = map.panels[{panel}].{canvas}, d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
      let count = 0; for (let n = 3; n < d.length; n += 4) count += d[n] > 0; return count; }})()""")


def test_the_patch_itself_is_shown_under_the_pointer(browser: Browser) -> None:
    n = alone(browser)
    browser.move(*place(browser, n))
    browser.wait(f"map.hovered === {n} && map.big.dataset.painted === '{n}'")
    card = browser.evaluate("document.querySelector('.patch.shown').innerText")
    assert f"{n:04d}.tif" in card and "of 15 neighbours" in card
    painted = browser.evaluate("[...map.big.getContext('2d').getImageData(8, 8, 1, 1).data]")
    assert painted[:3] == pytest.approx(colour(n), abs=12)  # WebP is lossy
    near = browser.evaluate("map.near.querySelectorAll('canvas').length")
    assert near == 6
    assert inked(browser, 0, "over") > 0 and inked(browser, 1, "over") > 0  # ringed in both panels
    browser.move(5, 5)
    browser.wait("map.hovered === null && !document.querySelector('.patch.shown')")
    assert inked(browser, 1, "over") == 0


def test_all_panels_show_one_layout_and_move_together(browser: Browser) -> None:
    before = place(browser, 7, 0), place(browser, 7, 1)
    browser.evaluate("map.zoom(2)")
    after = place(browser, 7, 0), place(browser, 7, 1)
    middles = [browser.evaluate(f"""(() => {{ const b = map.panels[{at}].over.getBoundingClientRect();
      return [b.left + b.width / 2, b.top + b.height / 2]; }})()""") for at in (0, 1)]  # fmt: skip
    for at in (0, 1):
        for axis in (0, 1):
            moved = (before[at][axis] - middles[at][axis]) * 2
            assert after[at][axis] - middles[at][axis] == pytest.approx(moved, abs=0.01)


def test_a_click_pins_and_the_card_stays(browser: Browser) -> None:
    n = alone(browser)
    browser.click(*place(browser, n))
    browser.move(*place(browser, (n + 50) % 300))
    assert browser.evaluate("[map.pinned, map.hovered]") == [n, n]


def test_classes_and_data_sets_are_switched(browser: Browser) -> None:
    whole = inked(browser, 0)
    keys = "[...document.querySelectorAll('.map .legend button')]"
    texts = browser.evaluate(f"{keys}.map((key) => key.textContent)")
    assert texts == [
        "inside (all)(225)",
        *(f"{name}(75)" for name in HOSTILE[:3]),
        "outside (all)(75)",
        f"{HOSTILE[3]}(75)",
    ]
    browser.evaluate(f"{keys}[1].click()")
    one_less = inked(browser, 0)
    assert 0 < one_less < whole
    assert browser.evaluate(f"{keys}.map((key) => key.getAttribute('aria-pressed'))") == [
        "true", "false", "true", "true", "true", "true",
    ]  # fmt: skip
    browser.evaluate(f"{keys}[0].click()")  # all of the data set, as some of it is shown
    assert inked(browser, 0) < one_less
    browser.evaluate(f"{keys}[4].click()")
    assert inked(browser, 0) == inked(browser, 1) == 0
    browser.evaluate(f"{keys}[0].click()")
    assert inked(browser, 0) > one_less / 2
    assert browser.evaluate("document.activeElement.textContent") == "inside (all)(225)"  # the focus stays


def painted(browser: Browser, *colours: tuple[int, int, int]) -> list[bool]:
    """Whether the second panel shows these colours."""
    inked(browser, 1)
    return browser.evaluate(f"""(() => {{
      const c = map.panels[1].base, d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
      return {[list(colour) for colour in colours]}.map((colour) => {{
        for (let n = 0; n < d.length; n += 4) {{
          if (d[n + 3] > 150 && colour.every((value, k) => Math.abs(value - d[n + k]) < 8)) return true;
        }}
        return false;
      }}); }})()""")


def test_colours_change_with_what_is_asked(browser: Browser) -> None:
    first_class, inside, outside = (0x33, 0x22, 0x88), (0x44, 0x77, 0xAA), (0xBB, 0x55, 0x66)
    radios = "[...document.querySelectorAll('.map input[type=radio]')]"
    assert painted(browser, first_class, inside, outside) == [True, False, False]
    browser.evaluate(f"{radios}[1].click()")
    assert painted(browser, first_class, inside, outside) == [False, True, True]
    browser.evaluate(f"{radios}[2].click()")
    assert "100 %" in browser.evaluate("document.querySelector('.map .ramp').textContent")
    assert painted(browser, first_class, inside, outside) == [False, False, False]
    browser.evaluate(f"{radios}[0].click()")


def test_a_class_that_is_pointed_at_stands_out(browser: Browser) -> None:
    key = "document.querySelectorAll('.map .legend button')[1]"
    browser.evaluate(f"{key}.dispatchEvent(new PointerEvent('pointerenter'))")
    assert browser.evaluate("map.wanted") == [0]
    assert painted(browser, (0x33, 0x22, 0x88), (0x88, 0xCC, 0xEE)) == [True, False]
    browser.evaluate(f"{key}.dispatchEvent(new PointerEvent('pointerleave'))")
    assert painted(browser, (0x33, 0x22, 0x88), (0x88, 0xCC, 0xEE)) == [True, True]


def test_the_keyboard_goes_from_patch_to_patch(browser: Browser) -> None:
    browser.evaluate("map.panels[1].over.focus()")
    browser.press("ArrowRight")
    first = browser.evaluate("map.hovered")
    browser.press("ArrowRight")
    second = browser.evaluate("map.hovered")
    assert first is not None and second not in (None, first)
    assert place(browser, second, 1)[0] > place(browser, first, 1)[0]
    assert f"{second:04d}.tif" in browser.evaluate("map.live.textContent")
    browser.press("Enter")
    assert browser.evaluate("map.pinned") == second
    browser.press("Escape")
    assert browser.evaluate("[map.pinned, map.hovered]") == [None, None]
    browser.press("+")
    assert browser.evaluate("map.view.scale") == pytest.approx(1.4)
    browser.press("0")
    assert browser.evaluate("map.view.scale") == 1


def column(browser: Browser, rows: str = "tbody tr") -> list[str]:
    return browser.evaluate(f"[...document.querySelectorAll('table.data {rows}')].map((r) => r.cells[0].textContent)")


def test_tables_sort_by_value_and_name_and_back(browser: Browser) -> None:
    press = "document.querySelectorAll('table.data th button')[{}].click()"
    original = column(browser)
    browser.evaluate(press.format(1))
    assert column(browser) == ["a", "seed9", "c", "b <i>x</i>", "seed10"]  # what has no value stays last
    browser.evaluate(press.format(1))
    assert column(browser) == ["b <i>x</i>", "c", "seed9", "a", "seed10"]
    assert browser.evaluate("document.querySelectorAll('th')[1].getAttribute('aria-sort')") == "descending"
    browser.evaluate(press.format(0))
    assert column(browser) == ["a", "b <i>x</i>", "c", "seed9", "seed10"]
    browser.evaluate(press.format(0))
    browser.evaluate(press.format(0))
    assert column(browser) == original


def test_tables_filter_by_all_words(browser: Browser) -> None:
    typed = "(() => {{ const i = document.querySelector('.tabletop input'); i.value = {!r};"
    fire = " i.dispatchEvent(new Event('input')); })()"
    browser.evaluate(typed.format("SEED 0.12") + fire)
    assert column(browser, "tbody tr:not([hidden])") == ["seed9"]
    assert browser.evaluate("document.querySelector('.tabletop output').textContent") == "1 of 5 rows"
    browser.evaluate(typed.format("") + fire)
    assert len(column(browser, "tbody tr:not([hidden])")) == 5


def test_a_fingerprint_leads_to_its_artifact(browser: Browser) -> None:
    target = browser.evaluate("document.querySelector(document.querySelector('a.fp').getAttribute('href')).textContent")
    assert "1a2b3c4d" in target


def test_curves_are_chosen_and_read(browser: Browser) -> None:
    paths = "document.querySelectorAll('.curves > svg path').length"
    assert browser.evaluate(paths) == 3
    browser.evaluate("document.querySelector('.curves button.key').click()")
    assert browser.evaluate(paths) == 1
    browser.evaluate("document.querySelector('.curves button.key').click()")
    assert browser.evaluate("document.querySelector('.curves .legend').textContent") == "<u>one</u> (2 runs)two"
    browser.evaluate("document.querySelector('.curves').scrollIntoView({behavior: 'instant'})")
    found = browser.evaluate("""(() => {
      const c = document.querySelector('.curves').curves, f = c.svg.getBoundingClientRect();
      return [f.left + c.x(2) / 980 * f.width, f.top + c.y(1.5) / 360 * f.height]; })()""")
    browser.move(*found)
    read = browser.evaluate("document.querySelector('.curves output').textContent")
    assert read == "run 1: 1.5 at epoch 2 (11111111)"
    browser.evaluate("""(() => {
      const select = document.querySelector('.curves select');
      select.value = 1; select.dispatchEvent(new Event('change')); })()""")
    assert browser.evaluate(paths) == 1


def test_hostile_names_are_text(browser: Browser) -> None:
    n = alone(browser)
    browser.move(*place(browser, n))
    browser.wait("document.querySelector('.patch.shown')")
    shown = browser.evaluate("document.body.innerText")
    assert all(name.replace("\u2028", "")[:12] in shown.replace("\u2028", "") for name in HOSTILE)
    assert "A page <script>" in shown and "b <i>x</i>" in shown
    assert browser.evaluate("typeof window.harmed") == "undefined"
    assert (
        browser.evaluate("document.querySelectorAll('img[src=x], main b, .patch b, main u, main i:not(.bar i)').length")
        == 0
    )


def test_nothing_else_may_run(browser: Browser) -> None:
    """The policy of the page stops a script that is put into it."""
    browser.evaluate("""(() => { const s = document.createElement('script'); s.textContent = 'window.harmed = 4';
      document.body.append(s); })()""")
    assert browser.evaluate("typeof window.harmed") == "undefined"
    expected = [error for error in browser.errors if "Content Security Policy" in error]
    assert expected
    browser.errors = [error for error in browser.errors if error not in expected]
