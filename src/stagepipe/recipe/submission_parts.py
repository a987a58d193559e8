"""The parts of a recipe that reach the jobs after the last stage: shares, threshold, postprocessing, encoding."""

from __future__ import annotations

from stagepipe.recipe.averages import blend_weights
from stagepipe.recipe.model import Jigsaw, Postprocess, Recipe, Submission, Threshold
from stagepipe.recipe.part import Part

ANY_BLEND = {"any": 1.0}
"""In the place of a blend whose averages are another job's."""


class MosaicsPart(Part):
    """For the job that finds or reads the mosaics of tiles."""

    jigsaw: Jigsaw


class JigsawPart(Part):
    """For the job that lists the masks that follow from labelled neighbours."""

    jigsaw: Jigsaw


class SearchBlendPart(Part):
    """For the job that searches the shares of a blend."""

    runs: dict[str, float]
    """every `stage/run` of the blend, in the order of the inputs, with the share that is written in the recipe"""
    step: float
    submission: Submission


class BinarisePart(Part):
    """For the job that fixes the threshold."""

    submission: Submission
    classes: list[str]
    evaluated: list[str] = []
    """classes that scores are the mean of (see `scored_classes`)"""
    ignore_index: int | None = None


class SubmitPart(Part):
    """For the job that writes the submission."""

    submission: Submission
    classes: list[str]
    evaluated: list[str] = []
    """classes that a `street` submission holds; none: all"""


def search_blend_part(recipe: Recipe) -> SearchBlendPart:
    """The runs of the blend and the rule that their average is scored by."""
    search = recipe.submission.blend_search
    assert search is not None
    shares = blend_weights(recipe, recipe.submission.blend)
    rule = Submission(blend=ANY_BLEND, threshold=recipe.submission.threshold, triplets=list(recipe.submission.triplets))
    return SearchBlendPart(
        runs={f"{stage}/{run}": share for (stage, run), share in shares.items()}, step=search.step, submission=rule
    )


def binarise_part(recipe: Recipe) -> BinarisePart:
    """The threshold, its postprocessing and nothing of how rows are encoded."""
    unused = {"encode": "tgs", "size": None, "rows": None}
    submission = _without_blends(recipe.submission).model_copy(update=unused)
    return BinarisePart(
        submission=submission,
        classes=recipe.dataset.classes,
        evaluated=recipe.dataset.evaluated,
        ignore_index=recipe.dataset.ignore_index,
    )


def jigsaw(recipe: Recipe) -> Jigsaw | None:
    """The jigsaw step of the submission's postprocessing, if there is one."""
    return next((step.jigsaw for step in recipe.submission.postprocess if step.jigsaw), None)


def mosaics_part(recipe: Recipe) -> MosaicsPart:
    """Where the mosaics come from; the rules are another job's."""
    step = jigsaw(recipe)
    assert step is not None
    return MosaicsPart(jigsaw=Jigsaw(file=step.file))


def jigsaw_part(recipe: Recipe) -> JigsawPart:
    """The rules; where the mosaics come from is another job's."""
    step = jigsaw(recipe)
    assert step is not None
    return JigsawPart(jigsaw=step.model_copy(update={"file": None}))


def submit_part(recipe: Recipe) -> SubmitPart:
    """Postprocessing and encoding; the threshold comes from its own job."""
    unused = {"threshold": Threshold(), "triplets": []}
    submission = _without_blends(recipe.submission).model_copy(update=unused)
    return SubmitPart(submission=submission, classes=recipe.dataset.classes, evaluated=recipe.dataset.evaluated)


def _without_blends(submission: Submission) -> Submission:
    """A submission without what other jobs do: averages, and the masks that a jigsaw gives."""
    emptiness = submission.emptiness and submission.emptiness.model_copy(update={"blend": ANY_BLEND})
    steps = [Postprocess(jigsaw=Jigsaw()) if step.jigsaw else step for step in submission.postprocess]
    averages = {"blend": ANY_BLEND, "blend_search": None, "mean": "arithmetic"}
    return submission.model_copy(update=averages | {"emptiness": emptiness, "postprocess": steps})
