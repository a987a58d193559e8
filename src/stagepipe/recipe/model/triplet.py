"""Two thresholds in place of one, as images whose masks are mostly empty want them."""

from __future__ import annotations

from pydantic import field_validator

from stagepipe.recipe.model.section import Natural, Section, Share, Size


class TripletGrid(Section):
    """A mask is empty if fewer than `area` pixels have p > top, else it is p > bottom (SIIM 2019, 1st place).

    Lists stand for all their combinations.
    """

    top: Share | list[Share] | None = None
    """decides whether there is a mask; none: the bottom threshold decides that too (a doublet)"""
    area: Natural | list[Natural] = 0
    """pixels"""
    bottom: Share | list[Share]
    """decides where the mask is"""
    size: Size | None = None
    """image size that `area` was chosen for: in an image of another size it scales with the number of pixels; none: it
    is the same in all"""

    @field_validator("top", "area", "bottom")
    @classmethod
    def _not_empty(cls, value: object) -> object:
        if value == []:
            raise ValueError("is empty; write at least one number")
        return value
