"""Plots draw what they are given; a widget's static form holds every frame, its live form works."""

import base64
import io
import re

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from PIL import Image

from wdtr_lite import transport
from wdtr_lite.book import plots, tables, widgets


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def test_image_grid_shows_each_image():
    images = [[np.eye(3), np.ones((3, 3))], [np.zeros((3, 3)), np.arange(9.0).reshape(3, 3)]]
    figure = plots.image_grid(images, columns=["a", "b"], rows=["c", "d"])
    drawn = [axes.images[0].get_array() for axes in figure.axes]
    assert all(
        (a == b).all() for a, b in zip(drawn, [i for row in images for i in row], strict=True)
    )
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes] == ["c", "", "d", ""]


def test_plan_arrows_go_from_source_to_target():
    _, axes = plt.subplots()
    plan = transport.TransportPlan(np.array([0, 1]), np.array([5, 4]), np.array([0.25, 0.75]))
    plots.show_plan(axes, (2, 3), plan, moves=1)
    arrows = axes.collections[0]
    assert arrows.XY.tolist() == [[1, 0]]  # the heavier one starts at row 0, column 1
    assert (arrows.U.tolist(), arrows.V.tolist()) == ([0], [1])


def test_each_metric_has_its_own_colour_and_marker():
    _, axes = plt.subplots()
    for metric in plots.COLORS:
        plots.error_bars(axes, [1, 2], [0.1, 0.2], [0.01, 0.01], metric)
    lines = [container.lines[0] for container in axes.containers]
    assert (
        len({line.get_color() for line in lines})
        == len({line.get_marker() for line in lines})
        == len(plots.COLORS)
    )


def test_show_change_is_white_at_zero():
    _, axes = plt.subplots()
    plots.show_change(axes, np.array([[-2.0, 0.0], [1.0, 0.5]]), "change")
    assert axes.images[0].get_clim() == (-2, 2) and axes.get_title() == "change"
    plots.show_change(axes, np.eye(2), vmax=3)
    assert axes.images[1].get_clim() == (-3, 3)
    white = axes.images[0].to_rgba(np.array([[0.0]]))[0, 0, :3]
    assert np.allclose(white, white[0], atol=0.01) and white[0] > 0.95


def test_mean_error_is_the_mean_and_its_standard_error():
    values = np.array([1.0, 2.0, 3.0, 6.0])  # variance 14 / 3, of the mean 14 / 12
    assert tables.mean_error(values) == "3.0 ± 1.1"
    assert tables.mean_error(values, 3, sign="+") == "+3.000 ± 1.080"


def test_mean_sd_is_the_mean_and_the_spread_over_seeds():
    assert tables.mean_sd([1.0, 2.0, 3.0]) == "2.0 ± 1.0"
    assert tables.mean_sd([1.25], 2) == "1.25"


def test_percent_of_a_rate():
    assert tables.percent({"mean": 0.5, "sd": 0.0125, "n": 3}, 2) == "50.00 ± 1.25"
    assert tables.percent({"mean": 0.5, "sd": None, "n": 1}) == "50.0"
    assert tables.percent({"mean": None, "sd": None, "n": 0}) == "not run"


def test_table_is_markdown():
    assert tables.table(["a", "b"], [["x", 1]]).data == "| a | b |\n| --- | --: |\n| x | 1 |"


def test_table_formats_its_cells():
    rows = [["|g|", 1234, torch.tensor(0.126)], ["", (1, 2), None]]
    table = tables.table(["", "n", "p"], rows, ["", ",d", ".2f"]).data
    assert table.splitlines()[2:] == [r"| \|g\| | 1,234 | 0.13 |", "|  | 1 ± 2 | not run |"]


def draw(shift, kind):
    figure, axes = plt.subplots(figsize=(1, 1))
    axes.imshow(np.full((2, 2), shift), vmin=0, vmax=3)
    axes.set_title(kind)
    return figure


OPTIONS = {"question": "Which <one>?", "describe": lambda shift, kind: f"moved by {shift} & {kind}"}
CHOICES = {"shift": [0, 1, 3], "kind": ["L2", "W2"]}


def static_html(monkeypatch, **options):
    shown = []
    monkeypatch.setenv("WDTR_WIDGETS", "static")
    monkeypatch.setattr(widgets, "display", shown.append)
    widgets.explore(draw, CHOICES, **OPTIONS, **options)
    return shown[0].data


def test_static_form_holds_a_described_frame_for_every_choice(monkeypatch):
    page = static_html(monkeypatch, start={"shift": 3})
    assert re.findall(r'data-key="(.*?)"', page) == ["0,0", "0,1", "1,0", "1,1", "2,0", "2,1"]
    assert page.count("moved by 3 &amp; W2") == 2  # caption and alternative text
    assert 'max="2" value="2" data-values="0 1 3"' in page
    assert "<option selected>L2</option>" in page
    assert "Which &lt;one&gt;?" in page
    assert "http" not in page.replace("data:image", "")
    frames = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(b))).convert("RGB"))
        for b in re.findall(r"base64,(.*?)\"", page)
    ]
    assert len({frame.tobytes() for frame in frames}) == 6
    assert not plt.get_fignums()


def test_live_form_redraws(monkeypatch):
    shown, drawn = [], []
    monkeypatch.delenv("WDTR_WIDGETS", raising=False)
    monkeypatch.setattr(widgets, "display", shown.append)
    widgets.explore(lambda **values: drawn.append(values), CHOICES, **OPTIONS, start={"kind": "W2"})
    question, slider, menu, _ = shown[0].children
    assert "Which &lt;one&gt;?" in question.value
    assert drawn[-1] == {"shift": 0, "kind": "W2"}
    slider.value, menu.value = 3, "L2"
    assert drawn[-1] == {"shift": 3, "kind": "L2"}


@pytest.mark.parametrize("start", [{"shift": 2}, {"other": 1}])
def test_start_must_be_a_choice(start):
    with pytest.raises(ValueError, match="start="):
        widgets.explore(draw, CHOICES, **OPTIONS, start=start)
