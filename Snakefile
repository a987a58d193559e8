"""From raw files to a submission, as one recipe says.

snakemake --cores 1 --resources gpu=1                                              # config/config.yaml
snakemake --cores 1 --resources gpu=1 --configfile config/recipes/x.yaml [overlay.yaml ...]
snakemake --profile profiles/slurm ...
snakemake stage2 --cores 1 --resources gpu=1                                       # stage 2 and what it needs
"""

from snakemake.utils import min_version

min_version("9.20")


include: "workflow/rules/common.smk"


pathvars:
    results=f"results/{RECIPE.name}",
    logs=f"results/{RECIPE.name}/logs",
    benchmarks=f"results/{RECIPE.name}/benchmarks",


report: "workflow/report/workflow.rst"


wildcard_constraints:
    stage="|".join(stage.name for stage in RECIPE.stages),
    run=r"\w+",
    phase=r"\w+",
    fold=r"\d+|shared",
    split="out_of_fold|test",
    owner=r"\w+(/\w+)?",


onstart:
    hold(PLAN)


rule all:
    default_target: True
    input:
        f"<results>/{SUBMISSION}",
        "<results>/scores.csv",
        "<results>/report.html",


for stage in RECIPE.stages:

    rule:
        name:
            stage.name
        input:
            f"<results>/{stage.name}/ensemble/test.parquet",
            f"<results>/{stage.name}/cases.parquet",


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/predict.smk"
include: "workflow/rules/pseudolabel.smk"
include: "workflow/rules/jigsaw.smk"
include: "workflow/rules/submit.smk"
include: "workflow/rules/report.smk"
