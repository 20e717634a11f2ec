"""``python -m wdtr_lite train|evaluate|experiment``: train a network, attack it, run the book's
measurements.
"""

import argparse
import json
import sys
import types
import typing
from dataclasses import fields
from functools import partial

import torch

from wdtr_lite import attacks, checks, data, evaluation, training
from wdtr_lite.study import experiments

TRAIN = """Train a network on labelled images, with a gradient penalty, noise or adversarial examples if asked for.
A run stopped at any time goes on with the same command. Without options: Appendix D's ResNet-20 on CIFAR-10,
which takes a GPU minutes and a CPU days. A minute on a CPU:

  python -m wdtr_lite train --folder _runs/digits --data mnist5k --model small_cnn --epochs 15 --milestones 10 \\
      --learning-rate 0.05 --method wasserstein --radius 4 --eta 0.5
  python -m wdtr_lite evaluate _runs/digits --attack pgd --epsilon 0.1"""

EVALUATE = """Print the error of a run's network, a JSON line, on images as they are or under an attack in evaluation mode."""

EXPERIMENT = """Run an experiment of the book. The profile full writes results/NAME.json, cpu writes results/NAME_cpu.json, what
two cores can do of an experiment whose full scale asks for a GPU; quick takes a minute and only prints. Stopped, a run goes on
where it was, and no network is trained twice. On a GPU several networks train at once, on a CPU one on each core.

All experiments:  python -m wdtr_lite experiment all --profile cpu
On a cluster:     dask scheduler; dask worker ADDRESS --nthreads 1 (on each machine, in this folder, on a shared disk);
                  python -m wdtr_lite experiment table1 --profile full --cluster ADDRESS"""

ATTACKS = {
    "none": lambda o: None,
    "fgsm": lambda o: partial(attacks.fgsm, epsilon=o.epsilon, norm=o.norm),
    "ifgsm": lambda o: partial(attacks.ifgsm, epsilon=o.epsilon, alpha=_alpha(o), steps=o.steps, norm=o.norm),
    "pgd": lambda o: partial(
        attacks.pgd, epsilon=o.epsilon, alpha=_alpha(o), steps=o.steps, norm=o.norm, restarts=o.restarts,
        generator=torch.Generator(o.device).manual_seed(o.seed),
    ),
}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m wdtr_lite", description=__doc__.partition(": ")[2]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_train(commands)
    _add_evaluate(commands)
    _add_experiment(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, TypeError, OSError, training.Divergence) as error:
        sys.exit(f"{parser.prog} {options.command}: {error}")


def _add(commands, name: str, run, description: str) -> argparse.ArgumentParser:
    summary = description.partition(".")[0].replace("\n", " ")
    form = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(name, help=summary, description=description, formatter_class=form)
    parser.set_defaults(run=run)
    return parser


def _add_train(commands) -> None:
    parser = _add(commands, "train", _train, TRAIN)
    parser.add_argument(
        "--folder",
        required=True,
        help="where checkpoint.pt and metrics.jsonl are kept, and found again",
    )
    parser.add_argument("--device", help="cuda or cpu (default: cuda where there is one)")
    parser.add_argument(
        "--checkpoint-every", type=int, default=10, help="epochs between checkpoints (default: 10)"
    )
    hints = typing.get_type_hints(training.Config)
    for option in fields(training.Config):
        kind, optional = hints[option.name], isinstance(hints[option.name], types.UnionType)
        several = typing.get_origin(kind) is tuple
        kind = typing.get_args(kind)[0] if optional or several else kind
        choices = option.metadata["choices"]
        shown = " ".join(map(str, option.default)) if several else option.default
        parser.add_argument(
            "--" + option.name.replace("_", "-"),
            type=_or_none(kind) if optional else kind,
            nargs="*" if several else None,
            metavar="{" + ",".join("none" if c is None else c for c in choices) + "}"
            if choices
            else kind.__name__.upper(),
            default=option.default,
            help=option.metadata["help"].replace("%", "%%")
            + ("" if option.default is None else f" (default: {shown})"),
        )


def _or_none(kind):
    def read(text: str):
        return None if text == "none" else kind(text)

    read.__name__ = kind.__name__  # argparse names it in its errors
    return read


def _add_evaluate(commands) -> None:
    parser = _add(commands, "evaluate", _evaluate, EVALUATE)
    parser.add_argument("folder", help="of the run")
    parts = ["train", "fit", "validation", "test"]
    parser.add_argument(
        "--part", choices=parts, default="test", help="images to evaluate on (default: test)"
    )
    parser.add_argument(
        "--images",
        type=int,
        help="so many of them, drawn at random, always the same (default: all)",
    )
    parser.add_argument("--attack", choices=ATTACKS, default="none", help="default: none")
    parser.add_argument(
        "--epsilon",
        type=float,
        default=8 / 255,
        help="radius, for images in [0, 1] (default: 8/255)",
    )
    parser.add_argument("--alpha", type=float, help="step length (default: 2.5 epsilon / steps)")
    parser.add_argument("--steps", type=int, default=20, help="of ifgsm and pgd (default: 20)")
    parser.add_argument(
        "--restarts", type=int, default=1, help="of pgd, each from a random start (default: 1)"
    )
    parser.add_argument(
        "--norm", choices=["linf", "l2"], default="linf", help="of the radius (default: linf)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of pgd's starts (default: 0)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda or cpu"
    )


def _add_experiment(commands) -> None:
    parser = _add(commands, "experiment", _experiment, EXPERIMENT)
    parser.add_argument("name", choices=[*experiments.EXPERIMENTS, "all"])
    parser.add_argument(
        "--profile", choices=["quick", "cpu", "full"], default="quick", help="default: quick"
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="do nothing but list networks: done, missing, the time each should take",
    )
    parser.add_argument(
        "--finished",
        action="store_true",
        help="train nothing: write a result of what is done, with its holes",
    )
    parser.add_argument(
        "--cluster", metavar="ADDRESS", help="of a Dask scheduler whose workers train the networks"
    )


def _train(options: argparse.Namespace) -> None:
    config = training.Config(
        **{option.name: getattr(options, option.name) for option in fields(training.Config)}
    )
    run = training.fit(
        config,
        folder=options.folder,
        device=options.device,
        checkpoint_every=options.checkpoint_every,
    )
    print(json.dumps(run.history[-1]))


def _evaluate(options: argparse.Namespace) -> None:
    run = training.load(options.folder, device=options.device)
    dataset = data.load(run.config.data, split=run.config.split)
    images, labels = (
        part.to(options.device) for part in dataset.part(options.part, options.images)
    )
    wrong = (
        evaluation.misclassified(run.model, images, labels, ATTACKS[options.attack](options))
        .cpu()
        .numpy()
    )
    used = {"none": [], "fgsm": ["norm", "epsilon"], "ifgsm": ["norm", "epsilon", "alpha", "steps"]}
    settings = used.get(options.attack, ["norm", "epsilon", "alpha", "steps", "restarts", "seed"])
    options.alpha = _alpha(options) if "alpha" in settings else None
    shown = {name: getattr(options, name) for name in ("folder", "part", "attack", *settings)}
    print(json.dumps(shown | experiments.summary(wrong)))


def _alpha(options: argparse.Namespace) -> float:
    checks.whole(options.steps, "steps")
    return 2.5 * options.epsilon / options.steps if options.alpha is None else options.alpha


def _experiment(options: argparse.Namespace) -> None:
    for name, profile in _asked(options):
        if options.list:
            _list(name, profile)
            continue
        report = experiments.run(name, profile, cluster=options.cluster, finished=options.finished)
        for row in report["result"]["rows"]:
            print(json.dumps(_shown(row)))
        print(json.dumps(report["provenance"]))


def _shown(row: dict) -> dict:
    """A row in a line: errors in percent, mean label flips; without long lists."""
    counts = [(name, row["wrong"][name], row["n"][name]) for name in row.get("wrong", ())]
    measurements = [
        (name, answer)
        for name, answer in row.get("measurements", {}).items()
        if isinstance(answer, dict)
    ]
    counts += [
        (name, a["wrong"], a["n"]) for name, a in measurements if isinstance(a.get("wrong"), int)
    ]
    flips = [
        (name, a["consecutive"][-1] / a["n"]) for name, a in measurements if "consecutive" in a
    ]
    hidden = ("predictions", "wrong", "measurements", *(["n"] if counts else []))
    shown = {key: value for key, value in row.items() if key not in hidden}
    if counts:
        shown["percent"] = {name: round(100 * wrong / n, 1) for name, wrong, n in counts}
    if flips:
        shown["flips"] = {name: round(mean, 2) for name, mean in flips}
    return shown


def _asked(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Experiments and profiles; of all, those without a cpu profile in full, which two cores can
    do.
    """
    if options.name != "all":
        return [(options.name, options.profile)]
    return [
        (name, options.profile if options.profile in by else "full")
        for name, by in experiments.EXPERIMENTS.items()
        if name in experiments.STUDIED or not options.finished
    ]


def _list(name: str, profile: str) -> None:
    networks, path = experiments.progress(name, profile), experiments.path_of(name, profile)
    written = (
        f": {path} {'is there' if path.exists() else 'was not run'}" if profile != "quick" else ""
    )
    print(f"{name}, {profile}{written}")
    for labels, seconds, expected in networks:
        done = f"done in {seconds:.0f} s" if seconds else "diverged"
        state = f"missing, about {expected / 60:.0f} min" if expected else done
        setting = " ".join(f"{key}={value}" for key, value in labels["setting"].items())
        print(f"  {labels['method']:20s} {setting:44s} seed {labels['seed']}  {state}")


if __name__ == "__main__":
    main()
