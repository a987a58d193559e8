"""Raw files -> samples table and pixel store -> folds."""

if RECIPE.dataset.generated:

    rule synthesise:
        input:
            code=code("synthesise"),
        output:
            raw=directory("<results>/raw"),
            manifest="<results>/data/raw.sha256",
        log:
            "<logs>/synthesise.log",
        benchmark:
            "<benchmarks>/synthesise.tsv"
        conda:
            "../envs/stagepipe.yaml"
        resources:
            mem_mb=by_attempt(2000),
            runtime=by_attempt(10),
        params:
            part=synthesise_part,
            job=job("synthesise"),
        message:
            "Writing synthetic raw data"
        shell:
            "exec python {params.job} --part {params.part:q} --log {log} --raw {output.raw} --manifest {output.manifest}"


rule ingest:
    input:
        unpack(raw_files),
        code=code("ingest"),
    output:
        samples="<results>/data/samples.parquet",
        pixels="<results>/data/pixels.bin",
        faults="<results>/data/faults.parquet",
    log:
        "<logs>/ingest.log",
    benchmark:
        "<benchmarks>/ingest.tsv"
    conda:
        "../envs/stagepipe.yaml"
    threads: 2
    resources:
        mem_mb=by_attempt(4000),
        runtime=by_attempt(60),
    params:
        part=ingest_part,
        job=job("ingest"),
        root=raw_root,
    message:
        "Verifying and decoding the raw data"
    shell:
        "exec python {params.job} --part {params.part:q} --log {log} --root {params.root:q}"
        " --samples {output.samples} --pixels {output.pixels} --faults {output.faults}"


rule split_folds:
    input:
        samples=rules.ingest.output.samples,
        faults=rules.ingest.output.faults,
        source=fold_source,
        code=code("split_folds"),
    output:
        folds="<results>/data/folds.parquet",
    log:
        "<logs>/split_folds.log",
    benchmark:
        "<benchmarks>/split_folds.tsv"
    conda:
        "../envs/stagepipe.yaml"
    resources:
        mem_mb=by_attempt(2000),
        runtime=by_attempt(10),
    params:
        part=folds_part,
        job=job("split_folds"),
    message:
        "Splitting folds"
    shell:
        "exec python {params.job} --part {params.part:q} --log {log} --samples {input.samples} --faults {input.faults}"
        " --folds {output.folds}"
