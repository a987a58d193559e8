"""The shares of a blend that were searched, and by how much the search flatters itself."""

from stagepipe.report.collect import Collected
from stagepipe.report.markup import Cell, section, table, text


def blend(found: Collected) -> str:
    """The shares of every run, chosen on all folds and on all but one."""
    shares = {"all folds": found.blend["shares"]}
    shares |= {f"all but fold {fold}": others for fold, others in sorted(found.blend["by_fold"].items())}
    rows: list[list[Cell]] = [[name, *(f"{share:g}" for share in chosen.values())] for name, chosen in shares.items()]
    score, nested, equal, written = (
        float(found.blend[name]) for name in ("score", "nested", "equal_shares_score", "written_shares_score")
    )
    words = (
        f"<p>The search blends the runs in the shares of the first row. They score {text(score)} on the predictions "
        f"they are chosen on, but {text(nested)} when each fold is scored with the shares that the other folds choose. "
        f"<strong>The search flatters itself by {score - nested:.4f}.</strong> Equal shares score {text(equal)}, those "
        f"written in the recipe {text(written)}, each at the threshold or triplet that is best for them. Masks are not "
        "postprocessed yet.</p>"
    )
    marks = ["strong", *[""] * (len(rows) - 1)]
    return section("blend", "Blend", words, table(["chosen on", *found.blend["shares"]], rows, marks=marks))
