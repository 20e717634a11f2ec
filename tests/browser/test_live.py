"""What the widgets compute in the page, against the package."""

import base64

import numpy as np
import pytest
import torch

from wdtr_lite import PixelGraph, attacks, data, evaluation, metric, models, transport
from wdtr_lite.book import live
from wdtr_lite.study.questions import PADDINGS

DIGITS = data.load("mnist5k").images
FOUR, TWO = DIGITS[2000], DIGITS[1036]


@pytest.fixture(scope="module")
def compute(browser):
    """`compute(expression, argument)` in a page with the scripts of a widget."""
    context = browser.new_context()
    page = context.new_page()
    for name in ("transport", "classifiers", "photograph"):
        page.add_script_tag(content=live.script(name))
    yield page.evaluate
    context.close()


def listed(image):
    return image.double().flatten().tolist()


@pytest.mark.parametrize(("x", "y"), [(FOUR, TWO), (FOUR, FOUR.roll(2, 1)), (TWO, FOUR)])
def test_distances(compute, x, y):
    a, b = (transport.as_measure(image.double()) for image in (x, y))
    found = compute(
        """([a, b, epsilon]) => {
            [a, b] = [a, b].map((each) => wdtr.measure(Float64Array.from(each)));
            return [wdtr.l2(a, b), wdtr.transport(a, b, epsilon).distance];
        }""",
        [listed(x), listed(y), live.EPSILON],
    )
    right = transport.sinkhorn_distance(a, b, epsilon=live.EPSILON, debiased=True)
    assert found == pytest.approx([float((a - b).norm()), float(right)], rel=1e-3)


@pytest.mark.parametrize("t", [0, 0.3, 1])
def test_ink_on_its_way(compute, t):
    """Against the plan by brute force, in pixels that the plan does not reach too."""
    a, b = (transport.as_measure(image.double()).flatten().numpy() for image in (FOUR, TWO))
    place = np.stack(np.divmod(np.arange(784), 28), 1).astype(float)
    cost = ((place[:, None] - place) ** 2).sum(-1)
    u, kernel = np.ones(784), np.exp(-cost / 1.0)
    for _ in range(5000):
        v = 1 / (kernel.T @ (a * u))
        u = 1 / (kernel @ (b * v))
    plan = (a * u)[:, None] * kernel * (b * v)
    i, j = plan.nonzero()
    at = (1 - t) * place[i] + t * place[j]
    down, right = (at - np.minimum(26, np.floor(at))).T
    row, column = np.minimum(26, np.floor(at)).astype(int).T
    expected = np.zeros((28, 28))
    for dr, share in ((0, 1 - down), (1, down)):
        for dc, part in ((0, 1 - right), (1, right)):
            np.add.at(expected, (row + dr, column + dc), plan[i, j] * share * part)
    found = compute(
        """([a, b, t]) => {
            [a, b] = [a, b].map((each) => Float64Array.from(each));
            return [...wdtr.between(wdtr.transport(a, b, 1).plan, t)];
        }""",
        [a.tolist(), b.tolist(), t],
    )
    assert np.abs(np.reshape(found, (28, 28)) - expected).max() < 1e-3 * expected.max()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return live.rounded(models.small_cnn(mean=0.2, std=0.4)).eval()


@pytest.mark.parametrize("digit", [FOUR, TWO])
def test_answers_and_gradients(compute, network, digit):
    x = digit[None, None].float() / 255
    found = compute(
        """([weights, x, epsilon, radius]) => {
            x = Float64Array.from(x);
            const network = wdtr.network(weights);
            const { logits } = wdtr.forward(network, x);
            const label = logits.indexOf(Math.max(...logits));
            const gradient = wdtr.gradient(network, x, label);
            return [logits, gradient, wdtr.laplacian(x, gradient, radius),
                wdtr.attacked(x, gradient, epsilon)].map((each) => [...each]);
        }""",
        [live.weights(network), listed(x), 0.1, live.RADIUS],
    )
    with torch.no_grad():
        logits = network(x)
    y = logits.argmax(1)
    gradient = attacks.input_gradient(network, x, y)
    graph = PixelGraph(28, 28, live.RADIUS)
    right = [
        logits[0],
        gradient,
        metric.apply_laplacian(graph, x, gradient),
        attacks.fgsm(network, x, y, 0.1),
    ]
    for computed, expected in zip(found, right, strict=True):
        size = float(expected.abs().max())
        assert np.abs(np.array(computed) - expected.flatten().numpy()).max() < 1e-3 * size


def test_rounded_weights_are_the_page_s(network):
    for layer, stored in zip(live.layers(network), live.weights(network)["layers"], strict=True):
        whole = np.frombuffer(base64.b64decode(stored["weights"]), np.int8)
        weight = whole.reshape(len(stored["scales"]), -1) * np.array(stored["scales"])[:, None]
        assert np.allclose(weight, layer.weight.detach().flatten(1).numpy(), rtol=1e-5)


@pytest.mark.parametrize("degrees", [0, 30])
def test_a_moved_and_blurred_digit(compute, degrees):
    """scipy moves by whole pixels, and turns, alike."""
    from scipy import ndimage

    x = FOUR.double().numpy()
    found = compute(
        """([x, degrees]) => {
            const moved = wdtr.moved(Float64Array.from(x), 3, -2, degrees);
            return [...wdtr.blurred(moved, 1.5)];
        }""",
        [x.flatten().tolist(), degrees],
    )
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    back, middle = np.array([[c, -s], [s, c]]), np.full(2, 13.5)
    offset = middle - back @ (middle + [-2, 3])
    moved = ndimage.affine_transform(x, back, offset, order=1, mode="grid-constant")
    expected = ndimage.gaussian_filter(moved, 1.5, mode="constant", truncate=4)
    assert np.abs(np.reshape(found, (28, 28)) - expected).max() < 1e-3 * 255


@pytest.mark.parametrize("border", PADDINGS)
def test_a_moved_photograph(compute, border):
    pixels = torch.randint(256, (3, 32, 32), generator=torch.Generator().manual_seed(0))
    found = compute(
        "([x, border]) => [...wdtr.shifted(Uint8Array.from(x), 32, -5, 7, border)]",
        [pixels.flatten().tolist(), border],
    )
    moved = evaluation.translation_sequence(pixels.double(), "vertical", [7], border)
    moved = evaluation.translation_sequence(moved[0], "horizontal", [-5], border)
    assert found == moved.flatten().tolist()


# ---------------------------------------------------------------- in a page

DRAWN = {"a 4": FOUR, "a 2": TWO}
PLACES = {  # of two images, the label of each of nine places
    border: [[(k + first) % 10 for k in range(9)]] * 2 for first, border in enumerate(PADDINGS)
}


def report():
    pixels = torch.arange(3072).remainder(256).to(torch.uint8).numpy().tobytes().hex()
    rows = [{"method": method, "measurements": PLACES} for method in ("none", "wasserstein")]
    images = [{"label": 4, "pixels": pixels}, {"label": 3, "pixels": pixels}]
    return {"config": {"reach": 1}, "result": {"images": images, "rows": rows}}


@pytest.fixture(scope="module")
def widgets(network):
    return {
        "transport": live.draw_two(DRAWN, question="?"),
        "classifiers": live.ask_three({"none": network, "euclidean": network}, DRAWN, question="?"),
        "photograph": live.move_photograph(report(), question="?"),
    }


@pytest.fixture
def shown(open_page, widgets, tmp_path):
    def shown(name, width=1280, **options):
        file = tmp_path / "page.html"
        file.write_text(f"<!doctype html><title>{name}</title>{widgets[name].data}")
        return open_page(file.as_uri(), width, **options)

    return shown


PICTURES = "[...document.querySelectorAll('canvas')].map((canvas) => canvas.toDataURL()).join()"
PICTURE = "canvas => canvas.toDataURL()"
CHANGED = f"before => ({PICTURE})([...document.querySelectorAll('canvas')].at(-1)) !== before"


@pytest.mark.parametrize("name", ["transport", "classifiers", "photograph"])
def test_each_slider_and_menu_changes_a_picture(shown, name):
    """By keys alone, and the number beside a slider follows."""
    page = shown(name)
    assert not page.locator(".wdtr-instead").is_visible()
    controls = page.locator(".wdtr-live-part input, .wdtr-live-part select")
    assert controls.count() >= 3
    for control in controls.all():
        before = page.evaluate(PICTURES)
        control.focus()
        last = control.evaluate("control => control.selectedIndex === control.length - 1")
        control.press("Home" if last else "End")
        page.wait_for_function(f"before => {PICTURES} !== before", arg=before)
    assert not page.problems


@pytest.mark.parametrize("name", ["transport", "classifiers"])
def test_drawing_with_keys_and_with_the_mouse(shown, name):
    page = shown(name)
    pad, asked = page.locator(".wdtr-pad").first, page.locator("canvas").last
    last = asked.evaluate(PICTURE)
    pad.focus()
    for key in ("Delete", "ArrowUp", " ", "ArrowUp", " "):
        pad.press(key)
    page.wait_for_function(CHANGED, arg=last)
    last = asked.evaluate(PICTURE)
    box = pad.bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 100, steps=5)
    page.mouse.up()
    page.wait_for_function(CHANGED, arg=last)
    assert not page.problems


@pytest.mark.parametrize(("width", "rows"), [(1280, 1), (700, 1), (390, 2)])
def test_two_digits_and_two_ways_stand_in_a_row_or_two_by_two(shown, width, rows):
    boxes = [canvas.bounding_box() for canvas in shown("transport", width).locator("canvas").all()]
    assert [len({box[edge] for box in boxes}) for edge in ("y", "x")] == [rows, 4 // rows]


def test_bars_are_seen_on_a_dark_page(shown):
    page = shown("classifiers")
    page.evaluate("document.body.style.color = 'rgb(200, 210, 220)'")
    color = "bar => getComputedStyle(bar).backgroundColor"
    assert page.locator(".wdtr-bars i").first.evaluate(color) == "rgb(200, 210, 220)"
    assert page.locator(".wdtr-bars i").last.evaluate(color) == "rgb(213, 94, 0)"  # euclidean


def test_a_place_of_the_map_is_chosen(shown):
    page = shown("photograph")
    page.locator(".wdtr-drag").last.click(position={"x": 4, "y": 4})
    values = page.locator("input").evaluate_all("each => each.map((input) => input.value)")
    assert values == ["-1", "-1"]
    caption = page.locator("figcaption").last.inner_text()
    assert caption == "Wasserstein penalty: airplane. Right at 1 of 9 places."


@pytest.mark.parametrize(("name", "picture"), [("classifiers", 1), ("photograph", 0)])
def test_a_picture_is_dragged(shown, name, picture):
    """Its place follows, down and to the right, until it is let go."""
    page = shown(name)
    canvas, sliders = page.locator("canvas").nth(picture), page.locator("input[type=range]")
    values = "each => each.slice(0, 2).map((input) => Number(input.value))"
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 52, box["y"] + 22, steps=3)
    right, down = sliders.evaluate_all(values)
    assert right > 0 > down
    page.mouse.up()
    page.mouse.move(box["x"] + 10, box["y"] + 90)
    assert sliders.evaluate_all(values) == [right, down]
    assert not page.problems


@pytest.mark.parametrize("name", ["transport", "classifiers", "photograph"])
def test_a_narrow_page_does_not_scroll_sideways(shown, name):
    page = shown(name, 390)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("name", ["transport", "classifiers", "photograph"])
def test_a_picture_stands_in_its_place(shown, widgets, name):
    """Without scripts and in print; and the data are small."""
    page = shown(name, java_script_enabled=False)
    picture = page.locator(".wdtr-instead img")
    assert picture.is_visible() and len(picture.get_attribute("alt")) > 20
    page = shown(name)
    page.emulate_media(media="print")
    assert page.locator(".wdtr-instead").is_visible()
    assert not page.locator(".wdtr-live-part").is_visible()
    assert len(widgets[name].data) < 400_000
