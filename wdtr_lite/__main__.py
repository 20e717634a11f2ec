"""``python -m wdtr_lite experiment NAME --profile quick|full``: run the book's measurements."""

import argparse
import json

from wdtr_lite import experiments


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m wdtr_lite", description="Run the book's measurements.")
    commands = parser.add_subparsers(dest="command", required=True)
    experiment = commands.add_parser(
        "experiment",
        help="run an experiment",
        description="Run an experiment. The profile full writes results/NAME.json and, stopped, goes on where it "
        "was; quick takes seconds and only prints.",
    )
    experiment.add_argument("name", choices=[*experiments.EXPERIMENTS, "all"])
    experiment.add_argument("--profile", choices=["quick", "full"], default="quick")
    arguments = parser.parse_args()
    for name in experiments.EXPERIMENTS if arguments.name == "all" else [arguments.name]:
        report = experiments.run(name, arguments.profile)
        for row in report["result"]["rows"]:
            print(json.dumps({key: value for key, value in row.items() if key != "predictions"}))
        print(json.dumps(report["provenance"]))


if __name__ == "__main__":
    main()
