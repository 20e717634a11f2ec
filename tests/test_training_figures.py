"""Chapters 7 and 8 draw what they are given: passes, windows, gradients, times and errors."""

import re

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from wdtr_lite import study
from wdtr_lite.book import box_sums, fast_penalty, gradients, plots, training, widgets

IMAGE = np.random.default_rng(0).random((28, 28))


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture
def page(monkeypatch):
    """The static form of the last widget."""
    shown = []
    monkeypatch.setenv("WDTR_WIDGETS", "static")
    monkeypatch.setattr(widgets, "display", lambda html: shown.append(html.data))
    return shown


@pytest.fixture(scope="module")
def timed():
    return study.stored("benchmark_training")


@pytest.fixture(scope="module")
def digits():
    return study.stored("robust_digits")


def texts(axes):
    return [text.get_text() for text in axes.texts]


# ---------------------------------------------------------------- chapter 7: the window


@pytest.mark.parametrize(("radius", "column"), [(1, 6), (4, 14), (8, 22), (8, 3)])
def test_two_values_of_the_running_sum_differ_by_the_window(radius, column):
    rows, columns = (
        [k for k in range(28) if abs(k - at) <= radius] for at in (14, column)
    )  # fmt: skip
    inside = IMAGE[np.ix_(rows, columns)].sum()
    assert box_sums.window_sum(IMAGE, radius, 14, column) == pytest.approx(inside)
    running = box_sums.draw_window(IMAGE, radius, 14, column).axes[-1]
    low, high = (line.get_ydata()[0] for line in running.lines if line.get_marker() == "o")
    assert high - low == pytest.approx(inside)
    assert f"differ by {inside:.1f}" in running.get_title(loc="left")


def test_running_sums_take_as_many_additions_at_any_radius():
    one_by_one, running = zip(*(box_sums.additions(r) for r in (1, 2, 4, 8)), strict=True)
    assert one_by_one == (8, 24, 80, 288) and set(running) == {4}


def test_the_window_slides(page):
    box_sums.slide(IMAGE)
    assert page[0].count("<figure ") == 20
    assert f"holds {box_sums.window_sum(IMAGE, 4, 14, 14):.1f}" in page[0]


# ---------------------------------------------------------------- chapter 7: the passes


def boxes(step):
    axes = gradients.draw_pass(step).axes[0]
    return {text.get_text(): text for text in axes.texts if text.get_bbox_patch()}


def test_each_pass_colours_what_it_makes():
    made = {
        step: {
            name for name, text in boxes(step).items() if text.get_bbox_patch().get_linewidth() > 2
        }
        for step in (1, 2, 3, 4)
    }
    assert made[1] == {"a", "z", "ℓ"}
    assert made[2] == {"ℓ'", r"$\bar z$", r"$\bar a$", "g"}
    assert len(made[3]) == 1 and made[3].pop().startswith("P = ")
    assert made[4] == set()  # the weights' derivatives are arrows


def test_the_second_backward_pass_reads_all_that_was_made():
    plain = matplotlib.colors.to_rgba("white")
    read = {
        name for name, text in boxes(4).items() if text.get_bbox_patch().get_facecolor() != plain
    }
    assert len(read) == 10 and {"a", "z", "g", "x", "$W_1$", "$W_2$"} <= read


def test_one_can_step_through(page):
    gradients.step_through()
    assert page[0].count("<figure ") == 4
    for number, (name, told) in enumerate(gradients.PASSES.items(), 1):
        assert f"Step {number} of 4, {name}" in page[0]
        assert told["units"] in page[0]


# ---------------------------------------------------------------- chapter 7: times


def test_opening_shows_stored_times(timed):
    fast_penalty.opening()
    axes = plt.gcf().axes[0]
    ratio = {row["step"]: row["ratio"] for row in timed["step_costs"] if row["device"] == "cpu"}
    shown = texts(axes)
    for key in ("plain", "fgsm", "euclidean", "pgd-7", "W r=8, FD"):
        assert f"{ratio[key]:.1f}" in shown
    radii = [ratio[f"W r={r}"] for r in (2, 4, 6, 8)]
    assert f"{min(radii):.1f} to {max(radii):.1f}, r = 2, 4, 6, 8" in shown


def test_ladder_has_the_ratios_as_lengths(timed):
    fast_penalty.ladder(timed)
    (naive, *_, compiled) = (bar.get_width() for bar in plt.gcf().axes[0].patches)
    ratio = {row["step"]: row["ratio"] for row in timed["step_costs"] if row["device"] == "cpu"}
    assert (naive, compiled) == (ratio["W r=8, naive"], ratio["W r=8, compiled"])


def test_radii_are_drawn_and_tabled():
    times = {"Algorithm 1": [3.0, 8.0], "band matrices": [0.7, 0.8], "running sums": [0.8, 0.8]}
    fast_penalty.draw_radii((1, 2), times)
    axes = plt.gcf().axes[0]
    assert [list(line.get_ydata()) for line in axes.lines[:3]] == list(times.values())
    assert set(texts(axes)) == set(times)
    rows = fast_penalty.radius_table((1, 2), times).data.splitlines()
    assert rows[2] == "| 1 | 4 | 3.00 | 0.70 | 0.80 |"
    with pytest.raises(ValueError, match="zip"):
        fast_penalty.radius_table((1, 2, 4), times)


def test_calls_are_counted():
    def step():
        torch.nn.functional.conv2d(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2)).relu()

    counts = fast_penalty.operations(step)
    row = fast_penalty.count_table({"a step": counts}).data.splitlines()[2]
    assert row == f"| a step | {sum(counts.values())} | 1 | 0 |"


def test_steps_are_drawn():
    steps = np.array([1e-3, 1e-2])
    errors = {(d, c): [0.1, 0.2] for d in ("float32", "float64") for c in (False, True)}
    fast_penalty.draw_steps(steps, errors, 1e-5)
    styles = [line.get_linestyle() for line in plt.gcf().axes[0].lines[:4]]
    assert styles == ["-", "-", "--", "--"]


def test_every_number_is_there(timed, monkeypatch):
    shown = []
    monkeypatch.setattr(fast_penalty, "display", lambda *each: shown.extend(each))
    fast_penalty.every_number(timed, study.stored("benchmark_precision"))
    assert len(shown) == 10
    assert "PGD-7 adversarial training | 3,045 | 5.77" in shown[1].data


# ---------------------------------------------------------------- chapter 8: one digit


@pytest.fixture
def seven():
    versions = {f"version {k}": torch.rand(3, 1, 5, 5) for k in range(7)}
    return versions, torch.rand(7, 3, 10).softmax(2)


def test_each_version_has_its_answer(seven):
    versions, probabilities = seven
    gradients.show_versions(versions, probabilities, 1)
    drawn = [axes for axes in plt.gcf().axes if axes.images]
    assert [axes.get_title() for axes in drawn] == list(versions)
    for axes, images, belief in zip(drawn, versions.values(), probabilities, strict=True):
        assert np.array_equal(axes.images[0].get_array(), images[1, 0])
        assert axes.get_xlabel().startswith(f"{int(belief[1].argmax())} (")


def test_an_eighth_version_is_refused(seven):
    versions, probabilities = seven
    with pytest.raises(ValueError, match="zip"):
        gradients.show_versions(versions | {"blur": torch.rand(3, 1, 5, 5)}, probabilities, 1)


def test_attacks_are_shown_with_their_changes():
    image = torch.zeros(5, 5)
    gradients.show_attacks(image, {"one": image + 0.1, "other": image - 0.2})
    grid = plt.gcf().axes
    assert [axes.get_title() for axes in grid] == ["digit", "one", "other", "", *["its change"] * 2]
    assert np.allclose(grid[5].images[0].get_array(), -0.2)


def test_pairs_of_gradients_have_their_lengths():
    image = torch.rand(5, 5)
    pairs = {name: (torch.rand(5, 5), torch.rand(5, 5)) for name in ("before", "after")}
    gradients.show_pairs(image, pairs, {"before": (1.0, 2.0), "after": (0.5, 0.25)})
    labels = [axes.get_xlabel() for axes in plt.gcf().axes]
    assert [label.partition(" = ")[2] for label in labels] == ["1", "0.5", "2", "0.25"]
    assert [axes.get_title() for axes in plt.gcf().axes[:2]] == ["before", "after"]
    with pytest.raises(KeyError):
        gradients.show_pairs(image, pairs, {"before": (1.0, 2.0)})


def test_norms_are_counted():
    gradients.show_norms({"none": [np.ones(7), np.ones(7)], "wasserstein": [np.ones(5)] * 2})
    heights = [
        max(y for _, y in patch.get_xy()) for axes in plt.gcf().axes for patch in axes.patches
    ]
    assert heights == [7, 5, 7, 5]


# ---------------------------------------------------------------- chapter 8: errors


def test_opening_shows_the_means_of_three_seeds(digits):
    training.opening()
    attacked, varied = plt.gcf().axes
    assert texts(attacked) == ["3.9", "12.8", "20.8", "9.0", "44.8"]
    assert texts(varied) == ["6.6", "7.9", "7.3", "8.0", "8.0"]
    assert all(len(line.get_xdata()) == 3 for line in attacked.lines)


def test_errors_are_drawn_with_their_bars():
    one = {"as it is": {"none": (7.0, 1.0)}, "PGD": {"none": (45.0, 2.0)}}
    training.draw_errors(one)
    axes = plt.gcf().axes[0]
    assert texts(axes) == ["7.0", "45.0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(one)
    three = {name: dict.fromkeys(("none", "euclidean", "wasserstein"), (5.0, 1.0)) for name in one}
    training.draw_errors(three)
    named = [re.sub(r"^\W+ ", "", text) for text in texts(plt.gcf().axes[0])]
    assert named == ["plain", "Euclidean", "Wasserstein"]


def test_only_clear_differences_are_filled(digits):
    training.draw_differences(digits)
    clear = [
        (axes.get_yticklabels()[place].get_text(), line.get_color())
        for axes in plt.gcf().axes
        for place, container in enumerate(axes.containers)
        if (line := container.lines[0]).get_markerfacecolor() != "white"
    ]
    assert clear == [
        ("PGD 0.2", plots.COLORS["euclidean"]),
        ("mean of the three", plots.COLORS["wasserstein"]),
    ]


def test_curves_and_points_are_there(digits):
    training.error_curves(digits)
    assert len(plt.gcf().axes) == 4 and len(plt.gcf().axes[3].get_legend().get_texts()) == 5
    training.error_points(digits)
    assert [len(axes.containers) for axes in plt.gcf().axes] == [6, 6]


def test_tables_hold_the_means(digits):
    table = training.error_table(digits, "attack").data
    assert "| Euclidean penalty | 1.23 ± 0.03 |" in table and "20.8 ± 11.6" in table
    some = training.error_table(digits, "attack", slice(1)).data
    assert some.splitlines()[0] == "| error (%) | as they are |"
    starred = re.findall(r"\| (.*?) \(.*?\) \|.*? \*", training.difference_table(digits).data)
    assert "PGD 0.2" in starred
    assert max(training.twin_gaps(digits).values()) < 2
    assert len(training.twin_table(digits).data.splitlines()) == 12
    assert "4.6" in training.cost_table(digits).data
    assert "| Wasserstein | η=2, r=8 | 1.7 | 13.3 | 9.6 | attack |" in (
        training.search_table(digits).data
    )
    assert "| Euclidean | η=2 | 1.5 | 8.6 | 8.7 | both |" in training.search_table(digits).data
    assert "13.4 / 14.8 / 34.2" in training.by_seed_table(digits).data
    assert training.color("none") == "black"
