"""One job per stage, run, phase and fold."""


rule train:
    input:
        unpack(training_data),
        samples=rules.ingest.output.samples,
        pixels=ancient(rules.ingest.output.pixels),
        folds=rules.split_folds.output.folds,
        code=code("train"),
    output:
        weights="<results>/{stage}/{run}/{phase}/fold_{fold}/weights.safetensors",
        history="<results>/{stage}/{run}/{phase}/fold_{fold}/history.parquet",
    log:
        "<logs>/train/{stage}/{run}/{phase}/fold_{fold}.log",
    benchmark:
        "<benchmarks>/train/{stage}/{run}/{phase}/fold_{fold}.tsv"
    conda:
        "../envs/stagepipe.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=by_attempt(16000),
        runtime=24 * 60,
        # SLURM warns a training five minutes before its time is over: it saves its state and is queued again.
        slurm_extra="--signal=USR1@300",
    params:
        part=train_part,
        job=job("train"),
        pseudolabels=given("pseudolabels"),
        origin=given("origin"),
    message:
        "Training {wildcards.stage}/{wildcards.run}, phase {wildcards.phase}, fold {wildcards.fold}"
    shell:
        "exec python {params.job} --part {params.part:q} --log {log} --samples {input.samples} --pixels {input.pixels}"
        " --folds {input.folds} --pseudolabels {params.pseudolabels} --origin {params.origin}"
        " --weights {output.weights} --history {output.history}"
