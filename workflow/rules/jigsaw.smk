"""Mosaics of tiles, the masks that follow from labelled neighbours in them, and what these do out of fold."""

if JIGSAW:

    rule find_mosaics:
        input:
            samples=rules.ingest.output.samples,
            pixels=ancient(rules.ingest.output.pixels),
            files=mosaic_files,
            code=code("find_mosaics"),
        output:
            mosaics="<results>/data/mosaics.parquet",
        log:
            "<logs>/find_mosaics.log",
        benchmark:
            "<benchmarks>/find_mosaics.tsv"
        conda:
            "../envs/stagepipe.yaml"
        threads: 2
        resources:
            mem_mb=by_attempt(4000),
            runtime=by_attempt(60),
        params:
            part=mosaics_part,
            job=job("find_mosaics"),
        message:
            "Assembling mosaics of tiles"
        shell:
            "exec python {params.job} --part {params.part:q} --log {log} --samples {input.samples} --pixels {input.pixels}"
            " --mosaics {output.mosaics}"

    rule apply_jigsaw:
        input:
            samples=rules.ingest.output.samples,
            pixels=ancient(rules.ingest.output.pixels),
            folds=rules.split_folds.output.folds,
            mosaics=rules.find_mosaics.output.mosaics,
            code=code("apply_jigsaw"),
        output:
            jigsaw="<results>/submission/jigsaw.parquet",
        log:
            "<logs>/apply_jigsaw.log",
        benchmark:
            "<benchmarks>/apply_jigsaw.tsv"
        conda:
            "../envs/stagepipe.yaml"
        resources:
            mem_mb=by_attempt(4000),
            runtime=by_attempt(60),
        params:
            part=jigsaw_part,
            job=job("apply_jigsaw"),
        message:
            "Listing the masks that follow from labelled neighbours"
        shell:
            "exec python {params.job} --part {params.part:q} --log {log} --samples {input.samples} --pixels {input.pixels}"
            " --folds {input.folds} --mosaics {input.mosaics} --jigsaw {output.jigsaw}"

    rule score_jigsaw:
        input:
            unpack(mask_sources("out_of_fold")),
            samples=rules.ingest.output.samples,
            pixels=ancient(rules.ingest.output.pixels),
            folds=rules.split_folds.output.folds,
            table="<results>/submission/out_of_fold.parquet",
            threshold="<results>/submission/threshold.json",
            code=code("score_jigsaw"),
        output:
            effects="<results>/submission/jigsaw_effects.parquet",
        log:
            "<logs>/score_jigsaw.log",
        benchmark:
            "<benchmarks>/score_jigsaw.tsv"
        conda:
            "../envs/stagepipe.yaml"
        resources:
            mem_mb=by_attempt(4000),
            runtime=by_attempt(60),
        params:
            part=binarise_part,
            job=job("score_jigsaw"),
            emptiness=given("emptiness"),
        message:
            "Scoring the masks that follow from labelled neighbours"
        shell:
            "exec python {params.job} --part {params.part:q} --log {log} --samples {input.samples} --pixels {input.pixels}"
            " --folds {input.folds} --table {input.table} --emptiness {params.emptiness} --jigsaw {input.jigsaw}"
            " --threshold {input.threshold} --effects {output.effects}"
