"""Fix the threshold on pooled out-of-fold predictions and score the blend with it."""

from stagepipe import script
from stagepipe.recipe.parts import BinarisePart


def main() -> None:
    inputs = ["samples", "pixels", "folds", "table"]
    work = script.start(__doc__, BinarisePart, inputs, outputs=["threshold", "thresholds", "cases"])
    from stagepipe.masks import fix_threshold

    sources = [work.path(name) for name in inputs]
    outputs = [work.path(name) for name in ("threshold", "thresholds", "cases")]
    fix_threshold(work.part, *sources, *outputs, work.provenance)


if __name__ == "__main__":
    main()
