"""Confident predictions of one stage become training masks of a later one, for all of it or for one of its runs."""


rule select_pseudolabels:
    input:
        samples=rules.ingest.output.samples,
        tables=source_tables,
        code=code("select_pseudolabels"),
    output:
        pseudolabels="<results>/{owner}/pseudolabels.parquet",
    log:
        "<logs>/select_pseudolabels/{owner}.log",
    benchmark:
        "<benchmarks>/select_pseudolabels/{owner}.tsv"
    conda:
        "../envs/stagepipe.yaml"
    resources:
        mem_mb=by_attempt(4000),
        runtime=by_attempt(60),
    params:
        part=pseudolabels_part,
        job=job("select_pseudolabels"),
    message:
        "Selecting pseudolabels for {wildcards.owner}"
    shell:
        "exec python {params.job} --part {params.part:q} --log {log} --samples {input.samples}"
        " --tables {input.tables} --pseudolabels {output.pseudolabels}"
