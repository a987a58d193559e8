"""Fix the threshold on pooled out-of-fold predictions and score the blend with it."""

from stagepipe import script
from stagepipe.recipe.submission_parts import BinarisePart


def main() -> None:
    inputs = ["samples", "pixels", "folds", "table", "emptiness", "jigsaw"]
    work = script.start(__doc__, BinarisePart, inputs, outputs=["threshold", "thresholds", "cases", "confusion"])
    from stagepipe.masks import Sources, fix_threshold

    sources = Sources(work.path("samples"), work.path("table"), work.optional("emptiness"), work.optional("jigsaw"))
    outputs = [work.path(name) for name in ("threshold", "thresholds", "cases", "confusion")]
    fix_threshold(work.part, sources, work.path("pixels"), work.path("folds"), *outputs, work.provenance)


if __name__ == "__main__":
    main()
