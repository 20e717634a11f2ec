"""``python -m wdtr_lite train|evaluate|experiment``: train a network, attack it, run the book's
measurements.
"""

import argparse
import json
import sys
import time
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import Field, fields
from functools import partial
from typing import Any

import torch

from wdtr_lite import attacks, checks, data, training
from wdtr_lite.training import checkpoint

TRAIN = """\
Train a network on labelled images, with a gradient penalty, noise or adversarial examples if asked
for. A run stopped at any time goes on with the same command. Without options: Appendix D's
ResNet-20 on CIFAR-10, which takes a GPU minutes and a CPU days. A minute on a CPU:

  python -m wdtr_lite train --folder _runs/digits --data mnist5k --model small_cnn --epochs 15 \\
      --milestones 10 --learning-rate 0.05 --method wasserstein --radius 4 --eta 0.5
  python -m wdtr_lite evaluate _runs/digits --attack pgd --epsilon 0.1"""

EVALUATE = """\
Print the error of a run's network, a JSON line, on images as they are or under an attack in
evaluation mode. The images are those of the data set's name; that the run was trained on the same
is checked of its training images, of which alone a run keeps a checksum."""

EXPERIMENT = """\
Run an experiment of the book. The profile full writes results/NAME.json, cpu writes
results/NAME_cpu.json, what two cores can do of an experiment whose full scale asks for a GPU; quick
takes a minute and only prints. Stopped, a run goes on where it was, and no network is trained
twice. On a GPU several networks train at once, on a CPU one on each core.

All experiments:  python -m wdtr_lite experiment all --profile cpu
On a cluster:     dask scheduler; dask worker ADDRESS --nthreads 1 (on each machine, in this
                  folder, on a shared disk);
                  python -m wdtr_lite experiment table1 --profile full --cluster ADDRESS"""


ATTACK = {  # each option's help, and what is offered
    "alpha": ("length of a step, in the same unit (default: 2.5 epsilon / steps)",),
    "steps": ("how many, of ifgsm and pgd",),
    "restarts": ("how many, of pgd, each from a random start",),
    "norm": (
        "of epsilon: the largest change of a pixel (linf), or the root of the sum of the squares "
        "of all (l2)",
        ("linf", "l2"),
    ),
    "seed": ("of pgd's random starts, a whole number",),
}


MORE_TO_DO = 75  # the exit code of what ran out of time and goes on when called again
INTERRUPTED = 130  # that of a command that a shell interrupts

EXIT_CODES = f"""\
Exit codes: 0, done; 1, refused or failed, as stderr says; 2, no such option; {MORE_TO_DO}, the
time of --minutes is up after an epoch or more, the same command goes on; {INTERRUPTED},
interrupted."""

KINDS = {int: "N", float: "NUMBER", str: "NAME"}


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    prog, summary = "python -m wdtr_lite", (__doc__ or "").partition(": ")[2].replace("\n", " ")
    parser = argparse.ArgumentParser(
        prog=prog,
        description=summary,
        allow_abbrev=False,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (description, add_options, run) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=description.partition(".")[0].replace("\n", " "),
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        if name in arguments[:1]:  # a command's options cost imports
            add_options(command)
    for argument in arguments:
        if argument.endswith("=--"):  # which argparse reads as nothing
            parser.error(f"argument {argument[:-3]}: expected a value, got '--'")
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except training.Unfinished as stopped:
        print(f"{parser.prog} {options.command}: {stopped}", file=sys.stderr)
        sys.exit(MORE_TO_DO if stopped.trained else 1)
    except (ValueError, TypeError, OSError, RuntimeError, KeyboardInterrupt) as error:
        if _interrupted(error):
            print(f"{parser.prog} {options.command}: interrupted", file=sys.stderr)
            sys.exit(INTERRUPTED)
        sys.exit(f"{parser.prog} {options.command}: {error}")


def _interrupted(error: BaseException | None) -> bool:
    """Whether an interrupt is behind it: within torch's bookkeeping one becomes another error."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


# ---------------------------------------------------------------- options


def _add_field(
    command: argparse.ArgumentParser, option: Field, text: str, names: Iterable = ()
) -> argparse.Action:
    """An option from a field of a dataclass, its help, and the values that are offered for it."""
    kind: Any = option.type
    default: Any = option.default
    optional, several = isinstance(kind, types.UnionType), typing.get_origin(kind) is tuple
    kind = typing.get_args(kind)[0] if optional or several else kind
    offered = ",".join("none" if name is None else name for name in names)
    shown = " ".join(map(str, default)) if several else default
    return command.add_argument(
        "--" + option.name.replace("_", "-"),
        type=_reading(kind, optional),
        nargs="*" if several else None,
        metavar="{" + offered + "}" if offered else KINDS[kind],
        default=default,
        help=text.replace("%", "%%") + ("" if shown is None else f" (default: {shown})"),
    )


def _reading(kind: type, optional: bool = False) -> Callable[[str], Any]:
    """Of an option's text; numbers also as fractions."""

    def read(text: str) -> Any:
        if optional and text == "none":
            return None
        return _number(text) if kind is float else kind(text)

    read.__name__ = "number" if kind is float else kind.__name__  # argparse names it in its errors
    return read


def _number(text: str) -> float:
    numerator, slash, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator if slash else 1)
    except ZeroDivisionError:
        raise ValueError from None


def _add_minutes(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--minutes",
        type=_reading(float),
        metavar="NUMBER",
        help="stop before the epoch that would take longer, with all stored, and exit with code "
        f"{MORE_TO_DO}: the same command goes on",
    )


def _until(options: argparse.Namespace) -> float | None:
    if options.minutes is None:
        return None
    return time.time() + 60 * checks.number(options.minutes, "minutes")


def _given(kind: type, options: argparse.Namespace) -> dict[str, Any]:
    """The options that are fields of a dataclass."""
    names = {option.name for option in fields(kind)}
    return {name: value for name, value in vars(options).items() if name in names}


# ---------------------------------------------------------------- train


def _add_train(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--folder",
        required=True,
        help="where checkpoint.pt and metrics.jsonl are kept, and found again",
    )
    command.add_argument("--device", help="cuda or cpu (default: cuda where there is one)")
    command.add_argument(
        "--checkpoint-every", type=int, default=10, help="epochs between checkpoints (default: 10)"
    )
    _add_minutes(command)
    for option in fields(training.Config):
        names = option.metadata["choices"] or option.metadata["names"]()
        _add_field(command, option, option.metadata["help"], names)


def _train(options: argparse.Namespace) -> None:
    run = training.fit(
        training.Config(**_given(training.Config, options)),
        folder=options.folder,
        device=options.device,
        checkpoint_every=options.checkpoint_every,
        until=_until(options),
    )
    print(json.dumps(run.history[-1]))


# ---------------------------------------------------------------- evaluate


def _add_evaluate(command: argparse.ArgumentParser) -> None:
    parts, there = ["train", "fit", "validation", "test"], torch.cuda.is_available()
    command.add_argument("folder", help="of the run")
    command.add_argument(
        "--part", choices=parts, default="test", help="images to evaluate on (default: test)"
    )
    command.add_argument(
        "--images",
        type=int,
        help="so many of them, drawn at random, always the same (default: all)",
    )
    command.add_argument(
        "--attack", choices=["none", *attacks.METHODS], default="none", help="default: none"
    )
    command.add_argument(
        "--epsilon",
        type=_reading(float),
        metavar="NUMBER",
        default=argparse.SUPPRESS,  # so that it is known what was given
        help="radius of the attack, of intensities in [0, 1] (default: 8/255)",
    )
    for option in fields(attacks.Attack)[2:]:
        _add_field(command, option, *ATTACK[option.name]).default = argparse.SUPPRESS
    command.add_argument("--device", default="cuda" if there else "cpu", help="cuda or cpu")


def _evaluate(options: argparse.Namespace) -> None:
    run = training.load(options.folder, device=options.device)
    from wdtr_lite import evaluation
    from wdtr_lite.study import summary

    dataset = _trained_on(run, options)
    part = dataset.part(options.part, options.images)
    images, labels = (tensor.to(options.device) for tensor in part)
    shown, attack = {name: getattr(options, name) for name in ("folder", "part", "attack")}, None
    if made := _attack(options):
        if made.norm == "linf":
            checks.intensity(made.epsilon, "epsilon")
            checks.intensity(made.alpha or 0.0, "alpha")
        generator = torch.Generator(options.device).manual_seed(made.seed)
        attack, shown = partial(made, generator=generator), shown | made.settings
    wrong = evaluation.misclassified(run.model, images, labels, attack)
    print(json.dumps(shown | summary(wrong.cpu().numpy())))


def _attack(options: argparse.Namespace) -> attacks.Attack | None:
    given = _given(attacks.Attack, options)
    if options.attack != "none":
        made = attacks.Attack(options.attack, **{"epsilon": 8 / 255, **given})
        for name in given.keys() - made.settings.keys():
            raise ValueError(f"attack={made.method!r} needs no {name}, got {name}={given[name]!r}")
        return made
    if given:
        raise ValueError(f"attack must be told with {', '.join(given)}, got 'none'")
    return None


def _trained_on(run: training.Run, options: argparse.Namespace) -> data.Dataset:
    """The data set of the run's name, if it is the one whose images the run was given."""
    name, split = run.config.data, run.config.split
    if name in data.names():
        dataset = data.load(name, split=split)
        if checkpoint.trained_on(options.folder, dataset):
            return dataset
    raise ValueError(
        f"{options.folder} holds a run on images that it was given, other ones than those of "
        f"{name!r} here: ask evaluation.error of them"
    )


# ---------------------------------------------------------------- experiment


def _add_experiment(command: argparse.ArgumentParser) -> None:
    from wdtr_lite import study

    command.add_argument("name", choices=[*study.EXPERIMENTS, "all"])
    command.add_argument(
        "--profile", choices=["quick", "cpu", "full"], default="quick", help="default: quick"
    )
    command.add_argument(
        "--list",
        action="store_true",
        help="list the networks, train none: done, missing, the time each should take",
    )
    command.add_argument(
        "--finished",
        action="store_true",
        help="train nothing: write a result of what is done, with its holes",
    )
    command.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="of a Dask scheduler whose workers train the networks, several at once on GPUs",
    )
    _add_minutes(command)


def _experiment(options: argparse.Namespace) -> None:
    from wdtr_lite import study

    until = _until(options)
    if until is not None and options.profile == "quick":
        raise ValueError(
            "minutes are for the profiles cpu and full, quick stores nothing to go on from, got "
            f"{options.minutes:g}"
        )
    if options.list and (options.cluster or options.finished):
        raise ValueError("list trains and writes nothing: call it without cluster and finished")
    for name, profile in _asked(options, study.EXPERIMENTS):
        if options.list:
            _list(name, profile)
            continue
        how = {"cluster": options.cluster, "finished": options.finished, "until": until}
        report = study.run(name, profile, **how)
        for row in report["result"]["rows"]:
            print(json.dumps(_shown(row)))
        print(json.dumps(report["provenance"]))
        _tell_missing(name, profile)


def _asked(options: argparse.Namespace, experiments: dict) -> list[tuple[str, str]]:
    """Experiments and profiles; of all, those without a cpu profile in full, which two cores can
    do.
    """
    if options.name != "all":
        return [(options.name, options.profile)]
    asked, every = options.profile, not options.finished
    profiles = {name: asked if asked in by else "full" for name, by in experiments.items()}
    return [(name, by) for name, by in profiles.items() if every or experiments[name][by].trains]


def _list(name: str, profile: str) -> None:
    from wdtr_lite import study

    networks, path = study.progress(name, profile), study.path_of(name, profile)
    written = "is there" if path.exists() else "was not run"
    print(f"{name}, {profile}" + (f": {path} {written}" if profile != "quick" else ""))
    where = " on a GPU" * study.declared(name, profile).lacks_gpu
    for labels, seconds, expected in networks:
        done = f"done in {seconds:.0f} s" if seconds else "diverged"
        begun = "stopped before its end" if seconds else "missing"
        state = f"{begun}, about {expected / 60:.0f} min{where}" if expected else done
        setting = " ".join(f"{key}={value}" for key, value in labels["setting"].items())
        print(f"  {labels['method']:20s} {setting:44s} seed {labels['seed']}  {state}")


def _tell_missing(name: str, profile: str) -> None:
    """What a GPU would add."""
    from wdtr_lite import study

    if not study.declared(name, profile).lacks_gpu:
        return
    seconds = [expected for *_, expected in study.progress(name, profile) if expected]
    if seconds:
        print(
            f"{name}: {len(seconds)} networks are not trained to the end, for want of a GPU, which "
            f"would need about {sum(seconds) / 3600:.1f} hours"
        )


def _shown(row: dict) -> dict:
    """A row in a line: errors in percent, mean label flips; without long lists."""
    measured = row.get("measurements", {}).items()
    measured = [(name, found) for name, found in measured if isinstance(found, dict)]
    counts = [(name, row["wrong"][name], row["n"][name]) for name in row.get("wrong", ())]
    counts += [(k, m["wrong"], m["n"]) for k, m in measured if isinstance(m.get("wrong"), int)]
    flips = [(k, m["consecutive"][-1] / m["n"]) for k, m in measured if "consecutive" in m]
    hidden = ("predictions", "wrong", "measurements", *(["n"] if counts else []))
    shown = {key: value for key, value in row.items() if key not in hidden}
    if counts:
        shown["percent"] = {name: round(100 * wrong / n, 1) for name, wrong, n in counts}
    if flips:
        shown["flips"] = {name: round(mean, 2) for name, mean in flips}
    return shown


COMMANDS = {
    "train": (TRAIN, _add_train, _train),
    "evaluate": (EVALUATE, _add_evaluate, _evaluate),
    "experiment": (EXPERIMENT, _add_experiment, _experiment),
}

if __name__ == "__main__":
    main()
