"""Every page of the built book, as a reader with the network unplugged sees it, at two widths."""

import re
import sys
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import links  # noqa: E402
import pictures  # noqa: E402

BUILD = ROOT / "_build" / "stored" / "_build" / "html"
PAGES = sorted(
    path.relative_to(BUILD).as_posix()
    for path in BUILD.rglob("*.html")
    if "_static" not in path.parts and path != BUILD / "index.html"  # index.html only redirects
)
FRAMES = [name for name in PAGES if 'class="wdtr-frames' in (BUILD / name).read_text()]
WIDE, NARROW = 1280, 390

pytestmark = pytest.mark.skipif(
    not PAGES, reason="browser checks not run: no book in _build/stored (make test)"
)

# What a reader can unfold is checked too.
UNFOLD = """() => {
    const style = document.createElement("style");
    style.textContent = "* { animation: none !important; transition: none !important; }";
    document.head.append(style);  // colours are judged at rest
    const folded = "main details:not([open]) > summary, main button.toggle-button-hidden";
    document.querySelectorAll(folded).forEach((button) => button.click());
}"""
FORMULAS = """async () => {
    if (document.querySelector(".math")) await MathJax.startup.promise;
    const problems = [...document.querySelectorAll(".math")]
        .filter((math) => !math.querySelector("mjx-container"))
        .map((math) => "formula not rendered: " + math.textContent);
    for (const error of document.querySelectorAll("mjx-merror, [data-mjx-error]"))
        problems.push("formula in error: " + error.textContent);
    const prose = document.querySelector("main").cloneNode(true);
    prose.querySelectorAll("pre, code, script, mjx-container").forEach((node) => node.remove());
    for (const raw of prose.textContent.matchAll(/.*(\\$\\$|\\\\[([]|\\\\[A-Za-z]{2,}).*/g))
        problems.push("raw TeX: " + raw[0]);
    return problems;
}"""
IMAGES = """async () => {
    const problems = [];
    for (const image of document.images) {
        image.loading = "eager";
        await image.decode().catch(() => {});
        if (!image.naturalWidth) problems.push("image not loaded: " + image.src.slice(-80));
        if (!image.alt.trim() || image.alt.includes("_images/"))  // or its own address
            problems.push("image without alt text: " + image.src.slice(-80));
    }
    return problems;
}"""
SIDEWAYS = """() => {
    const excess = document.documentElement.scrollWidth - innerWidth;
    return excess > 1 ? [`the page scrolls sideways by ${excess} px`] : [];
}"""
LAYOUT = (Path(__file__).parent / "layout.js").read_text()
SHOWN_PICTURES = """() => [...document.querySelectorAll("main img")]
    .filter((image) => image.checkVisibility() && image.clientWidth)
    .map((image) => [image.src, image.getBoundingClientRect().width, image.alt.slice(0, 60)])"""
# Of texts in the same colours on the same ground, one is judged: contrast is slow to judge.
KINDS_OF_TEXT = """() => {
    const grounds = new Map();
    const ground = (element) => {
        if (element && !grounds.has(element)) {
            const { backgroundColor, backgroundImage, opacity } = getComputedStyle(element);
            const own = [backgroundColor, backgroundImage, opacity];
            grounds.set(element, [ground(element.parentElement), ...own].join(" "));
        }
        return grounds.get(element);
    };
    const seen = new Set();
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const element = texts.currentNode.parentElement;
        delete element.dataset.judged;
        const shown = element.checkVisibility({ visibilityProperty: true });
        if (!shown || !texts.currentNode.data.trim()) continue;
        const { color, fontSize, fontWeight, textShadow } = getComputedStyle(element);
        const kind = [ground(element), color, fontSize, fontWeight, textShadow].join(" ");
        if (!seen.has(kind)) element.dataset.judged = "";
        seen.add(kind);
    }
}"""
MENU_SHOWN = """() => {
    const menu = document.querySelector(".bd-sidebar-primary");
    const box = menu.getBoundingClientRect();
    return box.width > 0 && box.left > -1 && getComputedStyle(menu).visibility === "visible";
}"""


def url(name):
    return (BUILD / name).as_uri()


def small_letters(page):
    """In pictures, as far as these tell."""
    problems = []
    for source, width, alt in page.evaluate(SHOWN_PICTURES):
        found = pictures.measures(source.removeprefix("file://"), "")
        if found and found[0]:
            inches, points = found
            size = points * width / (72 * inches)
            if size < pictures.SMALLEST - 0.05:
                problems.append(f"letters of {size:.1f} px in the picture: {alt}")
    return problems


def axe_findings(page, context=None, **options):
    # preload would fetch the style sheets again, which file:// refuses; no rule that is on needs it
    options |= {"preload": False, "resultTypes": ["violations"]}
    return [
        f"axe: {finding['help']} ({finding['id']}): {node['html'][:200]}"
        for finding in Axe().run(page, context, options).response["violations"]
        if finding["impact"] in ("serious", "critical")
        for node in finding["nodes"]
    ]


def contrast_findings(page, theme):
    page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
    page.evaluate(KINDS_OF_TEXT)
    findings = axe_findings(page, {"include": [["[data-judged]"]]}, runOnly=["color-contrast"])
    return [f"{theme}: {finding}" for finding in findings]


def check_menu(page, width):
    """It opens and closes; at the wide width it starts open."""
    toggle = page.locator("button.primary-toggle")
    links = page.locator(".bd-sidebar-primary nav a.internal")
    shown = width == WIDE
    assert page.evaluate(MENU_SHOWN) == shown
    toggle.click()
    page.wait_for_function(f"() => ({MENU_SHOWN})() === {str(not shown).lower()}")
    if width == WIDE:
        toggle.click()
    page.wait_for_function(MENU_SHOWN)
    assert links.count() > 5 and links.first.is_visible()
    if width == NARROW:
        page.mouse.click(NARROW - 5, 400)  # beside the menu
        page.wait_for_function(f"() => !({MENU_SHOWN})()")


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", PAGES)
def test_page(open_page, name, width):
    page = open_page(url(name), width)
    page.evaluate(UNFOLD)
    problems = page.evaluate(FORMULAS)
    problems += page.evaluate(IMAGES)
    problems += page.evaluate(SIDEWAYS)
    problems += page.evaluate(LAYOUT, pictures.SMALLEST) + small_letters(page)
    problems += axe_findings(page, rules={"color-contrast": {"enabled": False}})
    if width == WIDE:  # colours are the same at both
        problems += contrast_findings(page, "light") + contrast_findings(page, "dark")
    assert not problems, "\n".join([f"{name} at {width} px:", *problems])
    check_menu(page, width)
    assert not page.problems


@pytest.mark.parametrize("name", PAGES)
def test_page_leads_to_the_paper_and_to_its_source(name):
    page = (BUILD / name).read_text()
    assert page.count(f'href="{links.PAPER}"') >= 2  # above and below
    if name == "search.html":
        return
    (source,) = re.findall(r'<a href="([^"]*)" download="', page)
    source = (BUILD / name).parent / source
    assert source.is_file() and source.stem == Path(name).stem


def test_notebook_is_downloaded(open_page):
    page = open_page(url("book/intro.html"), WIDE)
    with page.expect_download() as download:
        page.locator("a[download]").click()
    assert download.value.suggested_filename == "intro.ipynb"
    source = BUILD / "_sources" / "book" / "intro.ipynb"
    assert Path(download.value.path()).read_text() == source.read_text()


def test_each_entry_of_the_bibliography_has_its_address(open_page):
    page = open_page(url("book/bibliography.html"), NARROW)
    entries = page.locator(".citation")
    assert entries.count() > 30
    for entry in entries.all():
        assert entry.locator("a[href^=https]").count() == 1


def test_a_cut_box_fades_on_the_side_that_is_cut(open_page):
    page = open_page(url("book/fast_penalty.html"), NARROW)
    box = page.locator("pre.scrolls:visible").first
    assert "cut-right" in box.get_attribute("class")
    box.evaluate("box => { box.id = 'scrolled'; box.scrollTo(1e4, 0); }")
    page.wait_for_selector("#scrolled.cut-left:not(.cut-right)")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_symbols_explain_themselves(open_page, width, theme):
    page = open_page(url("book/metric_tensor.html"), width)
    page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
    page.evaluate("MathJax.startup.promise.then(() => null)")
    symbol = page.locator(".symbol:visible").first
    said = symbol.get_attribute("title")
    assert said and symbol.get_attribute("tabindex") is None
    symbol.hover()
    tip = page.locator(".symbol-tip")
    assert tip.is_visible() and tip.inner_text() == said
    assert symbol.get_attribute("title") is None  # the browser's own would cover it
    box = tip.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert axe_findings(page, {"include": [[".symbol-tip"]]}, runOnly=["color-contrast"]) == []
    page.mouse.move(1, 1)
    assert tip.is_hidden() and symbol.get_attribute("title") == said


@pytest.mark.parametrize("name", FRAMES[:1])
def test_print_shows_the_current_frame_and_what_is_folded(open_page, name):
    page = open_page(url(name), WIDE)
    control = page.locator(".wdtr-frames input, .wdtr-frames select").first
    control.focus()
    control.press("End")
    shown = page.locator(".wdtr-frames").first.locator("figure[data-shown] figcaption").inner_text()
    page.evaluate("""() => addEventListener("beforeprint", () => {
        const folded = [...document.querySelectorAll("main details:not([open])")];
        const frame = document.querySelector(".wdtr-frames figure[data-shown]");
        window.printed = {
            unnamed: folded.filter((one) => !one.querySelector("summary").innerText.trim()).length,
            folded: folded.filter((one) => !one.matches(".above-input")).length,
            outputs: folded.filter((one) => one.querySelector(".cell_output")).length,
            frame: frame.innerText.trim(), visible: frame.checkVisibility(),
        };
    })""")
    assert page.pdf().startswith(b"%PDF")
    printed = page.evaluate("printed")
    assert printed == {
        "unnamed": 0,
        "folded": 0,
        "outputs": 0,
        "frame": shown.strip(),
        "visible": True,
    }
    assert page.locator("main details[open]").count() == 0  # folded again


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_search_finds_a_word(open_page, width):
    page = open_page(url("book/intro.html"), width)
    page.locator(
        "button.search-button__button:visible, button.search-button-field:visible"
    ).first.click()
    page.locator("input[name=q]:visible").fill("transport")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a")
    assert page.locator("#search-results li a", has_text="Discrete optimal transport").count()
    assert page.evaluate(SIDEWAYS) == []
    assert not page.problems


@pytest.mark.parametrize("name", FRAMES)
def test_frames_follow_the_keyboard(open_page, name):
    page = open_page(url(name), WIDE)
    for frames in page.locator(".wdtr-frames").all():
        shown = frames.locator("figure:visible")
        control = frames.locator("input[type=range], select").last
        control.focus()
        control.press("Home")
        assert shown.count() == 1
        first = shown.inner_html()
        control.press(
            "ArrowDown"
            if control.evaluate("control => control.tagName") == "SELECT"
            else "ArrowRight"
        )
        assert shown.count() == 1
        assert shown.inner_html() != first
    assert not page.problems


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", FRAMES)
def test_frames_without_scripts_are_small_multiples(open_page, name, width):
    page = open_page(url(name), width, java_script_enabled=False)
    for frames in page.locator(".wdtr-frames").all():
        figures = frames.locator("figure")
        assert figures.count() > 1
        assert all(figure.is_visible() for figure in figures.all())
