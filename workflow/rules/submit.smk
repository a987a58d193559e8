"""Blend, binarise, postprocess, encode; scores beside them."""

if RECIPE.submission.blend_search:

    rule search_blend:
        input:
            samples=rules.ingest.output.samples,
            pixels=ancient(rules.ingest.output.pixels),
            folds=rules.split_folds.output.folds,
            tables=candidate_tables,
            code=code("search_blend"),
        output:
            shares="<results>/submission/blend.json",
            blends="<results>/submission/blends.parquet",
        log:
            "<logs>/search_blend.log",
        benchmark:
            "<benchmarks>/search_blend.tsv"
        conda:
            "../envs/stagepipe.yaml"
        resources:
            mem_mb=by_attempt(4000),
            runtime=by_attempt(4 * 60),
        params:
            part=search_blend_part,
            job=job("search_blend"),
        message:
            "Searching the shares of the blend on out-of-fold predictions"
        shell:
            "exec python {params.job} --part {params.part:q} --log {log} --samples {input.samples} --pixels {input.pixels}"
            " --folds {input.folds} --tables {input.tables} --shares {output.shares} --blends {output.blends}"


rule blend:
    input:
        unpack(searched_shares),
        tables=blend_tables,
        code=code("ensemble"),
    output:
        table="<results>/submission/{split}.parquet",
    log:
        "<logs>/blend/{split}.log",
    benchmark:
        "<benchmarks>/blend/{split}.tsv"
    conda:
        "../envs/stagepipe.yaml"
    resources:
        mem_mb=by_attempt(4000),
        runtime=by_attempt(60),
    params:
        part=blend_part,
        job=job("ensemble"),
        shares=given("shares"),
    message:
        "Blending the {wildcards.split} predictions"
    shell:
        "exec python {params.job} --part {params.part:q} --log {log} --tables {input.tables} --shares {params.shares}"
        " --table {output.table}"


if RECIPE.submission.emptiness:

    rule blend_emptiness:
        input:
            tables=emptiness_tables,
            code=code("ensemble"),
        output:
            table="<results>/submission/emptiness/{split}.parquet",
        log:
            "<logs>/blend_emptiness/{split}.log",
        benchmark:
            "<benchmarks>/blend_emptiness/{split}.tsv"
        conda:
            "../envs/stagepipe.yaml"
        resources:
            mem_mb=by_attempt(4000),
            runtime=by_attempt(60),
        params:
            part=emptiness_part,
            job=job("ensemble"),
        message:
            "Blending the {wildcards.split} predictions that decide which masks are empty"
        shell:
            "exec python {params.job} --part {params.part:q} --log {log} --tables {input.tables} --table {output.table}"


rule binarise:
    input:
        unpack(mask_sources("out_of_fold")),
        samples=rules.ingest.output.samples,
        pixels=ancient(rules.ingest.output.pixels),
        folds=rules.split_folds.output.folds,
        table="<results>/submission/out_of_fold.parquet",
        code=code("binarise"),
    output:
        threshold="<results>/submission/threshold.json",
        thresholds="<results>/submission/thresholds.parquet",
        cases="<results>/submission/cases.parquet",
        confusion="<results>/submission/confusion.parquet",
    log:
        "<logs>/binarise.log",
    benchmark:
        "<benchmarks>/binarise.tsv"
    conda:
        "../envs/stagepipe.yaml"
    resources:
        mem_mb=by_attempt(4000),
        runtime=by_attempt(60),
    params:
        part=binarise_part,
        job=job("binarise"),
        emptiness=given("emptiness"),
        jigsaw=given("jigsaw"),
    message:
        "Fixing the threshold on out-of-fold predictions"
    shell:
        "exec python {params.job} --part {params.part:q} --log {log} --samples {input.samples} --pixels {input.pixels}"
        " --folds {input.folds} --table {input.table} --emptiness {params.emptiness} --jigsaw {params.jigsaw}"
        " --threshold {output.threshold} --thresholds {output.thresholds} --cases {output.cases}"
        " --confusion {output.confusion}"


rule submit:
    input:
        unpack(mask_sources("test")),
        samples=rules.ingest.output.samples,
        table="<results>/submission/test.parquet",
        threshold=rules.binarise.output.threshold,
        rows=submission_rows,
        code=code("submit"),
    output:
        submission=f"<results>/{SUBMISSION}",
    log:
        "<logs>/submit.log",
    benchmark:
        "<benchmarks>/submit.tsv"
    conda:
        "../envs/stagepipe.yaml"
    resources:
        mem_mb=by_attempt(4000),
        runtime=by_attempt(60),
    params:
        part=submit_part,
        job=job("submit"),
        emptiness=given("emptiness"),
        jigsaw=given("jigsaw"),
    message:
        "Writing {output.submission}"
    shell:
        "exec python {params.job} --part {params.part:q} --log {log} --samples {input.samples} --table {input.table}"
        " --emptiness {params.emptiness} --jigsaw {params.jigsaw}"
        " --threshold {input.threshold} --rows {input.rows} --submission {output.submission}"


rule collect_scores:
    input:
        cases=all_cases,
        confusions=all_confusions,
        code=code("collect_scores"),
    output:
        scores="<results>/scores.csv",
    log:
        "<logs>/collect_scores.log",
    benchmark:
        "<benchmarks>/collect_scores.tsv"
    conda:
        "../envs/stagepipe.yaml"
    resources:
        mem_mb=by_attempt(2000),
        runtime=by_attempt(10),
    params:
        part=collect_part,
        job=job("collect_scores"),
    message:
        "Collecting scores"
    shell:
        "exec python {params.job} --part {params.part:q} --log {log} --cases {input.cases} --confusions {input.confusions}"
        " --scores {output.scores}"
