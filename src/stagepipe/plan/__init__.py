"""What a recipe will take before anything runs: jobs, image passes, hours, disk and memory.

    plan(recipe)      # `stagepipe plan RECIPE`

A floor above all jobs: it counts with the functions that they work with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stagepipe.plan.estimate import Estimate
    from stagepipe.plan.figures import Figures
    from stagepipe.plan.images import Images
    from stagepipe.plan.took import Place, Took
    from stagepipe.recipe.model import Recipe


@dataclass(frozen=True)
class Options:
    """What a plan may be told."""

    images: tuple[int, int] | None = None
    """labelled and other images; none: see `images.images_of`"""
    size: tuple[int, int] | None = None
    """height and width of an image"""
    confident: float | None = None
    """share of test images that become pseudolabels where these must be confident; none: that of TGS salt"""
    device: str | None = None
    """name of a stored device; none: this machine"""
    threads: int = 1
    """of a job that trains or predicts on this machine"""
    measure: bool = False
    """measure this machine now"""


@dataclass(frozen=True)
class Plan:
    """A recipe's jobs and what they take."""

    recipe: Recipe
    images: Images
    figures: Figures | None
    """none: nothing is known of the device, so there are no hours"""
    confident: float | None
    """share of test images that it takes for confident; none: that of TGS salt"""
    estimates: list[Estimate]
    took: dict[Place, Took]
    """what a run took so far"""


def plan(
    recipe: Recipe,
    options: Options | None = None,
    folder: Path = Path(),
    note: Callable[[str], object] = lambda _: None,
) -> Plan:
    """Plan a recipe whose results lie, or will, below `folder`; `note` gets a line about each measurement.

    Errors as of `images_of`, `figures.stored` and `measure`.
    """
    from stagepipe.plan import figures
    from stagepipe.plan.estimate import estimates
    from stagepipe.plan.images import images_of
    from stagepipe.plan.jobs import jobs
    from stagepipe.plan.took import took

    options = options or Options()
    images, found = images_of(recipe, options.images, options.size, folder), jobs(recipe)
    if options.device:
        known: Figures | None = figures.stored(options.device)
    else:
        path = figures.kept(recipe.runtime, options.threads)
        known = figures.load(path)
        if options.measure:
            from stagepipe.plan.measure import measure

            known = figures.joined(known, measure(recipe, found, images, options.threads, note))
            figures.save(path, known)
    made = estimates(recipe, found, images, known, options.confident)
    return Plan(recipe, images, known, options.confident, made, took(recipe, found, folder))
