"""Predict the out-of-fold and test images with all members of one run and fold."""

from stagepipe import compile_cache, script
from stagepipe.devices import claimed
from stagepipe.recipe.parts import PredictPart


def main() -> None:
    inputs = ["samples", "pixels", "folds", "weights"]
    work = script.start(__doc__, PredictPart, inputs, outputs=["out-of-fold", "test"])
    compile_cache.share(work.runtime)
    with script.importing():
        from stagepipe.inference import predict
        from stagepipe.runtime import configure

    phases = dict.fromkeys(member.phase for member in work.part.members)
    with claimed(work.runtime, 1):
        predict(
            work.part,
            work.path("samples"),
            work.path("pixels"),
            work.path("folds"),
            dict(zip(phases, work.paths["weights"], strict=True)),
            {"out_of_fold": work.path("out-of-fold"), "test": work.path("test")},
            configure(work.runtime, work.threads),
            work.provenance,
        )


if __name__ == "__main__":
    main()
    script.end()
