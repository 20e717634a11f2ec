"""Rows of networks made into numbers of a table, by hand."""

import base64
import math
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import settings  # noqa: F401, its profile has no deadline

from wdtr_lite.study.outcomes import bits, pack, pack_bits, unpack
from wdtr_lite.study.statistics import across_seeds, choose, paired, summary


def as_row(method, setting, natural, **wrong):
    counts = {"natural": natural, **wrong}
    return {
        "method": method,
        "setting": setting,
        "wrong": counts,
        "n": dict.fromkeys(counts, 100),
    }


def test_choose_takes_the_most_robust_of_those_that_stay_accurate():
    search = [
        as_row("none", {}, 10, pgd=90, moved=30),
        as_row("euclidean", {"eta": 1}, 11, pgd=50, moved=20),
        as_row("euclidean", {"eta": 2}, 11, pgd=40, moved=40),
        as_row("euclidean", {"eta": 4}, 12, pgd=10, moved=10),  # too inaccurate
        as_row("pgd", {"epsilon": 1}, 30, pgd=20, moved=20),
        as_row("pgd", {"epsilon": 2}, 20, pgd=30, moved=30),  # all too inaccurate: the least so
    ]
    assert choose(search, ["pgd"]) == {
        "none": {},
        "euclidean": {"eta": 2},
        "pgd": {"epsilon": 2},
    }
    assert choose(search, ["pgd", "moved"])["euclidean"] == {"eta": 1}
    assert choose(search, ["pgd"], allowance=0.02)["euclidean"] == {"eta": 4}
    assert choose(search, ["natural", "pgd"], allowance=1.0)["pgd"] == {"epsilon": 1}
    assert choose(search[4:], ["natural", "pgd"], allowance=1.0) == {"pgd": {"epsilon": 1}}
    assert choose(search[::-1], ["natural", "pgd"], allowance=1.0)["pgd"] == {"epsilon": 2}, (
        "the first of equals"
    )


def test_choose_counts_errors_of_their_own_images():
    """Rates are compared, not counts."""
    search = [as_row("none", {}, 10, pgd=50), as_row("none", {"width": 2}, 10, pgd=49)]
    search[0]["n"] = {"natural": 100, "pgd": 1000}
    assert choose(search, ["pgd"]) == {"none": {}}


LOST = [
    {"method": "euclidean", "setting": {"eta": 8}, "diverged": "in epoch 1"},
    {"method": "fgsm", "setting": {}, "missing": True},
]


def test_choose_leaves_out_what_diverged_or_is_missing():
    search = [as_row("none", {}, 10, pgd=90), as_row("euclidean", {"eta": 1}, 10, pgd=50), *LOST]
    assert choose(search, ["pgd"]) == {"none": {}, "euclidean": {"eta": 1}}


def test_across_seeds_by_hand():
    rows = [
        {**as_row("none", {}, 10, pgd=k), "chosen_for": "attack", "seed": k} for k in (10, 20, 60)
    ]
    rows.append({**as_row("none", {}, 10, pgd=99), "chosen_for": "variation", "seed": 0})
    rows += [{**row, "chosen_for": "attack", "seed": 9} for row in LOST]
    rows.append({**LOST[0], "method": "none", "chosen_for": "attack", "seed": 9})
    found = across_seeds(rows, "pgd", method="none", chosen_for="attack")
    assert found == {"mean": pytest.approx(0.3), "sd": pytest.approx(0.2645751), "n": 3}
    assert across_seeds(rows, "pgd", method="none", chosen_for="variation") == {
        "mean": 0.99,
        "sd": None,
        "n": 1,
    }
    assert across_seeds(rows, "pgd", method="euclidean") == {"mean": None, "sd": None, "n": 0}
    assert across_seeds(rows, "natural") == {
        "mean": pytest.approx(0.1),
        "sd": pytest.approx(0.0),
        "n": 4,
    }


ROWS = [as_row("none", {}, 10, pgd=50)]


def changed(**columns):
    return [ROWS[0] | columns]


def refused_by_both(columns, error, says):
    """By across_seeds and choose, each by the name of its argument."""
    counts = {part: {"natural": each, "pgd": each} for part, each in columns.items()}
    return [
        (lambda: across_seeds(changed(**counts), "pgd"), error, rf"rows\[0\]{says}"),
        (lambda: choose(changed(**counts), ["pgd"]), error, rf"search\[0\]{says}"),
    ]


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda: across_seeds(3, "pgd"), TypeError, "rows must be list or tuple, got 3"),
        (lambda: across_seeds([3], "pgd"), TypeError, r"rows\[0\] must be dict, got 3"),
        (lambda: across_seeds(ROWS, "x"), ValueError, "condition must be one of .*, got 'x'"),
        (lambda: across_seeds(ROWS, "pgd", x=1), ValueError, "label must be one of .*, got 'x'"),
        (lambda: choose(3, ["pgd"]), TypeError, "search must be list or tuple, got 3"),
        (lambda: choose(ROWS, "pgd"), TypeError, "conditions must be list or tuple, got 'pgd'"),
        (lambda: choose(ROWS, ["x"]), ValueError, "conditions must be one of .*, got 'x'"),
        (lambda: choose(ROWS, ["pgd"], float("nan")), ValueError, "allowance must be .* got nan"),
        (
            lambda: choose(changed(method="pgd"), ["pgd"]),
            ValueError,
            "search must hold errors of plain .* allowance=0.01 is added to, got those of "
            r"\['pgd'\]",
        ),
        (lambda: choose(ROWS, []), ValueError, r"conditions must not be empty, got \[\]"),
        (lambda: choose([{"wrong": {}}], ["x"]), ValueError, r"search\[0\] must have 'method', .*"),
        (
            lambda: choose(changed(method=3), ["pgd"]),
            TypeError,
            r"search\[0\]\['method'\] .* got 3",
        ),
        (lambda: choose(changed(setting=3), ["pgd"]), TypeError, r"search\[0\]\['setti.* got 3"),
        (lambda: across_seeds(changed(n=3), "pgd"), TypeError, r"rows\[0\]\['n'\] .* got 3"),
        (
            lambda: across_seeds(changed(n={}), "pgd"),
            ValueError,
            r"rows.* must have 'pgd', got \[\]",
        ),
        (
            lambda: across_seeds(changed(wrong=3), "pgd"),
            TypeError,
            r"rows\[0\]\['wrong'\] .* got 3",
        ),
        *refused_by_both({"n": 0}, ValueError, r"\['n'\]\['\w+'\] must be at least 1, got 0"),
        *refused_by_both({"n": "x"}, TypeError, r"\['n'\]\['\w+'\] must be a whole .*, got 'x'"),
        *refused_by_both({"wrong": float("nan")}, TypeError, r"\['wrong'\].* whole .*, got nan"),
        *refused_by_both({"wrong": "1"}, TypeError, r"\['wrong'\].* whole number, got '1'"),
        *refused_by_both({"wrong": -1}, ValueError, r"\['wrong'\].* must be at least 0, got -1"),
        *refused_by_both({"wrong": 101}, ValueError, r"\['wrong'\].* at most 100, got 101"),
        (lambda: summary(np.zeros(0, bool)), ValueError, r"outcomes must be .*, got \(0,\)"),
        *(
            (lambda each=each: across_seeds(changed(seed=0), "pgd", seed=each), TypeError, says)
            for each, says in (
                (np.array([0.1, 0.2]), r"seed must be one value, got array\(\[0.1, 0.2\]\)"),
                (torch.zeros(2), r"seed must be one value, got tensor\(\[0., 0.\]\)"),
            )
        ),
        (lambda: summary(np.array([1, 0.5])), ValueError, r"outcomes .* 0 or 1, got \[1.0, 0.5\]"),
        (lambda: summary([1]), TypeError, r"outcomes must be ndarray, got \[1\]"),
    ],
)
def test_bad_arguments(call, error, says):
    with pytest.raises(error, match=f"^{says}$"):
        call()


def test_summary_by_hand():
    found = summary(np.array([True, False, False, False]))
    assert found == {
        "mean": 0.25,
        "standard_error": pytest.approx((0.25 * 0.75 / 4) ** 0.5),
        "n": 4,
    }


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ">f4"])
def test_a_summary_is_in_float64(dtype):
    """Of sums that the type of the outcomes does not hold."""
    shares = np.ones(100_000, dtype)
    shares[:20] = 0
    found = summary(shares)
    assert found == {
        "mean": 0.9998,
        "standard_error": (0.9998 * (1 - 0.9998) / 1e5) ** 0.5,
        "n": 10**5,
    }


def test_a_setting_at_the_allowance_is_taken():
    """One point in a hundred images, which floating point makes a little more."""
    search = [as_row("none", {}, 6, a=9), as_row("p", {"at": 7}, 7, a=0), as_row("p", {}, 5, a=50)]
    assert choose(search, ["a"], 0.01)["p"] == {"at": 7}


# ---------------------------------------------------------------- image by image


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_pairs_by_hand(pairs):
    """Mean and standard error of the differences; p as the two tails of fair coins."""
    first, second = (np.array(each) for each in zip(*pairs, strict=True))
    found = paired(first, second)
    gaps = first.astype(float) - second
    assert found["difference"] == pytest.approx(gaps.mean())
    assert found["standard_error"] == pytest.approx(gaps.std() / len(gaps) ** 0.5)
    b, c = int((gaps > 0).sum()), int((gaps < 0).sum())
    assert (found["only_first"], found["only_second"], found["n"]) == (b, c, len(pairs))
    coins = [math.comb(b + c, k) for k in range(b + c + 1)]
    rare = sum(each for each in coins if each <= coins[b])
    assert found["p_value"] == pytest.approx(rare / 2 ** (b + c))
    assert paired(second, first)["difference"] == -found["difference"]


@pytest.mark.parametrize(
    "first, second, error, says",
    [
        ([True], np.array([True]), TypeError, "first must be ndarray, got"),
        (np.array([True]), np.array([1]), TypeError, "second must be bool, got int64"),
        (np.array([True]), np.array([True] * 2), ValueError, "first and second must be as long"),
        (np.array([], bool), np.array([], bool), ValueError, r"first must be \(n,\), n at least 1"),
    ],
)
def test_no_pairs(first, second, error, says):
    with pytest.raises(error, match=says):
        paired(first, second)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_bits_come_back(values):
    packed = pack_bits(values)
    assert bits(packed, len(values)).tolist() == values and isinstance(packed, str)
    assert len(base64.b64decode(packed)) == math.ceil(len(values) / 8)


@given(st.lists(st.lists(st.integers(0, 255), min_size=3, max_size=3), min_size=1, max_size=9))
def test_numbers_come_back(values):
    assert unpack(pack(values), (len(values), 3)).tolist() == values


MASKED = np.ma.array([1, 2], mask=[True, False])
GRADED = torch.ones(2, requires_grad=True)
EMPTY = {"method": "none", "setting": {}, "wrong": {}, "n": {}}


def deflated(content, more=b"", less=0):
    stream = zlib.compress(content)
    return base64.b64encode(stream[: len(stream) - less] + more).decode()


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda: pack_bits([0.5, 2.0]), ValueError, r"outcomes must be in \[0, 1\], got 0.5 to 2"),
        (lambda: pack_bits([]), ValueError, r"outcomes must be \(n,\), n at least 1"),
        (lambda: pack([0.5]), ValueError, r"numbers must be whole, from 0 to 255, got \[0.5\]"),
        (lambda: pack([256]), ValueError, r"numbers must be whole, from 0 to 255, got \[256\]"),
        (lambda: pack([-1]), ValueError, r"numbers must be whole, from 0 to 255, got \[-1\]"),
        (lambda: bits("AA==", 9), ValueError, "packed must hold n=9 outcomes, got 1 bytes"),
        (lambda: bits("x y", 9), ValueError, "packed must be base64, got 'x y'"),
        (lambda: bits(3, 9), TypeError, "packed must be str, got 3"),
        (lambda: unpack("AA==", (1,)), ValueError, "packed must be as pack makes it, got 'AA=='"),
        (lambda: unpack(pack([1]), (2,)), ValueError, r"of shape=\(2,\), got 1"),
        (lambda: unpack(pack([1]), 3), TypeError, "shape must be"),
        (lambda: unpack(pack([1] * 9), (2,)), ValueError, r"of shape=\(2,\), got over 2"),
        (lambda: unpack(deflated(b"\1", b"more"), (1,)), ValueError, "packed must be as pack"),
        (lambda: unpack(deflated(b"\1", less=2), (1,)), ValueError, "packed must be as pack"),
        (lambda: bits("/w==", 3), ValueError, "packed must hold n=3 outcomes, got more in '/w=='"),
        (lambda: pack_bits([0.5, 1.0]), TypeError, "outcomes must be bool or whole .* float64"),
        (lambda: pack(MASKED), ValueError, "numbers must have no masked"),
        (lambda: pack_bits(MASKED > 1), ValueError, "outcomes must have no masked"),
        (lambda: pack([[1], [1, 2]]), ValueError, r"numbers must be an array, got \[\[1\]"),
        (lambda: pack_bits([[1], [1, 2]]), ValueError, r"outcomes must be an array, got \[\[1\]"),
        (lambda: pack(GRADED), ValueError, "numbers must be whole, from 0 to 255, got tensor"),
        (lambda: pack_bits(GRADED), TypeError, "outcomes must be bool or whole numbers, 0 or 1"),
        (lambda: pack(GRADED.long().to("meta")), ValueError, "numbers must hold values"),
        (lambda: pack_bits(GRADED.bool().to("meta")), ValueError, "outcomes must hold values"),
        (
            lambda: choose([EMPTY], ["natural"]),
            ValueError,
            r"search\[0\]\['wrong'\] must not be em",
        ),
        (lambda: across_seeds([EMPTY], "natural"), ValueError, r"rows\[0\]\['wrong'\] must not be"),
        (lambda: across_seeds([{}], "natural", seed=0), ValueError, r"rows\[0\] must not be empty"),
    ],
    ids=range(27),
)
def test_nothing_to_pack_or_unpack(call, error, says):
    with pytest.raises(error, match=says):
        call()
