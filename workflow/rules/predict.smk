"""Probability tables: all members of a run and fold in one pass; a stage's average; its scores."""


rule predict:
    input:
        samples=rules.ingest.output.samples,
        pixels=ancient(rules.ingest.output.pixels),
        folds=rules.split_folds.output.folds,
        weights=member_weights,
        code=code("predict"),
    output:
        out_of_fold="<results>/{stage}/{run}/fold_{fold}/out_of_fold.parquet",
        test="<results>/{stage}/{run}/fold_{fold}/test.parquet",
    log:
        "<logs>/predict/{stage}/{run}/fold_{fold}.log",
    benchmark:
        "<benchmarks>/predict/{stage}/{run}/fold_{fold}.tsv"
    conda:
        "../envs/stagepipe.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=by_attempt(16000),
        runtime=by_attempt(4 * 60),
    params:
        part=predict_part,
        job=job("predict"),
    message:
        "Predicting with {wildcards.stage}/{wildcards.run}, fold {wildcards.fold}"
    shell:
        "exec python {params.job} --part {params.part:q} --log {log} --samples {input.samples} --pixels {input.pixels}"
        " --folds {input.folds} --weights {input.weights} --out-of-fold {output.out_of_fold} --test {output.test}"


rule ensemble:
    input:
        tables=stage_tables,
        code=code("ensemble"),
    output:
        table="<results>/{stage}/ensemble/{split}.parquet",
    log:
        "<logs>/ensemble/{stage}/{split}.log",
    benchmark:
        "<benchmarks>/ensemble/{stage}/{split}.tsv"
    conda:
        "../envs/stagepipe.yaml"
    resources:
        mem_mb=by_attempt(4000),
        runtime=by_attempt(60),
    params:
        part=ensemble_part,
        job=job("ensemble"),
    message:
        "Averaging the {wildcards.split} predictions of {wildcards.stage}"
    shell:
        "exec python {params.job} --part {params.part:q} --log {log} --tables {input.tables} --table {output.table}"


rule score:
    input:
        samples=rules.ingest.output.samples,
        pixels=ancient(rules.ingest.output.pixels),
        folds=rules.split_folds.output.folds,
        tables=scored_tables,
        ensemble="<results>/{stage}/ensemble/out_of_fold.parquet",
        code=code("score"),
    output:
        cases="<results>/{stage}/cases.parquet",
        confusion="<results>/{stage}/confusion.parquet",
    log:
        "<logs>/score/{stage}.log",
    benchmark:
        "<benchmarks>/score/{stage}.tsv"
    conda:
        "../envs/stagepipe.yaml"
    resources:
        mem_mb=by_attempt(4000),
        runtime=by_attempt(60),
    params:
        part=score_part,
        job=job("score"),
    message:
        "Scoring {wildcards.stage} out of fold"
    shell:
        "exec python {params.job} --part {params.part:q} --log {log} --samples {input.samples} --pixels {input.pixels}"
        " --folds {input.folds} --tables {input.tables} {input.ensemble} --cases {output.cases}"
        " --confusion {output.confusion}"
