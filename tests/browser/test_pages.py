"""Every page of the built book, as a reader with the network unplugged sees it, at two widths."""

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

BUILD = Path(__file__).parents[2] / "_build" / "stored" / "_build" / "html"
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
        if (!image.alt.trim()) problems.push("image without alt text: " + image.src.slice(-80));
    }
    return problems;
}"""
SIDEWAYS = """() => {
    const excess = document.documentElement.scrollWidth - innerWidth;
    return excess > 1 ? [`the page scrolls sideways by ${excess} px`] : [];
}"""
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
    problems += axe_findings(page, rules={"color-contrast": {"enabled": False}})
    if width == WIDE:  # colours are the same at both
        problems += contrast_findings(page, "light") + contrast_findings(page, "dark")
    assert not problems, "\n".join([f"{name} at {width} px:", *problems])
    check_menu(page, width)
    assert not page.problems


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
