"""What the chapters show of stored reports: numbers made from the counts, drawn and written."""

import base64
import json
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from wdtr_lite import study
from wdtr_lite.book import (
    adversarial,
    claims,
    figure2,
    natural_variation,
    reports,
    results,
    scorecard,
    smoothness,
    trial,
    units,
    widgets,
)
from wdtr_lite.book import tradeoff as methods
from wdtr_lite.book.reports import MAIN
from wdtr_lite.book.scorecard.claim import Printed
from wdtr_lite.study.questions import AXES, PADDINGS

EQUATIONS_PAGE = Path(__file__).parent.parent / "book" / "equations.md"
EQUATIONS = EQUATIONS_PAGE.read_text()
BOOK = EQUATIONS_PAGE.parent


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def table1():
    return study.stored("table1", "cpu")


@pytest.fixture(scope="module")
def stress():
    return study.stored("stress", "cpu")


@pytest.fixture(scope="module")
def full():
    """Table 1 of the paper's own networks."""
    return study.stored("table1", "full")


@pytest.fixture(scope="module")
def in_units():
    return study.stored("units", "full")


@pytest.fixture(scope="module")
def table2():
    return study.stored("table2", "cpu")


@pytest.fixture(scope="module")
def varied():
    return study.stored("variation", "cpu")["result"]["rows"]


def cells(table):
    """The body of a Markdown table."""
    lines = table.data.splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# ---------------------------------------------------------------- numbers and names


def test_labels_of_methods_and_of_their_variants():
    assert reports.label("wasserstein") == "Wasserstein penalty"
    assert reports.label("wasserstein, exact") == "Wasserstein, exact"
    assert reports.label("none, fewer images") == "plain, fewer images"
    assert [reports.short(method) for method in MAIN] == ["plain", "Euclidean", "Wasserstein"]


def test_a_setting_is_its_weight_and_radius():
    assert reports.setting_of({"eta": 6**0.5, "radius": 8, "mode": "x"}) == "η = 2.45, r = 8"
    assert reports.setting_of({}) == ""


def test_errors_of_the_networks_that_were_trained():
    rows = [
        {"method": "none", "seed": 0, "wrong": {"natural": 1}, "n": {"natural": 4}},
        {"method": "none", "seed": 1, "missing": "diverged"},
        {"method": "pgd", "seed": 0, "wrong": {"natural": 2}, "n": {"natural": 4}},
    ]
    assert reports.errors(rows, "natural", method="none").tolist() == [25.0]
    assert reports.select(rows, method="none", seed=1) == [rows[1]]


def test_flips_up_to_a_reach():
    measured = {"n": 10, "consecutive": [5, 8], "from_unshifted": [6, 9]}
    rows = [{"method": "none", "measurements": {"horizontal edge": measured}}]
    assert reports.flips(rows, "none", "horizontal edge", "consecutive").tolist() == [0.8]
    assert reports.flips(rows, "none", "horizontal edge", "from_unshifted", 1).tolist() == [0.6]


def test_photo_reads_bytes_channel_by_channel():
    pixels = np.arange(3 * 32 * 32, dtype=np.uint8).tobytes().hex()
    assert reports.photo(pixels)[1, 0, :3].tolist() == [0, 1, 2]  # 1024 = 4 * 256


# ---------------------------------------------------------------- chapter 9


def test_table_1_is_made_from_the_counts(table1):
    for row in table1["result"]["rows"]:
        assert row["n"]["natural"] == 5000
        assert row["n"]["FGSM 8"] == table1["config"]["attacked"]
    lines = cells(adversarial.error_table(table1["result"]["rows"]))
    for line, condition in zip(lines, study.table1.CONDITIONS, strict=True):
        for text, method in zip(line[1:], MAIN, strict=True):
            found = reports.select(table1["result"]["rows"], method=method)
            rates = [row["wrong"][condition] / row["n"][condition] for row in found]
            assert text == f"{100 * np.mean(rates):.1f} ± {100 * np.std(rates, ddof=1):.1f}"


def test_table_1_of_the_papers_own_networks(full):
    """Image by image, and how far they were trained."""
    lines = cells(adversarial.comparison_table(full))
    assert lines[0] == ["natural", "paper", "16.29", "15.61", "15.35"]
    for line, condition in zip(lines[1::2], study.table1.CONDITIONS, strict=True):
        for text, method in zip(line[2:], MAIN, strict=True):
            (row,) = [row for row in full["result"]["rows"] if row["method"] == method][:1]
            found = outcomes(row["outcomes"][condition], row["n"][condition])
            assert found.sum() == row["wrong"][condition] and len(found) == 5000
            error = found.std() / len(found) ** 0.5
            assert text == f"{100 * found.mean():.1f} ± {100 * error:.1f}"
    told = cells(adversarial.trained_table(full))
    assert told[1] == ["epochs", *(f"{epochs} of 200" for epochs in EPOCHS)]
    for method, epochs in zip(MAIN, EPOCHS, strict=True):
        history = full["history"][method]
        assert [epoch["epoch"] for epoch in history] == list(range(1, epochs + 1))


EPOCHS = (159, 159, 159)


def outcomes(packed, n):
    """Bit by bit, by hand."""
    text = "".join(f"{byte:08b}" for byte in base64.b64decode(packed))
    return np.array([bit == "1" for bit in text[:n]])


def test_pairs_of_networks_image_by_image(full):
    first, second = (
        next(row for row in full["result"]["rows"] if row["method"] == method)
        for method in ("euclidean", "wasserstein")
    )
    for line, condition in zip(
        cells(adversarial.pairs_table(full)), study.table1.CONDITIONS, strict=True
    ):
        e, w = (outcomes(row["outcomes"][condition], 5000) for row in (first, second))
        gaps = w.astype(float) - e
        mean, error = 100 * gaps.mean(), 100 * gaps.std() / 5000**0.5
        assert line[1:5] == [
            "5000", f"{100 * e.mean():.1f}", f"{100 * w.mean():.1f}", f"{mean:+.1f} ± {error:.1f}"
        ]  # fmt: skip
        only = int((gaps < 0).sum()), int((gaps > 0).sum())
        assert line[5] == f"{only[0]} / {only[1]}"
        p = min(1.0, 2 * stats.binom.cdf(min(only), sum(only), 0.5))
        assert float(line[6]) == pytest.approx(p, rel=0.05)


def error_of(in_units, method, name):
    """From the kept outcomes, in percent."""
    told = reports.measurements(in_units)[method][name]
    found = outcomes(told["outcomes"], told["n"])
    assert found.sum() == told["wrong"]
    return 100 * found.mean()


PAPERS = {
    "FGSM 8": (82.22, 31.10, 30.20), "FGSM 25": (89.72, 66.83, 44.32),
    "I-FGSM-20 8": (90.15, 40.06, 32.12),
}  # fmt: skip


def test_how_far_the_paper_is_in_each_unit(in_units):
    """The nine errors under attack, at the epsilons that are stated, which were all measured."""
    lines = cells(units.unit_table(in_units))
    assert [line[0] for line in lines[::2]][:-1] == ["pixels", "[-1, 1]", "std 0.247", "std 0.202"]
    for unit, clipped, _, *left in lines[:-2]:
        gaps = np.array([
            [error_of(in_units, m, f"{row} {unit}" + " unclipped" * (clipped == "no")) - paper
             for m, paper in zip(MAIN, papers, strict=True)]
            for row, papers in PAPERS.items()
        ])  # fmt: skip
        for text, some in zip(left, (gaps[:, 1:], gaps[:, :1]), strict=True):
            assert text == f"{np.sqrt((some**2).mean()):.1f}"
    factor, penalised, _ = units.best_factor(in_units)
    assert penalised <= min(float(line[3]) for line in lines[:-2]) + 0.5, "a finer choice"
    assert lines[-2][0] == f"any: × {factor:.2f}"
    assert float(lines[-1][3]) < float(lines[-2][3]), "with one number less"


def test_where_our_networks_have_the_papers_errors(in_units):
    """Between two epsilons that were measured, one below and one above."""
    units.draw_reached(in_units)
    marks = [
        line
        for line in plt.gca().lines
        if line.get_marker() in {"*", "s", "o"} and len(line.get_xdata())
    ]
    assert len(marks) == 9
    for line, (row, method) in zip(
        marks, [(row, m) for row in PAPERS for m in range(3)], strict=True
    ):
        (share,) = line.get_xdata()
        attack, told = row.split()
        epsilon, paper = share * float(told), PAPERS[row][method]
        measured = {
            float(name.split()[1]): error_of(in_units, MAIN[method], name)
            for name in reports.measurements(in_units)[MAIN[method]]
            if re.fullmatch(rf"{attack} ([\d.]+ pixels|0)", name)
        }
        below = max(e for e in measured if e <= epsilon)
        above = min(e for e in measured if e >= epsilon)
        assert measured[below] <= paper <= measured[above]


def test_the_curves_are_those_of_the_outcomes(in_units):
    with plt.rc_context():
        adversarial.opening()
    for axes in plt.gcf().axes:
        for line in axes.lines[:1]:
            for epsilon, error in zip(*line.get_data(), strict=True):
                name = f"{axes.get_title()} {epsilon:g} pixels"
                assert error == pytest.approx(error_of(in_units, "none", name))


def test_pairs_of_networks_over_epsilon(in_units):
    lines = cells(units.pairs_table(in_units, "FGSM"))
    assert [line[0] for line in lines][:2] == ["as they are", "0.25/255"]
    for line in lines[1:]:
        name = f"FGSM {line[0].removesuffix('/255')} pixels"
        e, w = (error_of(in_units, method, name) for method in MAIN[1:])
        assert line[2:4] == [f"{e:.1f}", f"{w:.1f}"] and line[4].startswith(f"{w - e:+.1f} ± ")


def test_pairs_of_networks_are_drawn_as_their_numbers_are(in_units, full):
    units.draw_differences(full, in_units)
    axes = plt.gca()
    drawn = {bars.get_label(): bars.lines[0].get_xydata() for bars in axes.containers}
    numbers = cells(units.pairs_table(in_units, "FGSM"))
    natural, *fgsm, several = cells(adversarial.pairs_table(full))
    expected = {
        "FGSM, 1,000 images": numbers,
        "FGSM, 5,000 images": [natural, *fgsm],
        "I-FGSM-20, 5,000 images": [several],
    }
    assert drawn.keys() == expected.keys()
    for name, lines in expected.items():
        told = [f"{gap:+.1f}" for _, gap in drawn[name]]
        assert told == [line[4].split()[0] for line in lines]
    names = dict(zip(axes.get_xticks(), axes.get_xticklabels(), strict=True))
    for name, lines in list(expected.items())[1:]:
        at = [names[int(place)].get_text() for place, _ in drawn[name]]
        assert at == [re.sub(r".* = (\d+)/255|natural", r"\1", line[0]) or "0" for line in lines]


def test_what_was_not_run_is_not_printed(table1):
    sources = adversarial.sources(full=None, cpu=table1)
    assert "experiment table1 --profile full\n\ncpu: cifar10 (holdout)" in sources


def test_the_grid_shows_every_setting_and_rings_the_chosen_ones(table1):
    search, chosen = table1["result"]["search"], table1["result"]["chosen"]
    adversarial.draw_grid(search, chosen)
    curves, rings = [], []
    for line in plt.gca().lines:
        target = rings if line.get_markersize() == 15 else curves
        target += list(zip(*line.get_data(), strict=True))
    points = {(row["wrong"]["natural"] / 10, row["wrong"]["I-FGSM-20 8"] / 10) for row in search}
    assert set(curves) == points and len(curves) == len(search)
    table = cells(adversarial.grid_table(search, chosen))
    assert {(float(line[1]), float(line[4])) for line in table if line[5]} == set(rings)
    assert len(rings) == len(chosen)


def test_shares_of_the_draws(table1):
    search = reports.select(table1["result"]["search"], method="euclidean")
    title, most, *rest = adversarial.taken(search, np.array([0, 2, 2, 2])).splitlines()
    assert title == "Euclidean penalty: share of draws" and most == "  75 %  η = 1"
    assert rest[-4:] == ["  25 %  η = 0.25", "   0 %  η = 0.5", "  75 %  η = 1", "   0 %  η = 2"]


def test_errors_by_seed(table1):
    setting, *lines, trained = cells(adversarial.by_seed_table(table1))
    assert setting == ["setting", "–", "η = 1", "η = 1, r = 8"]
    rows = table1["result"]["rows"]
    for line, condition in zip(lines, study.table1.CONDITIONS, strict=True):
        for text, method in zip(line[1:], MAIN, strict=True):
            found = reports.select(rows, method=method)
            assert [row["seed"] for row in found] == [0, 1, 2]
            rates = [100 * row["wrong"][condition] / row["n"][condition] for row in found]
            assert text == " / ".join(f"{rate:.1f}" for rate in rates)
    assert trained[0] == "training, last epoch" and trained[1].count("/") == 2


def test_the_harder_trial_counts_each_part_of_an_attack(stress):
    counts = trial.misread(stress)
    for method, measured in reports.measurements(stress).items():
        autoattack = measured["autoattack"]
        assert counts[method]["autoattack apgd-t"] == (autoattack["wrong"]["apgd-t"], 250)
        assert counts[method]["FGSM 8"] == (measured["FGSM 8"]["wrong"], 500)
        assert counts[method]["square square"] <= counts[method]["autoattack apgd-t"]
    assert cells(trial.trial_table(stress))[8][:3] == ["AutoAttack", "250", "100.0 ± 0.0"]
    assert cells(trial.autoattack_table(stress))[1][-1] == "200"
    assert cells(trial.signs_table(stress))[4][1:] == [
        "100.0 / 100.0",
        "99.6 / 100.0",
        "99.6 / 100.0",
    ]


def test_the_harder_trial_is_drawn_as_its_numbers_are(stress):
    trial.draw_trial(stress)
    lines = cells(trial.trial_table(stress))
    names = [text.get_text() for text in plt.gca().get_yticklabels()]
    assert names == [line[0] for line in lines]
    for column, bars in enumerate(plt.gca().containers, 2):
        told = [f"{value:.1f}" for value in bars.lines[0].get_xdata()]
        assert told == [line[column].split()[0] for line in lines]


def test_errors_are_drawn_against_epsilon(stress):
    trial.draw_epsilons(stress)
    lines = {line.get_label(): line.get_data() for line in plt.gca().lines}
    x, y = lines["Wasserstein, PGD-20"]
    assert list(x) == [0, *stress["config"]["epsilons"]]
    assert y[list(x).index(8)] == 100 * 402 / 500


def test_the_surface_is_of_an_image_that_all_networks_read_rightly(stress):
    trial.draw_surfaces(stress)
    titles = [axes.get_title() for axes in plt.gcf().axes]
    assert titles[:3] == [reports.short(method) for method in MAIN]


def test_an_attack_of_the_readers_choice(stress, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        widgets, "explore", lambda *given, **named: asked.update(named, given=given)
    )
    trial.attack_it_yourself(stress, question="At which ε?")
    draw, choices = asked["given"]
    assert list(choices["method"]) == [reports.label(method) for method in MAIN]
    text = asked["describe"]("plain", 2)
    assert text.startswith("plain, ε = 2/255. The image and the answer: cat: dog (")
    drawn = draw("plain", 2).axes
    pictures, bars = drawn[::2], drawn[1::2]
    answers = [axes.texts[0].get_text().split()[0] for axes in bars]
    told = re.findall(r"(\w+): (\w+) \(", text)
    assert trial.lost(stress, 2)["none"] == sum(right != answer for right, answer in told)
    assert told == [(a.get_title(), b) for a, b in zip(pictures, answers, strict=True)]


# ---------------------------------------------------------------- chapter 10


def test_table_2_is_made_from_the_counts(table2):
    rows = table2["result"]["rows"]
    assert {one["n"] for row in rows for one in row["measurements"].values()} == {1000}
    lines = cells(natural_variation.comparison_table(table2, "consecutive"))
    ours = [line for line in lines if "the paper" not in line[0]]
    cases = [f"{axis} {padding}" for axis in AXES for padding in PADDINGS]
    for line, case in zip(ours, cases, strict=True):
        assert line[0].replace(",", "") == case
        for text, method in zip(line[1:], MAIN, strict=True):
            found = reports.select(rows, method=method)
            means = [row["measurements"][case]["consecutive"][15] / 1000 for row in found]
            assert text == f"{np.mean(means):.2f} ± {np.std(means, ddof=1):.2f}"


def test_networks_of_both_experiments_are_the_same(table2, varied):
    for row in table2["result"]["rows"]:
        (same,) = reports.select(varied, method=row["method"], seed=row["seed"])
        for axis in AXES:
            assert row["measurements"][f"{axis} edge"] == same["measurements"][f"{axis} edge"]


def test_changed_labels_add_up_to_the_flips(varied):
    natural_variation.draw_changes(varied)
    panels = np.reshape(plt.gcf().axes, (2, 2))
    for k, method in enumerate(natural_variation.COMPARED):
        for (flips, changes), axis in zip(panels, AXES, strict=True):
            upto, departed = (
                reports.flips(varied, method, f"{axis} edge", count).mean()
                for count in natural_variation.COUNTS
            )
            assert flips.lines[k].get_ydata()[-1] == upto
            assert changes.lines[k].get_ydata().sum() / 50 == pytest.approx(departed)


def test_the_chapter_opens_with_large_networks_moved_horizontally():
    natural_variation.opening()
    flips, changes = plt.gcf().axes
    lines = cells(natural_variation.comparison_table(study.stored("table2"), "consecutive"))
    (row,) = (line for line in lines if line[0] == "horizontal, edge")
    assert [f"{line.get_ydata()[-1]:.2f}" for line in flips.lines] == [
        text.split()[0] for text in row[1:4]
    ]
    plain, *penalised = (line.get_ydata() for line in changes.lines)
    for each in penalised:
        assert (each[:2] < plain[:2]).all() and (each[3:] > plain[3:]).all()


def test_one_method_is_ahead_in_every_seed_where_its_table_says(table2):
    rows = table2["result"]["rows"]
    for line, (a, b) in zip(
        cells(natural_variation.wins_table(rows)),
        (("euclidean", "none"), ("wasserstein", "none"), ("wasserstein", "euclidean")),
        strict=True,
    ):
        for text, count in zip(line[1:], natural_variation.COUNTS, strict=True):
            wins = 0
            for case in (f"{axis} {padding}" for axis in AXES for padding in PADDINGS):
                first, second = (
                    [
                        row["measurements"][case][count][-1]
                        for row in reports.select(rows, method=method)
                    ]
                    for method in (a, b)
                )
                wins += all(x < y for x, y in zip(first, second, strict=True))
            assert text == f"{wins} of 6"


def test_errors_on_varied_images_are_drawn_as_their_tables_say(varied):
    large = reports.measured(study.stored("variation")["result"]["rows"])
    natural_variation.draw_variations(large, varied)
    names = [text.get_text() for text in plt.gcf().axes[0].get_yticklabels()]
    for axes, rows in zip(plt.gcf().axes, (large, varied), strict=True):
        table = cells(natural_variation.variations_table(rows))[:5]
        assert [line[0] for line in table] == names
        for column, line in enumerate(axes.lines, 1):
            found = [f"{value:.1f}" for value in line.get_xdata()]
            assert found == [row[column].split()[0] for row in table]


def test_moved_images_lie_over_the_answers_of_three_networks():
    moved = study.stored("figure2", "cpu")
    assert figure2.images(moved).shape == (4, 3, 32, 32)
    figure2.draw(moved)
    panels = plt.gcf().subfigs
    assert [len(panel.axes) for panel in panels] == [7 + 3] * 4
    bars = panels[0].axes[7].patches
    labels = moved["result"]["rows"][0]["labels"][0]
    assert sum(bar.get_width() for bar in bars) == len(labels)
    assert len(bars) == 1 + sum(a != b for a, b in zip(labels[1:], labels))


def test_norms_are_drawn_and_told(varied):
    smoothness.draw_norms(varied)
    for column, axes in enumerate(plt.gcf().axes, 1):
        medians = [line.get_xdata()[0] for line in axes.lines[4::5]][::-1]
        told = [line[column] for line in cells(smoothness.norms_table(varied))]
        assert [f"{median:.2f}" for median in medians] == told


def test_paths_are_drawn_as_their_tables_say():
    report = study.stored("variation")
    smoothness.draw_paths(report)
    lengths, ratios = plt.gcf().axes
    table = cells(smoothness.paths_table(reports.measured(report["result"]["rows"])))
    for axes, rows in ((lengths, table[:4]), (ratios, table[4:])):
        for column, line in enumerate(axes.lines, 1):
            found = [f"{value:.2f}" for value in line.get_xdata()]
            assert found == [row[column] for row in rows]


def test_a_ratio_lies_in_the_range_of_its_draws():
    networks = reports.measurements(study.stored("variation"))
    for name, ratio, above in cells(smoothness.ratios_table(study.stored("variation"))):
        path, method = name.split(", ")
        (path,) = (key for key, told in smoothness.PATHS.items() if told == path)
        (method,) = (key for key in MAIN if reports.short(key) == method)
        within, between = (
            np.mean(networks[method]["paths"][f"{classes} {path}"])
            for classes in ("within", "between")
        )
        value, low, high = map(float, re.findall(r"[-+]?\d\.\d+", ratio))
        assert f"{between / within:.2f}" == f"{value:.2f}" and low < value < high
        assert (above == "") == (method == "none")


def test_the_numbers_of_chapter_10_are_those_of_its_results():
    """The prose again, from the raw counts."""
    book = json.loads((EQUATIONS_PAGE.parent / "natural_variation.ipynb").read_text())
    prose = " ".join("".join(cell["source"]) for cell in book["cells"])
    networks = reports.measurements(study.stored("table2"))

    def gains(paddings, methods=MAIN[1:], than="none"):
        """How much less they flip from shift to shift, in percent."""
        means = {
            (case, m): reports.flips_by_image(networks[m][case], "consecutive").mean()
            for case in (f"{axis} {padding}" for axis in AXES for padding in paddings)
            for m in MAIN
        }
        return [
            100 * (1 - mean / means[case, than])
            for (case, m), mean in means.items()
            if m in methods
        ]

    continued = gains(("edge", "reflect"))
    assert 32 <= round(min(continued)) <= 34 and 44 <= max(continued) < 50
    assert "a third to nearly a half less often" in prose
    black = gains(("zeros",))
    assert f"the gain is {min(black):.0f} to {max(black):.0f} %" in prose
    far = {}
    for m in ("none", "wasserstein"):
        by = networks[m]["horizontal zeros"]["from_unshifted"]
        far[m] = 100 * (by[3] - by[2]) / 2 / networks[m]["horizontal zeros"]["n"]
    told = "changes {wasserstein:.0f} % of its labels, the plain one {none:.0f} %"
    assert told.format(**far) in prose
    ahead = gains(("edge", "reflect"), ("wasserstein",), "euclidean")
    assert f"by {min(ahead):.0f} to {max(ahead):.0f} % in the large networks" in prose
    varied = reports.measurements(study.stored("variation"))

    def shorter(classes):
        sums = {m: sum(varied[m]["paths"][f"{classes} wasserstein"]) for m in MAIN}
        return sorted(100 * (1 - sums[m] / sums["none"]) for m in MAIN[1:])

    low, high = shorter("within")
    assert f"by {low:.0f} to {high:.0f} % within classes" in prose
    low, high = shorter("between")
    assert f"by {low:.0f} to {high:.0f} % between them" in prose
    factors = [
        np.median(varied["none"]["gradients"][key]) / np.median(varied[m]["gradients"][key])
        for key in ("margin euclidean", "margin wasserstein")
        for m in MAIN[1:]
    ]
    assert (round(min(factors)), round(max(factors))) == (16, 22)
    assert "by a factor of sixteen to twenty-two" in prose
    wrong = {m: varied[m]["variations"]["wrong"] for m in MAIN}
    for case in ("translation", "rotation"):
        plain, *others = (wrong[m][case] - wrong[m]["natural"] for m in MAIN)
        assert all(abs(other - plain) < 50 for other in others), "of 5,000: a point"


# ---------------------------------------------------------------- chapter 11, results


def test_the_tradeoff_is_drawn_where_its_table_says():
    tradeoff, benchmark = study.stored("tradeoff", "cpu"), study.stored("benchmark_tradeoff")
    methods.draw_tradeoff(tradeoff, benchmark)
    lines = cells(methods.tradeoff_table(tradeoff, benchmark))
    drawn = {text.get_text(): text.xy for text in plt.gca().texts}
    costs = methods.costs(benchmark).values()
    for (name, _, told, _, natural, attacked), cost in zip(lines, costs, strict=True):
        assert told == f"{cost:.2f}"
        x, y = drawn[f"{name} ({cost:.1f})"]
        assert natural.startswith(f"{x:.1f} ±") and attacked.startswith(f"{y:.1f} ±")


@pytest.mark.parametrize(
    ("weight", "budget", "allowed"),
    [
        (0, "any time", 9),
        (100, "any time", 9),
        (50, "three plain steps", 7),
        (30, "a plain step", 2),
    ],
)
def test_methods_are_ranked_by_the_weighted_error(monkeypatch, weight, budget, allowed):
    tradeoff, benchmark = study.stored("tradeoff", "cpu"), study.stored("benchmark_tradeoff")
    asked = {}
    monkeypatch.setattr(
        methods.widgets, "explore", lambda draw, choices, **rest: asked.update(rest, draw=draw)
    )
    methods.choose_for_yourself(tradeoff, benchmark, question="?")
    errors = {}
    for row in tradeoff["result"]["rows"]:
        natural, attacked = (
            row["wrong"][each] / row["n"][each] for each in ("natural", "I-FGSM-20 8")
        )
        mean = (100 - weight) * natural + weight * attacked
        errors.setdefault(reports.label(row["method"]), []).append(mean)
    bars = asked["draw"](weight, budget).axes[0]
    names = [text.get_text().rpartition(" (")[0] for text in bars.get_yticklabels()]
    expected = [np.mean(errors[name]) for name in names]
    assert len(names) == allowed and expected == sorted(expected)
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(expected)
    said = asked["describe"](weight, budget)
    assert f"{names[0]} with a weighted error of {expected[0]:.1f} %" in said


def drawn_dots(axes):
    """By method in the order drawn, the rows' means and the paper's numbers."""
    lines = [line.get_xdata() for line in axes.lines]
    return list(zip(lines[::2], lines[1::2], strict=True))


def test_table_1_is_drawn_as_its_numbers_are(full):
    adversarial.draw_comparison(full)
    lines = cells(adversarial.comparison_table(full))
    for column, (ours, paper) in enumerate(drawn_dots(plt.gca()), 2):
        assert [f"{value:.2f}" for value in paper] == [line[column] for line in lines[::2]]
        told = [line[column].split()[0] for line in lines[1::2]]
        assert [f"{value:.1f}" for value in ours] == told


def test_table_2_is_drawn_as_its_numbers_are():
    table2 = study.stored("table2")
    natural_variation.draw_comparison(table2)
    for axes, count in zip(plt.gcf().axes, natural_variation.COUNTS, strict=True):
        lines = cells(natural_variation.comparison_table(table2, count))
        ours = [line for line in lines if "the paper" not in line[0]]
        paper = [line for line in lines if "the paper" in line[0]]
        for column, (means, told) in enumerate(drawn_dots(axes), 1):
            assert [f"{value:.2f}" for value in means] == [row[column].split()[0] for row in ours]
            assert [f"{value:.2f}" for value in told[::3]] == [row[column] for row in paper]


def test_every_claim_has_its_numbers(table1):
    text = claims.verdicts(BOOK).data
    assert text.count("*Verdict:") == 17 and "$" not in text
    rates = [row["wrong"]["FGSM 8"] / 2000 for row in table1["result"]["rows"]]
    assert f"FGSM {100 * np.mean(rates[::3]):.1f} ± " in text
    checked = EQUATIONS.count("test_")
    assert 0 < int(re.search(r"(\d+) statements", text)[1]) <= checked


def test_claims_lead_to_labels_and_have_rules():
    found, rules = scorecard.claims(BOOK), scorecard.rules(BOOK).data.splitlines()
    chapters = "".join(path.read_text() for path in BOOK.glob("*.ipynb"))
    for claim, rule in zip(found, rules, strict=True):
        assert rule == f"- *{claim.says}* {claim.rule}"
        label = claim.place
        if label != "equations":
            assert f'"name": "{label}"' in chapters or f"({label})=" in chapters


def test_the_scorecard_follows_from_the_numbers(full, table2):
    """The marks again, from the raw outcomes, by the rules as the page tells them."""
    claims_, text = scorecard.claims(BOOK), scorecard.scorecard(BOOK).data
    marks = {claim.says: claim.verdict for claim in claims_}
    assert len(claims_) == len(marks) == 17 == text.count("{doc}`") + text.count("{ref}`")
    assert "Of 16 claims none repeats in full, 9 in part, 6 not; 1 is undecided" in text
    told = dict(zip("abcdefghijklmnopq", claims_, strict=True))
    assert "".join(claim.verdict for claim in told.values()) == "~✘~~~~~✘~✘✘✘✘?~~~"
    rows = {row["method"]: row for row in full["result"]["rows"] if "wrong" in row}
    natural, attacked, strongly = (
        {m: outcomes(rows[m]["outcomes"][c], 5000) for m in MAIN}
        for c in ("natural", "I-FGSM-20 8", "FGSM 25")
    )
    assert attacked["none"].mean() > attacked["wasserstein"].mean() + 0.1
    assert abs(100 * attacked["wasserstein"].mean() - 32.12) > 5, "in direction, not in size"
    gaps = strongly["wasserstein"].astype(float) - strongly["euclidean"]
    assert gaps.mean() > 2 * gaps.std() / 5000**0.5, "reversed"
    gaps = attacked["wasserstein"].astype(float) - attacked["euclidean"]
    assert abs(gaps.mean()) < 2 * gaps.std() / 5000**0.5, "level in the large pair"
    for name, condition in (("table1_cpu", "I-FGSM-20 8"), ("tradeoff_cpu", "I-FGSM-20 8"),
                            ("robust_digits", "pgd 0.1")):  # fmt: skip
        errors = {
            (row["method"], row["seed"]): row["wrong"][condition]
            for row in results.load()[name]["result"]["rows"]
            if row.get("chosen_for", "attack") == "attack"
        }
        behind = [errors["wasserstein", s] > errors["euclidean", s] for s in range(3)]
        assert all(behind), "in every seed"
    assert min(attacked[m].mean() for m in MAIN[1:]) > 0.4206 + 0.05, "the state of the art"
    assert min(natural[m].mean() for m in MAIN[1:]) > natural["none"].mean()
    grid = results.load()["table1_cpu"]["result"]["search"]
    plain, *penalised = (row["wrong"]["natural"] for row in grid)
    assert all(wrong > plain for wrong in penalised), "every setting costs"
    assert rows["wasserstein"]["training"]["error"] > 0.001 > rows["none"]["training"]["error"]
    assert rows["wasserstein"]["training"]["epoch"] < 200, "still falling"
    checked = [line for line in EQUATIONS.splitlines() if line[:2] == "| " and "test_" in line]
    hold = sum("| yes" in line for line in checked)
    of_paper = sum("*repaired*" not in line for line in checked)
    assert f"of {of_paper} statements {hold} hold as printed" in text


def test_a_clear_order_of_flips_is_counted():
    """Of Table 2, again: the paper's order, by two standard errors from one method to the next."""
    networks = reports.measurements(study.stored("table2"))
    for axis, claim in zip(AXES, scorecard.claims(BOOK)[-3:-1], strict=True):
        clear = 0
        for border in PADDINGS:
            for count in ("consecutive", "from_unshifted"):
                flips = [
                    reports.flips_by_image(networks[m][f"{axis} {border}"], count) for m in MAIN
                ]
                less = -np.diff(flips, axis=0)
                clear += all(less.mean(1) > 2 * less.std(1, ddof=1) / less.shape[1] ** 0.5)
        assert f"clear in {clear} of 6 ways" in claim.ours and claim.verdict == "~"


def test_what_a_chapter_prints_is_found_by_table_and_row(tmp_path):
    table = "| size | error |\n| --- | --- |\n| 10 | 4.5 ± 0.2 |\n| 1,000 | no |"
    cells_ = [{"outputs": [{"data": {"text/markdown": [table]}}]}, {"source": "no outputs"},
              {"outputs": [{"text": ["| 10 | 7 |\n"]}]}]  # fmt: skip
    page = tmp_path / "page.ipynb"
    page.write_text(json.dumps({"cells": cells_}))
    found = Printed(page)
    assert found.row("size", "10") == [10, 4.5]
    assert np.isnan(found.row("size", "1,000")[1])
    with pytest.raises(ValueError, match="page.ipynb prints no row '10' of a table 'sizes'"):
        found.row("sizes", "10")


def test_every_result_is_listed_once():
    found = results.load()
    listed = cells(results.experiments_table(found)) + cells(results.benchmarks_table(found))
    names = [line[0].strip("`") for line in listed if "not run" not in line]
    networks = {line[0].strip("`"): line[2] for line in cells(results.experiments_table(found))}
    assert networks["table1.json"] == "3 of 27, to epoch 159 of 200, NVIDIA H100"
    assert networks["robust_digits.json"].endswith("8 epochs")
    assert results.commands(found).count("networks trained on NVIDIA H100, by a prototype") == 6
    assert sorted(names) == [f"{name}.json" for name in found]
    assert sum(f"\n    {name}\n" in results.versions(found) + "\n" for name in found) == len(found)
    assert results.commands(found).count("python -m wdtr_lite experiment") == len(
        cells(results.experiments_table(found))
    )
    assert results.weights().splitlines() == [
        f"{scale}_{method}.pt"
        for scale in ("table1_cpu", "table1")
        for method in ("euclidean", "none", "wasserstein")
    ]
