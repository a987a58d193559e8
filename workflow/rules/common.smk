"""The recipe, and the functions that turn its parts into inputs and params of rules."""

import logging
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from stagepipe.errors import StagepipeError
from stagepipe.recipe import averages, parts, submission_parts
from stagepipe.recipe.graph import folds_of
from stagepipe.storage import check_writable, explained
from stagepipe.workflow import ignore_time_limit, jobs_use_this_python, plan

ignore_time_limit()
# Where Snakemake's log file can't be written, on a full disk, what it says on the terminal must not drown in that.
logging.raiseExceptions = False
try:
    if not workflow.dryrun:
        check_writable(Path(".snakemake"))
    PLAN = plan(workflow.configfiles, workflow.config_settings.config, Path(workflow.basedir))
except StagepipeError as error:
    sys.exit(f"\n{error}\n")

jobs_use_this_python()
RECIPE = PLAN.recipe
JIGSAW = submission_parts.jigsaw(RECIPE)
SUBMISSION = "submission.json" if RECIPE.submission.encode in ("runs", "street") else "submission.csv"


def hold(plan):
    """One run of a recipe at a time."""
    try:
        with explained(plan.results / "lock"):
            plan.hold()
    except StagepipeError as error:
        raise WorkflowError(str(error))


def code(script):
    """Input: the fingerprint of the code that a script runs. It makes jobs re-run only under `code: rerun`."""
    path = PLAN.code_file(script)
    return path if RECIPE.code == "rerun" else ancient(path)


def job(script):
    """Params: the script's path and the arguments that are not part of its result, and so never a reason to run it again."""

    # A function of `input`, `threads` and `resources` is what Snakemake leaves out of its comparison.
    def arguments(wildcards, input, threads, resources):
        return PLAN.arguments(script, list(wildcards), list(input), threads, resources.get("gpu", 0))

    return arguments


def by_attempt(amount):
    """Resources: so much at first, twice as much when a job is tried again, and so on (`retries` of a profile)."""
    return lambda wildcards, attempt: amount * attempt


def raw_files(wildcards):
    """Tables beside the raw images (which are compared by their listing), or generated ones."""
    if RECIPE.dataset.generated:
        return {"raw": ancient("<results>/raw"), "tables": ["<results>/data/raw.sha256"]}
    return {"tables": PLAN.raw_tables}


def raw_root(wildcards, input):
    return RECIPE.dataset.root or input.raw


def fold_source(wildcards):
    """The file that a recipe takes its folds from."""
    return [RECIPE.folds.file] if RECIPE.folds.file else []


def training_data(wildcards):
    """Pseudolabels and start weights, where a phase uses them."""
    run = RECIPE.stage(wildcards.stage).runs[wildcards.run]
    phase = run.phase(wildcards.phase)
    files = {}
    if phase.data != "labels":
        owner = f"{wildcards.stage}/{wildcards.run}" if run.pseudolabels else wildcards.stage
        files["pseudolabels"] = f"<results>/{owner}/pseudolabels.parquet"
    if phase.init != "encoder":
        stage, run, name = phase.init.split("/")
        shared = RECIPE.stage(stage).runs[run].phase(name).folds == "shared"
        fold = "shared" if shared else wildcards.fold
        files["origin"] = f"<results>/{phase.init}/fold_{fold}/weights.safetensors"
    return files


def member_weights(wildcards):
    """Weights files of the phases that have members."""
    run = RECIPE.stage(wildcards.stage).runs[wildcards.run]
    folder = f"<results>/{wildcards.stage}/{wildcards.run}"
    return [f"{folder}/{phase.name}/fold_{wildcards.fold}/weights.safetensors" for phase in run.phases if phase.member]


def fold_tables(stage, run, split):
    """Tables of a run that together cover a split: every fold's."""
    return [f"<results>/{stage}/{run}/fold_{fold}/{split}.parquet" for fold in range(RECIPE.folds.count)]


def stage_tables(wildcards):
    """Every fold's table of every run with a weight, run after run."""
    runs = averages.run_weights(RECIPE.stage(wildcards.stage))
    return [table for run in runs for table in fold_tables(wildcards.stage, run, wildcards.split)]


def tables_of_blend(blend, split):
    """Every fold's table of every run of a blend, run after run."""
    shares = averages.blend_weights(RECIPE, blend)
    return [table for stage, run in shares for table in fold_tables(stage, run, split)]


def blend_tables(wildcards):
    """Tables of the submission's blend."""
    return tables_of_blend(RECIPE.submission.blend, wildcards.split)


def candidate_tables(wildcards):
    """Out-of-fold tables of every run of the submission's blend."""
    return tables_of_blend(RECIPE.submission.blend, "out_of_fold")


def searched_shares(wildcards):
    """Input: the shares of the submission's blend, where they are searched."""
    return {"shares": "<results>/submission/blend.json"} if RECIPE.submission.blend_search else {}


def emptiness_tables(wildcards):
    """Tables of the blend that decides which masks are empty."""
    return tables_of_blend(RECIPE.submission.emptiness.blend, wildcards.split)


def mask_sources(split):
    """Input: what a blend's masks are emptied or replaced by."""

    def files(wildcards):
        emptiness = (
            {"emptiness": f"<results>/submission/emptiness/{split}.parquet"} if RECIPE.submission.emptiness else {}
        )
        return emptiness | ({"jigsaw": "<results>/submission/jigsaw.parquet"} if JIGSAW else {})

    return files


def emptiness_blends(wildcards):
    """The averaged tables that decide which masks are empty."""
    splits = ("out_of_fold", "test") if RECIPE.submission.emptiness else ()
    return [f"<results>/submission/emptiness/{split}.parquet" for split in splits]


def mosaic_files(wildcards):
    """Files that a recipe takes its mosaics from."""
    if JIGSAW.file is None:
        return []
    path = Path(JIGSAW.file)
    return sorted(map(str, path.glob("*.csv"))) if path.is_dir() else JIGSAW.file


def jigsaw_tables(wildcards):
    """Mosaics, masks that follow from neighbours, and their effects, if the recipe has a jigsaw step."""
    names = ("data/mosaics", "submission/jigsaw", "submission/jigsaw_effects") if JIGSAW else ()
    return {Path(name).name: f"<results>/{name}.parquet" for name in names}


def given(name):
    """Params: an input that not every recipe has."""
    return lambda wildcards, input: input.get(name, "")


def scored_tables(wildcards):
    """Out-of-fold tables of every run of a stage, run after run, and the stage's ensemble."""
    runs = sorted(RECIPE.stage(wildcards.stage).runs)
    return [table for run in runs for table in fold_tables(wildcards.stage, run, "out_of_fold")]


def source_tables(wildcards):
    """Test tables that pseudolabels come from: the source stage's ensemble, or every fold's tables for cross-fitting."""
    source = parts.pseudolabel_sets(RECIPE)[wildcards.owner]
    if not source.cross_fit:
        return f"<results>/{source.stage}/ensemble/test.parquet"
    runs = averages.run_weights(RECIPE.stage(source.stage))
    return [table for run in runs for table in fold_tables(source.stage, run, "test")]


def submission_rows(wildcards):
    """Sample submission whose ids order the rows."""
    return [RECIPE.submission.rows] if RECIPE.submission.rows else []


def all_cases(wildcards):
    """Per-image scores of every stage and of the submission."""
    return [f"<results>/{stage.name}/cases.parquet" for stage in RECIPE.stages] + ["<results>/submission/cases.parquet"]


def all_confusions(wildcards):
    """Pixels by true and predicted class, of every stage and of the submission."""
    return [cases.replace("cases.parquet", "confusion.parquet") for cases in all_cases(wildcards)]


def all_histories(wildcards):
    """Histories of every phase of every fold."""
    return [
        f"<results>/{stage.name}/{run}/{phase.name}/fold_{fold}/history.parquet"
        for stage in RECIPE.stages
        for run, spec in stage.runs.items()
        for phase in spec.phases
        for fold in folds_of(RECIPE, phase)
    ]


def all_pseudolabels(wildcards):
    """Every set of pseudolabels."""
    return [f"<results>/{owner}/pseudolabels.parquet" for owner in parts.pseudolabel_sets(RECIPE)]


# ---------------------------------------------------------------------------------------- the part of the recipe for each rule


def synthesise_part(wildcards):
    return parts.synthesise_part(RECIPE).text()


def ingest_part(wildcards):
    return parts.ingest_part(RECIPE, PLAN.listing).text()


def folds_part(wildcards):
    return parts.FoldsPart(folds=RECIPE.folds).text()


def train_part(wildcards):
    return parts.train_part(RECIPE, wildcards.stage, wildcards.run, wildcards.phase, wildcards.fold).text()


def predict_part(wildcards):
    return parts.predict_part(RECIPE, wildcards.stage, wildcards.run, wildcards.fold).text()


def ensemble_part(wildcards):
    return averages.stage_part(RECIPE, wildcards.stage, wildcards.split).text()


def blend_part(wildcards):
    return averages.submission_part(RECIPE, wildcards.split).text()


def search_blend_part(wildcards):
    return submission_parts.search_blend_part(RECIPE).text()


def emptiness_part(wildcards):
    return averages.blend_part(RECIPE, RECIPE.submission.emptiness.blend, wildcards.split).text()


def mosaics_part(wildcards):
    return submission_parts.mosaics_part(RECIPE).text()


def jigsaw_part(wildcards):
    return submission_parts.jigsaw_part(RECIPE).text()


def score_part(wildcards):
    return parts.score_part(RECIPE, wildcards.stage).text()


def collect_part(wildcards):
    return parts.collect_part(RECIPE).text()


def pseudolabels_part(wildcards):
    return parts.pseudolabels_part(RECIPE, wildcards.owner).text()


def binarise_part(wildcards):
    return submission_parts.binarise_part(RECIPE).text()


def submit_part(wildcards):
    return submission_parts.submit_part(RECIPE).text()


def report_part(wildcards):
    return parts.report_part(RECIPE).text()
