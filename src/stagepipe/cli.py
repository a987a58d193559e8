"""The command `stagepipe`: check and plan a recipe before any work, score a submission, print the recipe's schema.

The workflow itself is run by `snakemake`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stagepipe.errors import StagepipeError

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = {
    "check": """examples:
  stagepipe check config/recipes/tgs_salt_small.yaml
  stagepipe check recipe.yaml cluster.yaml            # an overlay on a recipe
  stagepipe check --recipe-only recipe.yaml           # in a second, without data and networks""",
    "plan": """examples:
  stagepipe plan config/config.yaml --measure         # on this machine; what is measured is kept for the next plan
  stagepipe plan config/recipes/tgs_salt_1st.yaml --device "GTX 1080 Ti"
  stagepipe plan recipe.yaml --images 5000 20000 --size 512 512 --json""",
    "evaluate": """examples:
  stagepipe evaluate results/x/submission.csv solution.csv --size 101 101
  stagepipe evaluate submission.csv solution.csv --images data/test/images --output cases.csv
  stagepipe evaluate submission.json solution.json    # runs of street scenes""",
    "schema": """examples:
  stagepipe schema --output config/recipe.schema.json""",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command; the exit status is 0, or 1 with one line per fault on standard error."""
    arguments = _parser().parse_args(argv)
    try:
        faults: list[str] = arguments.run(arguments)
    except StagepipeError as error:
        faults = str(error).splitlines()
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    return 1 if faults else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("stagepipe", description=__doc__, formatter_class=_Help)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    check = _command(commands, "check", "validate a recipe, its data and its networks; runs and writes nothing")
    check.add_argument("recipe", type=Path, metavar="RECIPE", help="YAML file")
    check.add_argument("overlays", type=Path, nargs="*", metavar="OVERLAY", help="YAML file merged onto the recipe")
    check.add_argument("--recipe-only", action="store_true", help="look at no data and build no network")
    check.set_defaults(run=_check)

    plan = _command(commands, "plan", "jobs, image passes, hours, disk and memory of a recipe before it runs")
    plan.add_argument("recipe", type=Path, metavar="RECIPE", help="YAML file")
    plan.add_argument("overlays", type=Path, nargs="*", metavar="OVERLAY", help="YAML file merged onto the recipe")
    plan.add_argument(
        "--images", type=_count, nargs=2, metavar=("TRAIN", "TEST"), help="labelled and other images, where no data is"
    )
    plan.add_argument("--size", type=_count, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of an image, in pixels")
    plan.add_argument("--confident", type=_share, metavar="SHARE", help="of test images that become pseudolabels")
    where = plan.add_mutually_exclusive_group()
    where.add_argument("--device", metavar="NAME", help="a stored device in place of this machine")
    where.add_argument("--measure", action="store_true", help="measure this machine, and keep the figures")
    plan.add_argument("--threads", type=_count, default=1, help="of a job that trains or predicts here (default: 1)")
    plan.add_argument("--gpus", type=_count, default=1, help="how many jobs train or predict at a time (default: 1)")
    plan.add_argument("--cores", type=_count, default=1, help="how many other jobs run at a time (default: 1)")
    plan.add_argument("--json", action="store_true", help="print JSON; times in seconds, sizes in bytes")
    plan.set_defaults(run=_plan)

    evaluate = _command(commands, "evaluate", "score a submission, TGS, SIIM or street, against a solution of its form")
    evaluate.add_argument("submission", type=Path, metavar="SUBMISSION")
    evaluate.add_argument("solution", type=Path, metavar="SOLUTION")
    size = evaluate.add_mutually_exclusive_group()
    size.add_argument("--images", type=Path, metavar="FOLDER", help="folder of the images, which have the masks' sizes")
    size.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="size of all masks, of CSV files")
    evaluate.add_argument("--output", type=Path, metavar="CSV", help="write the scores of every image to this file")
    evaluate.set_defaults(run=_evaluate, refuse=evaluate.error)

    schema = _command(commands, "schema", "print the JSON schema of recipes, for editors")
    schema.add_argument("--output", type=Path, metavar="FILE", help="write it to this file instead")
    schema.set_defaults(run=_schema)
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small; write a whole number from 1 on")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share; write a number from 0 to 1")
    return number


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of examples as they are."""


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str
) -> argparse.ArgumentParser:
    description = summary[0].upper() + summary[1:] + "."
    return commands.add_parser(
        name, help=summary, description=description, epilog=EXAMPLES[name], formatter_class=_Help
    )


def _check(arguments: argparse.Namespace) -> list[str]:
    from stagepipe.recipe.graph import folds_of
    from stagepipe.recipe.load import load

    recipe = load(arguments.recipe, arguments.overlays)
    phases = [phase for stage in recipe.stages for run in stage.runs.values() for phase in run.phases]
    trainings = sum(len(folds_of(recipe, phase)) for phase in phases)
    sys.stdout.write(
        f"{arguments.recipe}: {recipe.name}: {len(recipe.stages)} stages, {len(phases)} phases, {trainings} trainings\n"
    )
    if arguments.recipe_only:
        return []
    from stagepipe.preflight import examine

    examined = examine(recipe)
    sys.stdout.writelines(f"{note}\n" for note in examined.notes)
    if not examined.faults:
        sys.stdout.write("no faults\n")
    return [f"{arguments.recipe}: {fault}" for fault in examined.faults]


def _plan(arguments: argparse.Namespace) -> list[str]:
    from stagepipe.plan import Options, page, plan, summary
    from stagepipe.recipe.load import load

    options = Options(
        images=tuple(arguments.images) if arguments.images else None,
        size=tuple(arguments.size) if arguments.size else None,
        confident=arguments.confident,
        device=arguments.device,
        threads=arguments.threads,
        measure=arguments.measure,
    )
    made = plan(
        load(arguments.recipe, arguments.overlays), options, note=lambda line: sys.stderr.write(f"measuring {line}\n")
    )
    if arguments.json:
        sys.stdout.write(f"{json.dumps(summary.tree(made, arguments.gpus, arguments.cores), indent=2)}\n")
    else:
        sys.stdout.write(page.text(made, arguments.gpus, arguments.cores))
    return []


def _evaluate(arguments: argparse.Namespace) -> list[str]:
    given = arguments.images or arguments.size
    if arguments.submission.suffix.lower() == ".json":
        if given:
            arguments.refuse("--images and --size are for CSV files; leave them out")
        return _evaluate_street(arguments)
    if not given:
        arguments.refuse("one of the arguments --images --size is required")
    from stagepipe.evaluate import evaluate

    size = arguments.images or tuple(arguments.size)
    if arguments.size and min(arguments.size) < 1:
        return [f"--size: {arguments.size} is no size; write height and width in pixels"]
    found = evaluate(arguments.submission, arguments.solution, size)
    for name, mean in found.mean.items():
        sys.stdout.write(f"{name:<16}{mean:.6f}   all-empty {found.all_empty[name]:.6f}\n")
    sys.stdout.write(f"{'images':<16}{len(found.ids)}\n")
    _write_cases(found.cases, arguments.output)
    return []


def _evaluate_street(arguments: argparse.Namespace) -> list[str]:
    from stagepipe.evaluate import evaluate_street

    found = evaluate_street(arguments.submission, arguments.solution)
    for name, mean in [("contest score", found.mean), *found.categories.items()]:
        sys.stdout.write(f"{name:<15} {mean:.6f}\n")
    without = f"   and {found.left_out} without a category, left out" if found.left_out else ""
    sys.stdout.write(f"{'images':<16}{len(found.images)}{without}\n")
    _write_cases(found.cases, arguments.output)
    return []


def _write_cases(cases: pd.DataFrame, output: Path | None) -> None:
    if output:
        from stagepipe.storage import atomic

        with atomic(output) as temporary:
            cases.to_csv(temporary, index=False)


def _schema(arguments: argparse.Namespace) -> list[str]:
    text = schema_text()
    if arguments.output is None:
        sys.stdout.write(text)
        return []
    from stagepipe.storage import atomic

    with atomic(arguments.output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return []


def schema_text() -> str:
    """The JSON schema of recipes as it stands in config/recipe.schema.json."""
    from stagepipe.recipe.schema import json_schema

    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
