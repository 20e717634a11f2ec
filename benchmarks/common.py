"""What the benchmarks share: timing, tables, and the stored result with its provenance."""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from wdtr_lite.study.results import provenance  # noqa: E402
from wdtr_lite.study.store import write  # noqa: E402

synchronise = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None


def timed(function, *arguments):
    synchronise()
    start = time.perf_counter()
    value = function(*arguments)
    synchronise()
    return value, time.perf_counter() - start


def interleaved(functions, rounds, calls=None):
    """Seconds of each function, {name: [...]}: every round calls each in turn, after a first round
    that is not timed.

    A function named in `calls` is called that many times in a round, so that a fast one has a
    stable median.
    """
    times = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(rounds):
        for name, function in functions.items():
            times[name] += [timed(function)[1] for _ in range((calls or {}).get(name, 1))]
    return times


def milliseconds(times):
    return round(1e3 * float(np.median(times)), 3)


def show(title, rows):
    print(f"\n{title}")
    rows = rows if isinstance(rows, list) else [rows]
    for first in range(0, len(rows), 6):
        part = rows[first : first + 6]
        print("\n" * (first > 0), end="")
        for key in part[0]:
            print(
                f"  {key:40s}"
                + "".join(f"{'-' if row[key] is None else row[key]!s:>24}" for row in part)
            )


def main(name, description, measurements, targets=None):
    """Run and print the measurements of ``benchmarks/<name>.py``; with ``--write`` store them.

    `targets` takes all that was measured to rows that hold it against what was required.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"store results/benchmark_{name}.json")
    stored = parser.parse_args().write
    start = time.perf_counter()
    measured = {}
    for function in measurements:
        name_of, summary = function.__name__, function.__doc__.splitlines()[0]
        measured[name_of], seconds = timed(function)
        show(f"{name_of}: {summary} {seconds:.0f} s", measured[name_of])
    if targets is not None:
        measured["targets"] = targets(measured)
        print("\ntargets")
        for row in measured["targets"]:
            print(
                f"  {row['target']:66s}{row['measured']!s:>12}  {'met' if row['met'] else 'MISSED'}"
            )
    seconds = time.perf_counter() - start
    command = f"OMP_NUM_THREADS={torch.get_num_threads()} python benchmarks/{name}.py --write"
    print(f"\n{seconds:.0f} s")
    if stored:
        path = ROOT / "results" / f"benchmark_{name}.json"
        path.parent.mkdir(exist_ok=True)
        result = {
            "name": f"benchmark_{name}",
            **measured,
            "provenance": provenance(command, seconds),
        }
        write(path, result, indent=1)
        print(f"wrote {path.relative_to(ROOT)}")
