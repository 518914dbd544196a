"""The pages in a real browser: no sideways scrolling, readable in both colour schemes, named and usable by keyboard.

Wants Chromium (Debian's ``chromium``, or the path in CHROMIUM) and ``pip install playwright``.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mnmt_ds.cli.main import main
from tests.evaluation.runs import SIZES, curve_run, evaluated
from tests.reporting.test_compare import LSSD, PLAIN, REFERENCES, WORSE

pytestmark = pytest.mark.slow
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or ""
CONTRAST = """() => {
  const channel = c => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4 };
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const faults = [];
  for (const node of document.querySelectorAll("main *:not(svg):not(svg *):not(script):not(option)")) {
    const own = [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
    const text = node.textContent.trim().slice(0, 40);
    if ((a + 0.05) / (b + 0.05) < 4.5) faults.push(node.tagName + "." + node.className + ": " + text);
  }
  return faults;
}"""
"""Texts whose contrast is under WCAG's 4.5."""
NAMELESS = """() => [...document.querySelectorAll("figure, img, button, select, input, .scroll, a")].filter(node => {
  const name = node.getAttribute("aria-label") || node.getAttribute("alt") || node.textContent.trim()
    || (node.labels && node.labels.length && node.labels[0].textContent.trim());
  return node.checkVisibility() && !name;
}).map(node => node.outerHTML.slice(0, 80))"""
"""What a screen reader has no name for."""
UNREACHABLE = """() => [...document.querySelectorAll(".scroll, figure")].filter(
  node => node.scrollWidth > node.clientWidth && node.tabIndex < 0).map(node => node.className)"""
"""What scrolls and cannot be reached by keyboard."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if not CHROMIUM:
        pytest.skip("no chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of few runs, of ten runs with a thousand pairs, and of ``prepare --preview``."""
    root = tmp_path_factory.mktemp("pages")
    runs = [curve_run(root / name, name, method) for name, method in (("plain", PLAIN), ("lssd", LSSD))]
    for run, hypotheses in zip(runs, (WORSE, REFERENCES), strict=True):
        evaluated(run, hypotheses, REFERENCES)
    assert main(["compare", *map(str, runs), "-o", str(root / "few"), "--samples", "100"]) == 0
    sizes = {f"l{i:03}-en": 100 + i for i in range(1000)}
    many = [curve_run(root / f"m{i}", f"m{i}", PLAIN if i % 2 else LSSD, i, 5, sizes) for i in range(10)]
    assert main(["compare", *map(str, many), "-o", str(root / "many")]) == 0
    rows = "".join(f"{'dugo ' * 40}{i}\tlong {'%s ' * (i % 3)}{i}\n" for i in range(60))
    (root / "a.tsv").write_text(rows)
    recipe = root / "recipe.yaml"
    corpora = {"bs-en": {"train": [{"format": "tsv", "path": str(root / "a.tsv")}]}}
    data = {"directory": str(root / "data"), "pairs": ["bs-en"], "corpora": corpora}
    recipe.write_text(yaml.safe_dump({"data": data}))
    assert main(["prepare", str(recipe), "--preview", str(root / "preview.html")]) == 0
    return {
        "few": root / "few" / "compare.html",
        "many": root / "many" / "compare.html",
        "preview": root / "preview.html",
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("name", ["few", "many", "preview"])
def test_a_page(browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: faults.append(request.url) if request.url.startswith("http") else None)
    page.goto(pages[name].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    for probe in (CONTRAST, NAMELESS, UNREACHABLE):
        assert page.evaluate(probe) == []
    assert faults == []
    context.close()


def test_every_chart_has_axes_with_names(browser: Any, pages: dict[str, Path]) -> None:
    """Of each panel (its axes' own group) some text is neither a number nor a pair: what is drawn, and its unit."""
    page = browser.new_page()
    page.goto(pages["few"].as_uri())
    charts = page.evaluate(
        "[...document.querySelectorAll('figure')].map(f => [f.getAttribute('aria-label'),"
        " [...f.querySelectorAll('text')].map(t => t.textContent.trim())])"
    )
    assert len(charts) >= 6
    for title, texts in charts:
        words = [text for text in texts if any(letter.isalpha() for letter in text) and text.split(" →")[0] not in
                 {pair.split("-")[0] for pair in SIZES} | {"plain", "lssd"}]  # fmt: skip
        assert words, title


def test_the_table_of_pairs_by_keyboard(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(pages["many"].as_uri())
    names = "[...document.querySelectorAll('.pairs tbody tr td:first-child')].map(cell => cell.textContent)"
    search = page.get_by_label("pairs whose name has")
    search.focus()
    page.keyboard.type("l99")
    assert page.evaluate(names) and all(name.startswith("l99") for name in page.evaluate(names))
    heading = page.get_by_role("button", name="pair", exact=True)
    heading.focus()
    page.keyboard.press("Enter")
    assert page.evaluate(names)[0] == "l990 → en"
    page.keyboard.press("Enter")
    assert page.evaluate(names)[0] == "l999 → en"
    assert page.locator(".pairs th").first.get_attribute("aria-sort") == "descending"
