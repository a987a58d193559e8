"""The part of the page that shows cases as strips of image, truth and prediction."""

from html import escape

from stagepipe.report.collect import Collected
from stagepipe.report.markup import image, key, section
from stagepipe.report.overlays import AGREED, MISSED, WRONG, Case
from stagepipe.report.style import png
from stagepipe.report.summaries import in_words, words
from stagepipe.report.triptychs import class_colours, painted_colours, shown_classes

KINDS = {
    "worst": ("Worst", "Lowest score out of fold; among equals the largest masks come first."),
    "best": ("Best", "Highest score out of fold among images with foreground."),
    "random": ("Random", "Drawn without looking at the score: what an ordinary case looks like."),
    "test": ("Test", "Unlabelled images with the prediction of the blend."),
}
KINDS_OF_SEVERAL = KINDS | {
    "worst": ("Worst", "Lowest score out of fold, and the class of the truth that has the lowest IoU in the image."),
    "best": ("Best", "Highest score out of fold."),
}


def cases(found: Collected, shown: list[Case]) -> str:
    """Strips of images, truths and predictions."""
    if not shown:
        return section("cases", "Cases", "<p>There are no out-of-fold predictions to show.</p>")
    after = ", after postprocessing" if found.recipe.submission.postprocess else ""
    if found.single:
        legend = key(
            [
                ("foreground, found where compared", AGREED),
                ("predicted, not there", WRONG),
                ("there, not predicted", MISSED),
            ]
        )
        how = f"Predictions are the submission&rsquo;s blend {escape(_cut(found))}{after}."
    else:
        legend = _class_key(found)
        how = f"Predictions are the likeliest class of the submission&rsquo;s blend{after}."
    parts = [
        f"<p>From left to right: the image, the truth, the prediction. Bold: {words(found.metric)}. {how}</p>",
        legend,
    ]
    for kind, (title, meaning) in (KINDS if found.single else KINDS_OF_SEVERAL).items():
        chosen = [case for case in shown if case.kind == kind]
        style = "cases wide" if not found.single else "cases pairs" if kind == "test" else "cases"
        if chosen:
            strips = "".join(_strip(found, case) for case in chosen)
            parts.append(f'<h3>{title}</h3><p>{meaning}</p><div class="{style}">{strips}</div>')
    return section("cases", "Cases", *parts)


def _class_key(found: Collected) -> str:
    dataset = found.recipe.dataset
    shown, colours = shown_classes(dataset), zip(found.classes, class_colours(dataset), strict=True)
    named = [(name, colour) for name, colour in colours if name in shown]
    return key(named, striped="" if dataset.ignore_index is None else "not counted")


def _cut(found: Collected) -> str:
    return in_words(found.triplet) if found.triplet else f"above the threshold {found.chosen_threshold:g}"


def _strip(found: Collected, case: Case) -> str:
    from PIL import Image

    reserved = [] if found.single else painted_colours(found.recipe.dataset)
    picture = image(
        png(Image.fromarray(case.strip), reserved), f"{case.kind} case {case.sample_id}: image, masks side by side"
    )
    score = "" if case.score is None else f" &middot; <strong>{case.score:.2f}</strong>"
    if case.worst_class:
        score += f" &middot; worst {escape(case.worst_class[0])} {case.worst_class[1]:.2f}"
    truth = "" if case.coverage is None else f" &middot; foreground {_share(case.coverage)}"
    size = f"{truth} &middot; predicted {_share(case.predicted)}" if found.single else ""
    return f"<figure>{picture}<figcaption><code>{escape(case.sample_id)}</code>{score}{size}</figcaption></figure>"


def _share(value: float) -> str:
    """A share in per cent; small ones keep two digits, as a small mask is not an empty one."""
    return f"{value:.0%}" if value == 0 or value >= 0.01 else f"{value:.2%}"
