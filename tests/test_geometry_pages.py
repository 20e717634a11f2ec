"""What chapters 1 to 3 draw and tell: numbers by hand, out of the stored rows, of the core."""

import re

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from wdtr_lite import PixelGraph, data, metric, study, transport
from wdtr_lite.book import discrete_ot, interpolation, metric_benchmark, metric_tensor, plots
from wdtr_lite.book.pixel_graph import pixel_graph


@pytest.fixture(autouse=True)
def closed_figures():
    with plt.rc_context():
        plots.style()
        yield
        plt.close("all")


@pytest.fixture(scope="module")
def neighbours():
    return study.stored("nearest_neighbours")


@pytest.fixture(scope="module")
def kept():
    return study.stored("label_keeping")


@pytest.fixture(scope="module")
def benchmark():
    return study.stored("benchmark_metric")


@pytest.fixture(scope="module")
def fours():
    return transport.as_measure(data.load("mnist5k").images[2000:2002].double())


def cells(table):
    """The body of a Markdown table."""
    lines = table.data.splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def smallest_letters(figure):
    """Of the texts that show, in points per inch of the figure's width."""
    figure.canvas.draw()
    sizes = [t.get_fontsize() for t in figure.findobj(plt.Text) if t.get_text().strip()]
    return min(sizes) / figure.get_figwidth()


# ---------------------------------------------------------------- chapter 1


def test_the_first_picture_of_chapter_1():
    discrete_ot.opening()
    l2, w2 = (line.get_ydata() for line in plt.gcf().axes[-1].lines)
    assert np.allclose(l2[4:], 1) and np.allclose(w2, np.arange(11) / 10)
    assert smallest_letters(plt.gcf()) > 1.8  # 9 px on a page of 360


def test_errors_and_what_w2_saves(neighbours):
    discrete_ot.error_curves(neighbours)
    right = plt.gcf().axes[1]
    truth = np.array(list(neighbours["result"]["labels"]))
    lines = cells(discrete_ot.paired_table(neighbours))
    drawn = [container.lines[0].get_ydata() for container in right.containers]
    for index, (size, k, *_, saved) in enumerate(lines):
        wrong = {
            row["metric"]: np.array(list(row["predictions"])) != truth
            for row in neighbours["result"]["rows"]
            if (row["train_size"], row["k"]) == (int(size), int(k))
        }
        gap = 100 * (wrong["intensities"].mean() - wrong["wasserstein"].mean())
        assert saved.startswith(f"{gap:.1f} ±")
        assert drawn[index % 3][index // 3] == pytest.approx(gap)


def test_sinkhorns_distances_are_drawn_and_told():
    found = {10.0: {"entropic": 3.5, "debiased": 2.5}, 1.0: {"entropic": 3.0, "debiased": 2.75}}
    told = {weight: each | {"entropic (x, x)": weight / 10} for weight, each in found.items()}
    discrete_ot.entropic_curves(told, 2.8)
    entropic, debiased, itself, _ = plt.gca().lines
    assert entropic.get_ydata().tolist() == [3.5, 3.0]
    assert debiased.get_ydata().tolist() == [2.5, 2.75]
    assert itself.get_ydata().tolist() == [1.0, 0.1]
    assert cells(discrete_ot.entropic_table(told, 2.8))[1] == [
        "1", "3.0000", "2.7500", "0.1000", "2.8000"
    ]  # fmt: skip


def test_times_of_solvers_are_those_measured():
    stored = study.stored("benchmark_transport")
    discrete_ot.scaling_curves(stored)
    exact = plt.gca().lines[1].get_ydata().tolist()
    assert exact == [row["exact_ms"] for row in stored["scaling"]]
    assert [text.get_text() for text in plt.gca().texts] == [
        "linprog", "network simplex", "Sinkhorn"
    ]  # fmt: skip


# ---------------------------------------------------------------- chapter 2


def test_the_first_picture_of_chapter_2():
    interpolation.opening()
    frames = [axes.images[0].get_array() for axes in plt.gcf().axes]
    assert np.allclose(frames[0], frames[7]) and np.allclose(frames[6], frames[13])
    assert np.allclose(frames[3], (frames[0] + frames[6]) / 2)
    assert smallest_letters(plt.gcf()) > 1.8


def test_labels_kept_in_pairs(kept):
    labels = np.array(list(kept["result"]["labels"]))
    for judge, name in interpolation.JUDGES.items():
        lines = [line for line in cells(interpolation.label_table(kept)) if line[0] == name]
        gaps = interpolation.differences(kept, judge)
        for line, (fraction, (gap, error)) in zip(lines, gaps.items(), strict=True):
            l2, w2 = (
                np.array(list(row["predictions"])) == labels
                for metric in ("euclidean", "wasserstein")
                for row in interpolation.label_curve(kept, judge, metric)
                if row["fraction"] == fraction
            )
            assert gap == pytest.approx(100 * (w2.mean() - l2.mean()))
            assert line[1] == str(fraction) and line[4] == f"{gap:+.1f} ± {error:.1f}"


def test_curves_of_kept_labels_are_those_of_the_rows(kept):
    interpolation.label_curves(kept)
    for axes, judge in zip(plt.gcf().axes, interpolation.JUDGES, strict=True):
        drawn = axes.containers[1].lines[0].get_ydata()
        rows = interpolation.label_curve(kept, judge, "wasserstein")
        assert drawn.tolist() == [100 * row["mean"] for row in rows]


def test_variations_are_drawn_and_told():
    found = {"moved": {"euclidean": np.array([0.4, 0.6]), "wasserstein": np.array([0.2, 0.4])}}
    interpolation.show_variations(found)
    assert [c.lines[0].get_xdata().item() for c in plt.gca().containers] == pytest.approx([
        0.5, 0.3
    ])  # fmt: skip
    assert cells(interpolation.variation_table(found)) == [["moved", "0.50 ± 0.10", "0.30 ± 0.10"]]


# ---------------------------------------------------------------- chapter 3


def test_five_changes_are_equal_in_l2_and_keep_the_mass(fours):
    changes = metric_tensor.five_changes(*fours)
    assert len(changes) == 5
    for change in changes.values():
        assert float(change.norm() / fours[0].norm()) == pytest.approx(0.3)
        assert abs(float(change.sum())) < 1e-12


def test_the_first_picture_of_chapter_3_tells_the_lengths(fours):
    metric_tensor.opening()
    labels = [axes.get_xlabel() for axes in plt.gcf().axes]
    told = [label for label in labels if label]
    lengths = [
        metric_tensor.length(fours[0], c) for c in metric_tensor.five_changes(*fours).values()
    ]
    assert told == [f"{one:.2f} pixels" if one < 9 else "infinite" for one in lengths]
    assert told.count("infinite") == 2 and smallest_letters(plt.gcf()) > 1.8


def test_a_length_is_that_of_the_metric(fours):
    change = (fours[0].roll(1, 1) - fours[0].roll(-1, 1)) / 2
    squared = metric.tangent_norm_sq(PixelGraph(28, 28, 2).double(), fours[0], change, unit="pixel")
    assert metric_tensor.length(fours[0], change, 2) == pytest.approx(float(squared) ** 0.5)
    table = metric_tensor.length_table(
        {"move": change, "all": fours[1] - fours[0]}, {"4": fours[0]}
    )
    assert cells(table)[0][2] == "infinite"


def test_the_drawing_shows_the_ink_on_the_edges_and_the_matrix():
    """The page draws what the chapter computes by hand, the same bytes each time."""
    drawing = pixel_graph().data
    assert drawing == pixel_graph().data and drawing.startswith("<svg")
    texts = re.findall(r"<!-- (.*?) -->", drawing)
    assert [t for t in texts if t in {"1.5", "2", "−1.5", "−0.5"}].count("−1.5") == 2
    assert "ink on the edge" in texts and "matplotlib.org" not in drawing


def test_volumes_by_the_formula():
    for radius, corner, centre, ratio, _ in cells(metric_tensor.volume_table()):
        r = int(radius)
        along = [min(i, r) + min(27 - i, r) + 1 for i in range(28)]
        edges = sum(a * b - 1 for a in along for b in along)
        by_hand = [784 * (along[i] ** 2 - 1) / edges for i in (0, 14)]
        assert [corner, centre] == [f"{value:.3f}" for value in by_hand]
        assert ratio == f"{by_hand[1] / by_hand[0]:.2f}"
    metric_tensor.show_volumes()


def test_times_of_the_gradient_norm_are_those_measured(benchmark):
    metric_benchmark.draw_gradient_norms(benchmark)
    algorithm, sums = (line.get_ydata() for line in plt.gca().lines)
    for line, slow, fast in zip(
        cells(metric_benchmark.gradient_norms(benchmark)), algorithm, sums, strict=True
    ):
        assert line[1:3] == [f"{fast:.2f}", f"{slow:.0f}"]


def test_directions_have_their_largest_pixel_red():
    image, vectors = torch.rand(2, 2), torch.tensor([[0.1, -0.9, 0.2, 0.3]] * 4).T.contiguous()
    figure = metric_tensor.show_directions(image, vectors)
    assert [float(axes.images[0].get_array().max()) for axes in figure.axes[1:]] == (
        pytest.approx([0.9] * 3)
    )


def test_spectra_are_drawn_and_told():
    values = {1: torch.tensor([1.0, 2.0, 4.0]), 2: torch.tensor([1.0, 10.0])}
    values |= {4: torch.tensor([5.0]), 8: torch.tensor([2.0, 5.0])}
    metric_tensor.show_spectra(values)
    assert plt.gca().lines[0].get_ydata().tolist() == [1.0, 0.5, 0.25]
    assert cells(metric_tensor.spectrum_table(values, 4))[0] == ["1", "3", "1", "4", "2.5e-01"]


def test_moves_and_fades_by_the_radius():
    moves = {
        "blob, width 2": [1.0, 1.0, 1.0, 2.0],
        "blob, width 6": [1.0] * 4,
        "the 4": [1.0, 1.0, 2.0, 5.0],
    }
    measures = transport.as_measure(data.load("mnist5k").images[:500].double())
    ratios = metric_tensor.fade_against_move(measures, pairs=2)
    assert list(ratios) == list(metric_tensor.RADII)
    metric_tensor.show_radii(moves, ratios)
    table = metric_tensor.radius_tables(moves, ratios).data
    assert "| the 4 | 1.000 | 1.000 | 2.000 | 5.000 |" in table
    assert "fade / move, 2 digits" in table and table.count("\n\n") == 1


def test_a_wide_blob_moved_by_a_pixel_is_about_a_pixel_long(fours):
    found = metric_tensor.moves(fours[0])
    assert found["blob, width 6"][0] == pytest.approx(1, abs=0.02)
    assert found["the 4"][3] > 5


def test_distances_between_bumps():
    """One pixel apart all are the shift; below, the squared static one is of first order."""
    x = metric_tensor.bump(0)
    assert float(x.sum()) == pytest.approx(1) and x.shape == (1, 32)
    small, whole = (metric_tensor.distances(x, metric_tensor.bump(s)) for s in (0.01, 1.0))
    assert small["static"] == pytest.approx(0.1, rel=0.01)
    assert small["dynamic"] == pytest.approx(0.01, rel=0.02)
    assert all(value == pytest.approx(1, rel=0.1) for value in whole.values())
    by_pixels = {8: small, 16: whole}
    metric_tensor.show_distances({0.01: small, 1.0: whole}, by_pixels)
    assert plt.gcf().axes[0].lines[0].get_ydata()[0] == pytest.approx(0.01, rel=0.02)
    assert plt.gcf().axes[1].lines[0].get_ydata()[1] == whole["static"]


def test_geodesics_join_the_two_bumps():
    paths, static, dynamic = metric_tensor.geodesics(16)
    for path in paths.values():
        assert path.shape == (17, 16)
        assert torch.allclose(path[0], paths["L2"][0], atol=1e-6)
        assert torch.allclose(path[-1], paths["L2"][-1], atol=1e-6)
    assert 0 < static <= dynamic * 1.01
    metric_tensor.show_geodesics(paths)
