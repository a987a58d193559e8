"""One page that shows what happened, and its pictures for `snakemake --report`."""

PICTURES = {
    "data_overview": "Data",
    "fold_balance": "Data",
    "learning_curves": "Training",
    "pseudolabels": "Training",
    "scores": "Scores",
    "thresholds": "Scores",
    "cases": "Predictions",
    "cost": "Cost",
}
if JIGSAW:
    PICTURES["mosaics"] = "Predictions"
if len(RECIPE.dataset.classes) > 1:
    PICTURES["confusion"] = "Scores"


rule report:
    input:
        unpack(jigsaw_tables),
        unpack(searched_shares),
        samples=rules.ingest.output.samples,
        pixels=ancient(rules.ingest.output.pixels),
        faults=rules.ingest.output.faults,
        folds=rules.split_folds.output.folds,
        histories=all_histories,
        pseudolabels=all_pseudolabels,
        cases=all_cases,
        confusions=all_confusions,
        scores=rules.collect_scores.output.scores,
        threshold=rules.binarise.output.threshold,
        thresholds=rules.binarise.output.thresholds,
        out_of_fold="<results>/submission/out_of_fold.parquet",
        test="<results>/submission/test.parquet",
        emptiness=emptiness_blends,
        submission=rules.submit.output.submission,
        code=code("report"),
    output:
        [
            report(
                f"<results>/report/{picture}.png",
                caption=f"../report/{picture}.rst",
                category=category,
                labels={"figure": picture.replace("_", " ")},
            )
            for picture, category in PICTURES.items()
        ],
        html="<results>/report.html",
    log:
        "<logs>/report.log",
    benchmark:
        "<benchmarks>/report.tsv"
    conda:
        "../envs/stagepipe.yaml"
    resources:
        mem_mb=by_attempt(4000),
        runtime=by_attempt(60),
    params:
        part=report_part,
        job=job("report"),
        # What jobs took is no result, so it is not among the inputs.
        benchmarks=f"results/{RECIPE.name}/benchmarks",
        shares=given("shares"),
        mosaics=given("mosaics"),
        jigsaw=given("jigsaw"),
        jigsaw_effects=given("jigsaw_effects"),
    message:
        "Writing the report"
    shell:
        "exec python {params.job} --part {params.part:q} --log {log} --samples {input.samples} --pixels {input.pixels}"
        " --faults {input.faults} --folds {input.folds} --histories {input.histories}"
        " --pseudolabels {input.pseudolabels} --cases {input.cases}"
        " --confusions {input.confusions} --scores {input.scores}"
        " --threshold {input.threshold} --thresholds {input.thresholds} --out-of-fold {input.out_of_fold}"
        " --test {input.test} --shares {params.shares} --emptiness {input.emptiness} --mosaics {params.mosaics} --jigsaw {params.jigsaw}"
        " --jigsaw-effects {params.jigsaw_effects} --submission {input.submission} --benchmarks {params.benchmarks} --html {output.html}"
