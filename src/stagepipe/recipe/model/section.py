"""What every part of a recipe is made of: strict numbers, names, sections and choices."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator


def _both_edges(value: Any) -> Any:
    """A square's edge as height and width."""
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise ValueError(f"has {len(value)} items; write one for a square, or [height, width]")
        return tuple(value)
    return (value, value)


MAX_PIXELS = 100_000_000
"""of an image: a larger one is refused before memory is taken for it"""


def _fits(size: tuple[int, int]) -> tuple[int, int]:
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"is {size[0]} x {size[1]} pixels; write at most {MAX_PIXELS:,}")
    return size


# Strict: `true` is no number, and neither is a number in quotes.
Integer = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=1)]
Natural = Annotated[int, Field(strict=True, ge=0)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Inside = Annotated[float, Field(strict=True, gt=0, lt=1)]
Positive = Annotated[float, Field(strict=True, gt=0)]
NotNegative = Annotated[float, Field(strict=True, ge=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=64)]
EDGE = {"type": "integer", "minimum": 1}
Size = Annotated[
    tuple[Count, Count],
    BeforeValidator(_both_edges),
    AfterValidator(_fits),
    WithJsonSchema(
        {
            "anyOf": [EDGE, {"type": "array", "items": EDGE, "minItems": 2, "maxItems": 2}],
            "description": "pixels: one number for a square, or [height, width]",
        }
    ),
]


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class OneOf(Section):
    """Exactly one of the fields is set: `cosine` and `{cosine: {floor: 0.1}}` both name a choice."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {value: {}} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _exactly_one(self) -> OneOf:
        chosen = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(chosen) != 1:
            raise ValueError(f"has {len(chosen)} choices; write exactly one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def choice(self) -> str:
        """Name of the field that is set."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)
