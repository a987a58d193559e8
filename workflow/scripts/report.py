"""Write the page that shows what happened, and its pictures."""

from stagepipe import script
from stagepipe.recipe.parts import ReportPart

INPUTS = [
    "samples", "pixels", "faults", "folds", "histories", "pseudolabels", "cases", "confusions", "scores",
    "threshold", "thresholds", "out-of-fold", "test", "shares", "emptiness", "mosaics", "jigsaw", "jigsaw-effects",
    "submission", "benchmarks",
]  # fmt: skip


def main() -> None:
    work = script.start(__doc__, ReportPart, INPUTS, outputs=["html"])
    from stagepipe import report

    recipe = work.part.recipe
    html = work.path("html")
    # Its own record is that of the report before.
    benchmarks = [path for path in sorted(work.path("benchmarks").rglob("*.tsv")) if path.name != "report.tsv"]
    inputs = report.ReportInputs(
        name=recipe.name,
        recipe=recipe,
        samples=work.path("samples"),
        pixels=work.path("pixels"),
        folds=work.path("folds"),
        faults=work.path("faults"),
        histories=work.paths["histories"],
        cases=work.paths["cases"],
        confusions=work.paths["confusions"],
        scores_csv=work.path("scores"),
        pseudolabels={path.relative_to(html.parent).parent.as_posix(): path for path in work.paths["pseudolabels"]},
        threshold_summary=work.path("threshold"),
        thresholds=work.path("thresholds"),
        blend_out_of_fold=work.path("out-of-fold"),
        blend_test=work.path("test"),
        submission=work.path("submission"),
        benchmarks=benchmarks,
        blend=work.optional("shares"),
        emptiness=work.paths["emptiness"],
        mosaics=work.optional("mosaics"),
        jigsaw=work.optional("jigsaw"),
        jigsaw_effects=work.optional("jigsaw-effects"),
    )
    report.write(inputs, html, html.parent / "report")


if __name__ == "__main__":
    main()
