"""What the jigsaw rules do to the score, and the part of the page about mosaics."""

from dataclasses import dataclass

import pandas as pd

from stagepipe.report.collect import Collected
from stagepipe.report.markup import Cell, details, figure, key, table, text
from stagepipe.report.markup import section as titled
from stagepipe.report.mosaics import LEGEND, Mosaic
from stagepipe.report.style import png
from stagepipe.report.summaries import words

RULES = {
    "vertical_below": "Below a labelled mask whose rows are all equal: its last row, all the way down.",
    "half_vertical_below": "The same below a labelled mask whose lower half has equal rows.",
    "vertical_above": "Above a labelled mask whose rows are all equal, if at least three tiles lie above it: its first "
    "row, for one tile.",
    "empty_below": "Below a labelled mask whose last row is all foreground: an empty mask.",
}
"""What each rule does, in the order of the table."""
FEW = 10
"""labelled tiles below which a mean tells nothing"""
HEAD = [
    "rule",
    "on",
    "labelled tiles",
    "before",
    "after",
    "change of all",
    "helped",
    "hurt",
    "alike",
    "test tiles",
]


@dataclass(frozen=True)
class Effect:
    """What a rule, or several together, do to the masks that they replace."""

    name: str
    on: bool
    labelled: int
    """labelled tiles, replaced out of fold"""
    before: float
    """their mean score as predicted; not a number without tiles"""
    after: float
    change: float
    """of the out-of-fold score over all labelled images"""
    helped: int
    hurt: int
    tests: int

    @property
    def alike(self) -> int:
        """Labelled tiles whose score stays."""
        return self.labelled - self.helped - self.hurt


def effects(found: Collected) -> list[Effect]:
    """Of every rule by itself, switched on or not, in the order of RULES."""
    return [
        _effect(
            found,
            name,
            name in found.rules_on,
            found.effects[found.effects["rule"] == name],
            found.jigsaw[found.jigsaw["rule"] == name],
        )
        for name in RULES
    ]


def together(found: Collected) -> Effect:
    """Of all rules that are switched on; where two have something to say of a tile, one is applied."""
    applied = found.effects[found.effects["applied"]]
    return _effect(found, "all that are on", bool(found.rules_on), applied, found.replacements)


def _effect(found: Collected, name: str, on: bool, rows: pd.DataFrame, masks: pd.DataFrame) -> Effect:
    # Images that always train have no out-of-fold prediction and are in no mean.
    everything = int((found.samples["fold"] >= 0).sum())
    gain = rows["after"] - rows["before"]
    return Effect(
        name=name,
        on=on,
        labelled=len(rows),
        before=float(rows["before"].mean()),
        after=float(rows["after"].mean()),
        change=float(gain.sum()) / max(everything, 1),
        helped=int((gain > 0).sum()),
        hurt=int((gain < 0).sum()),
        tests=int((masks["split"] == "test").sum()),
    )


# ------------------------------------------------------------------------------------------------------------- the page


def section(found: Collected, shown: list[Mosaic]) -> str:
    """How many mosaics there are, what each rule does, whether it pays off, and the largest mosaics."""
    parts = [_counts(found.mosaics, found), _verdict(found), _table(found), _notes(found)]
    parts.append(details("What each rule puts where", table(["rule", "mask"], RULES.items(), texts=2, wide=(1,))))
    if shown:
        changed = ", among them the largest that a rule changed" if any(mosaic.replaced for mosaic in shown) else ""
        largest = f"<h3>Pictures</h3><p>The largest mosaics{changed}. White cells hold no tile.</p>"
        parts += [largest, key(LEGEND.items()), *map(_picture, shown)]
    return titled("mosaics", "Mosaics", *parts)


def _counts(tiles: pd.DataFrame, found: Collected) -> str:
    source = found.jigsaw_step and found.jigsaw_step.file
    how = f"read from <code>{text(source)}</code>" if source else "found from the borders of the tiles"
    mosaics, labelled = tiles["mosaic"].nunique(), int(tiles["labelled"].sum())
    if not mosaics:
        return f"<p>No mosaic was {how}, so the rules have nothing to go by.</p>"
    return (
        f"<p>{_many(len(tiles), 'tile')} of {len(found.samples):,} lie in {_many(mosaics, 'mosaic')}, {how}: "
        f"{labelled:,} labelled and {len(tiles) - labelled:,} test tiles. Rules put masks that follow from labelled "
        "neighbours in the place of predictions. Out of fold a labelled tile gets only masks that follow from labels "
        "of other folds, so its score tells what to expect on test tiles.</p>"
    )


def _verdict(found: Collected) -> str:
    """In words, whether the rules that are switched on pay off out of fold."""
    effect = together(found)
    if not effect.on:
        return "<p>No rule is switched on: all masks stay as predicted.</p>"
    if not effect.labelled:
        return (
            "<p><strong>Out of fold the rules touch no labelled tile</strong>, so nothing here tells whether they "
            f"pay off. They replace the masks of {_many(effect.tests, 'test tile')}.</p>"
        )
    verdict = "pay off" if effect.change > 0 else "cost score" if effect.change < 0 else "change nothing"
    doubt = f", though {_many(effect.labelled, 'tile')} can mislead" if effect.labelled < FEW else ""
    return (
        f"<p><strong>Out of fold the rules {verdict}</strong>{doubt}: the mean score of "
        f"{_many(effect.labelled, 'labelled tile')} goes from {text(effect.before)} to {text(effect.after)}, that of "
        f"all labelled images changes by {effect.change:+.5f}. In the submission they replace the masks of "
        f"{_many(effect.tests, 'test tile')}.</p>"
    )


def _table(found: Collected) -> str:
    listed = [*effects(found), together(found)]
    marks = ["quiet" if effect.on and effect.after < effect.before else "" for effect in listed[:-1]]
    return table(HEAD, map(_row, listed), texts=2, marks=[*marks, "strong"]) + (
        f"<p>Score: {words(found.metric)} of the labelled tiles that a rule touches, out of fold; change of all: of "
        "the mean over all labelled images.</p>"
    )


def _row(effect: Effect) -> list[Cell]:
    switched = "yes" if effect.on else "no"
    change = f"{effect.change:+.5f}" if effect.labelled else None
    counts = [effect.helped, effect.hurt, effect.alike] if effect.labelled else [None] * 3
    return [effect.name, switched, effect.labelled, effect.before, effect.after, change, *counts, effect.tests]


def _notes(found: Collected) -> str:
    """A warning for every rule that is switched on without a good reason."""
    warnings = [warning for effect in effects(found) if effect.on and (warning := _warning(effect))]
    return f'<div class="note">{"".join(f"<p>{warning}</p>" for warning in warnings)}</div>' if warnings else ""


def _warning(effect: Effect) -> str:
    name, tests = f"<code>{effect.name}</code>", _many(effect.tests, "test tile")
    if effect.labelled and effect.after < effect.before:
        few = " (few tiles)" if effect.labelled < FEW else ""
        return (
            f"{name} lowers the score of its labelled tiles{few} from {text(effect.before)} to {text(effect.after)} "
            f"and is switched on. It touches {tests}; <code>{effect.name}: false</code> leaves them as predicted."
        )
    if not effect.labelled and effect.tests:
        return f"{name} touches {tests} and no labelled tile: nothing here tells whether it pays off."
    if effect.labelled < FEW and effect.labelled:
        return f"{name} is judged by {_many(effect.labelled, 'labelled tile')} only: too few to rely on."
    return ""


def _picture(mosaic: Mosaic) -> str:
    from PIL import Image

    picture = figure(png(Image.fromarray(mosaic.picture)), mosaic.title, text(mosaic.title))
    return f'<div class="mosaic">{picture}</div>'


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"
