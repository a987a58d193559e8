"""Where everything came from: recipe, seeds, versions, fingerprints."""

from collections.abc import Iterable
from html import escape
from pathlib import Path

import yaml

from stagepipe import artefacts
from stagepipe.recipe.model import Recipe
from stagepipe.report.collect import Collected
from stagepipe.report.inputs import ReportInputs
from stagepipe.report.markup import Cell, details, section, table

SHORT = 12
"""digits of a fingerprint that are shown"""


def provenance(inputs: ReportInputs, found: Collected) -> str:
    """The recipe's text, library versions, seeds, and the fingerprints of every artefact."""
    described = {path: artefacts.metadata(path) for path in _artefacts(inputs)}
    rows: list[list[Cell]] = [
        [name, str(entry["seed"]), *(entry[part][:SHORT] for part in ("part", "code")), artefacts.verify(path)[:SHORT]]
        for (path, entry), name in zip(described.items(), _short_names(described), strict=True)
    ]
    head = ["artefact", "seed", "recipe part", "code", "checksum"]
    versions = sorted({(name, version) for entry in described.values() for name, version in entry["versions"].items()})
    mixed = len(versions) > len({name for name, _ in versions})
    note = "<p>Some libraries stand there twice: artefacts were made by different versions.</p>" if mixed else ""
    return section(
        "provenance",
        "Provenance",
        f"<p>Seed {found.recipe.seed}, folds seed {found.recipe.folds.seed}. Every artefact carries the fingerprint of "
        "the part of the recipe and of the code that made it, the checksums of its inputs and its own.</p>",
        details("The recipe, defaults written out", f"<pre>{escape(_written_out(inputs.recipe))}</pre>"),
        details("Library versions", table(["library", "version"], versions, texts=2) + note),
        details(f"Fingerprints of {len(rows)} artefacts", table(head, rows, texts=5)),
    )


def _artefacts(inputs: ReportInputs) -> list[Path]:
    fixed = [inputs.samples, inputs.folds, inputs.faults, inputs.blend_out_of_fold, inputs.blend_test]
    optional = [path for path in (inputs.mosaics, inputs.jigsaw, inputs.jigsaw_effects) if path is not None]
    return [*fixed, *inputs.pseudolabels.values(), *inputs.histories, *inputs.cases, inputs.thresholds, *optional]


def _written_out(recipe: Recipe) -> str:
    """The recipe as YAML with its defaults, without the runtime, which is no part of the result."""
    plain = recipe.model_dump(mode="json", exclude_none=True, exclude={"runtime"})
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100))


def _short_names(paths: Iterable[Path]) -> list[str]:
    """Paths below the folder that all have in common."""
    parts = [path.parts for path in paths]
    common = 0
    while all(len(part) > common + 1 and part[common] == parts[0][common] for part in parts):
        common += 1
    return ["/".join(part[common:]) for part in parts]
