"""A Chromium that is already installed, pages from `file://`, and no network at all."""

import re
import shutil

import pytest
from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = [
    "--no-sandbox",  # needed as root, in containers
    "--disable-gpu",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]


@pytest.fixture(scope="session")
def browser():
    if not CHROMIUM:
        pytest.skip(f"browser checks not run: none of {', '.join(NAMES)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """`open_page(url, width)` opens a page, whose `.problems` are console errors and refused
    requests.
    """
    contexts = []

    def open_page(url, width, **options):
        context = browser.new_context(viewport={"width": width, "height": 844}, **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.problems = []

        def refuse_network(route):
            page.problems.append(f"asks the network for {route.request.url}")
            route.abort()

        context.route(re.compile(r"^(?!file:|data:|blob:)"), refuse_network)
        page.on("pageerror", lambda error: page.problems.append(f"script error: {error}"))
        page.on(
            "console",
            lambda message: (
                message.type == "error"
                and page.problems.append(
                    f"console error: {message.text} ({message.location['url']})"
                )
            ),
        )
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
