"""The shares of a blend that were searched, and by how much the search flatters itself."""

from stagepipe.report.collect import Collected
from stagepipe.report.markup import Cell, section, table, text


def blend(found: Collected) -> str:
    """The share of every run, chosen on all folds and on all but one."""
    chosen = found.blend["shares"]
    others = {f"all but fold {fold}": shares for fold, shares in found.blend["by_fold"].items()}
    rows: list[list[Cell]] = [
        [run, f"{share:g}", *(f"{shares[run]:g}" for shares in others.values())] for run, share in chosen.items()
    ]
    score, nested, equal, written = (
        float(found.blend[name]) for name in ("score", "nested", "equal_shares_score", "written_shares_score")
    )
    words = (
        f"<p>The search blends the runs in the shares of the first column. They score {text(score)} on the predictions "
        f"they are chosen on, but {text(nested)} when each fold is scored with the shares that the other folds choose. "
        f"<strong>The search flatters itself by {score - nested:.4f}.</strong> Equal shares score {text(equal)}, those "
        f"written in the recipe {text(written)}, each at the threshold or triplet that is best for them. Masks are not "
        "postprocessed yet.</p>"
    )
    return section("blend", "Blend", words, table(["run", "all folds", *others], rows))
