"""Pieces of the page: escaped text, tables, figures."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import isnan


@dataclass(frozen=True)
class Swatch:
    """A name with its colour before it."""

    name: str
    colour: tuple[int, int, int]


Cell = str | int | float | Swatch | None


def text(value: Cell, digits: int = 4) -> str:
    """A cell as HTML; a missing number is a dash."""
    if value is None or (isinstance(value, float) and isnan(value)):
        return "&ndash;"
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, Swatch):
        return f'<i class="swatch" style="background:rgb{value.colour}"></i>{escape(value.name)}'
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    texts: int = 1,
    digits: int = 4,
    marks: Sequence[str] = (),
    wide: Sequence[int] = (),
) -> str:
    """A table whose first `texts` columns are text; `marks` style rows (`strong`, `quiet`), `wide` columns wrap."""

    def cell(tag: str, place: int, content: str) -> str:
        kinds = [*(["text"] if place < texts else []), *(["wide"] if place in wide else [])]
        style = f' class="{" ".join(kinds)}"' if kinds else ""
        return f"<{tag}{style}>{content}</{tag}>"

    lines = []
    for number, row in enumerate(rows):
        mark = f' class="{marks[number]}"' if marks and marks[number] else ""
        lines.append(
            f"<tr{mark}>{''.join(cell('td', place, text(value, digits)) for place, value in enumerate(row))}</tr>"
        )
    top = "".join(cell("th", place, escape(name)) for place, name in enumerate(head))
    return f'<div class="table"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def image(png: bytes, alt: str) -> str:
    """A PNG inside the page, with its size so that nothing moves while it loads."""
    width, height = (int.from_bytes(png[start : start + 4]) for start in (16, 20))
    source = b64encode(png).decode()
    return f'<img src="data:image/png;base64,{source}" width="{width}" height="{height}" alt="{escape(alt)}">'


def figure(png: bytes, alt: str, caption: str) -> str:
    """A picture on a plate, its caption (HTML) below."""
    return f'<figure><div class="plate">{image(png, alt)}</div><figcaption>{caption}</figcaption></figure>'


def key(entries: Iterable[tuple[str, tuple[int, int, int]]], striped: str = "") -> str:
    """What the colours mean, and the stripes."""
    items = [f"<li>{text(Swatch(name, colour))}</li>" for name, colour in entries]
    items += [f'<li><i class="swatch stripes"></i>{escape(striped)}</li>'] if striped else []
    return f'<ul class="key">{"".join(items)}</ul>'


def details(title: str, content: str) -> str:
    """A part that opens on a click."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def section(anchor: str, title: str, *content: str) -> str:
    """A titled part of the page."""
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>{"".join(content)}</section>'
