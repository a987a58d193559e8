"""What can be known of a recipe's data and networks before any work: every fault at once, nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stagepipe.csvfiles import listed, read_strings, repeated
from stagepipe.errors import DataError, RecipeError, StagepipeError
from stagepipe.recipe.model import Folds, Jigsaw, LossTerm, Phase, Recipe, Submission, WeightsFile
from stagepipe.recipe.submission_parts import jigsaw

if TYPE_CHECKING:
    from stagepipe.data.raw import RawSample
    from stagepipe.networks import Geometry, SegmentationNetwork

Size = tuple[int, int]


@dataclass
class Examined:
    """What an examination came to, one line each."""

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def noting(self, where: str = "") -> Iterator[None]:
        """Note the fault that the block ends with; `where` is the key that its message is about."""
        try:
            yield
        except StagepipeError as error:
            self.faults += [_placed(line, where) for line in str(error).splitlines()]


def _placed(message: str, where: str) -> str:
    """A message about `network...` or a key of it, as one about the recipe's key `where`."""
    if not where:
        return message
    return where + message.removeprefix("network") if message.startswith("network") else f"{where}.{message}"


def examine(recipe: Recipe) -> Examined:
    """Verify every raw file, the files that a recipe names, and that its networks, losses and augmentations work."""
    found = Examined()
    sizes = _examine_data(recipe, found)
    with found.noting("submission.postprocess"):
        _examine_mosaics(jigsaw(recipe))
    _examine_networks(recipe, sizes, found)
    for where, _, phase in _phases(recipe):
        _examine_phase(recipe, phase, where, found)
    return found


# ----------------------------------------------------------------------------------------------------------------- data


def _examine_data(recipe: Recipe, found: Examined) -> set[Size]:
    """Note the faults of the raw data and of the tables that belong to it; return the distinct (height, width)."""
    from stagepipe.data import ingest
    from stagepipe.data.formats import scan

    dataset = recipe.dataset
    if dataset.root is None:
        found.notes.append("dataset: synthetic, made by the workflow")
        size = getattr(dataset, dataset.format).size
        return {size if isinstance(size, tuple) else (size, size)}
    root = Path(dataset.root)
    with found.noting():
        samples = scan(dataset, root).samples
        faults = ingest.check(dataset, root)
        lines = [f"{root / fault.path}: {fault.fault}: {fault.detail}" for fault in faults]
        # Quarantine goes on without these samples, as the recipe wants it.
        (found.notes if dataset.faults == "quarantine" else found.faults).extend(lines)
        faulty = {fault.sample_id for fault in faults}
        sound = [sample for sample in samples if sample.sample_id not in faulty]
        found.notes.append(f"dataset: {len(sound)} sound samples, {len(faults)} faults")
        with found.noting():
            _examine_folds(recipe.folds, sound, faulty)
        with found.noting():
            _examine_rows(recipe.submission, sound)
        return _image_sizes(sound)
    return set()


def _examine_folds(rule: Folds, samples: list[RawSample], faulty: set[str]) -> None:
    """RecipeError or DataError if the folds need a column that isn't there, or their file doesn't fit the samples."""
    import pyarrow as pa

    from stagepipe.folds import split
    from stagepipe.tables import SAMPLES

    columns = {name for sample in samples for name in sample.metadata}
    known = sorted({*SAMPLES.names, *columns})
    for option, names in (
        ("stratify", rule.stratify),
        ("group", [rule.group]),
        ("deal", [rule.deal]),
        ("always_train", [rule.always_train]),
    ):
        for name in names:
            if name is not None and name not in known:
                raise RecipeError(
                    f"folds.{option}: the samples table will have no column {name!r}; write one of {', '.join(known)}"
                )
    if rule.file:
        rows: list[dict[str, object]] = [
            {"sample_id": sample.sample_id, "split": sample.split}
            | {name: sample.metadata.get(name) for name in columns}
            for sample in samples
        ]
        split(pa.Table.from_pylist(rows), rule, faulty)


def _examine_rows(rule: Submission, samples: list[RawSample]) -> None:
    """DataError if the sample submission has other ids than the test images, or one twice.

    That of siim lists an image once per annotated instance (SIIM-ACR 2019, stage 1): its ids may repeat.
    """
    if rule.rows is None:
        return
    try:
        ids = read_strings(rule.rows).column(0).to_pylist()
    except DataError as error:
        raise DataError(f"submission.rows: {error}") from error
    test = {sample.sample_id for sample in samples if sample.split == "test"}
    faults = {
        "ids that are no test image": sorted(set(ids) - test),
        "test images without a row": sorted(test - set(ids)),
        "ids with several rows": [] if rule.encode == "siim" else repeated(ids),
    }
    lines = [f"submission.rows: {rule.rows}: {fault}: {listed(names)}" for fault, names in faults.items() if names]
    if lines:
        raise DataError("\n".join(lines))


def _examine_mosaics(step: Jigsaw | None) -> None:
    """DataError for a file of mosaics that can't be read."""
    from stagepipe.postprocess.jigsaw import layouts

    if step and step.file:
        layouts.read(Path(step.file))


def _image_sizes(samples: list[RawSample]) -> set[Size]:
    """Distinct (height, width) of the images, from their headers."""
    from stagepipe.data.decode import image_size

    return {image_size(sample.image) for sample in samples}


# ------------------------------------------------------------------------------------------------------------- networks


def _phases(recipe: Recipe) -> Iterator[tuple[str, str, Phase]]:
    """Key, network and phase of every phase."""
    for stage in recipe.stages:
        for name, run in stage.runs.items():
            for phase in run.phases:
                yield f"stages.{stage.name}.runs.{name}.phases.{phase.name}", run.network, phase


def _examine_networks(recipe: Recipe, sizes: set[Size], found: Examined) -> None:
    """Note names, arguments and weights that don't work, and input sizes that a network can't take."""
    from stagepipe.networks import Geometry

    for name, network in recipe.networks.items():
        uses: dict[Geometry, str] = {}
        for where, user, phase in _phases(recipe):
            if user == name:
                resize, pad = phase.resize or network.resize, phase.pad or network.pad
                owner = where if phase.resize or phase.pad else f"networks.{name}"
                uses.setdefault(Geometry(resize, pad, recipe.dataset.outputs == 1), owner)
        if not uses:  # no fault: an overlay may take the last run away
            found.notes.append(f"networks.{name}: no run uses it")
        _examine_network(recipe, name, uses, sizes, found)


def _examine_network(recipe: Recipe, name: str, uses: dict[Geometry, str], sizes: set[Size], found: Examined) -> None:
    """Note what keeps a network from being built, and the geometries in which it can't take an image."""
    from stagepipe.networks import build
    from stagepipe.networks.weights import local_file
    from stagepipe.recipe.parts import stored_channels

    network = recipe.networks[name]
    # Weights that lie here are loaded: their checksum and their names must be right. Others would have to be fetched.
    wanted = network.weights and network.encoder
    here = isinstance(network.weights, WeightsFile) or (wanted and local_file(wanted))
    if wanted and not here:
        found.notes.append(f"networks.{name}.weights: {network.weights}, which the first training downloads")
    built: SegmentationNetwork | None = None
    with found.noting(f"networks.{name}"):
        bare = network.model_copy(update={"resize": None, "pad": None})
        built = build(bare, recipe.dataset.outputs, stored_channels(recipe), pretrained=bool(here))
    if built is None:
        return
    for geometry, where in uses.items():
        built.whole = geometry
        with found.noting(where):
            for size in sorted(sizes):
                built.check_size(*size)
    for where, user, phase in _phases(recipe):
        if user == name:
            _examine_use(built, phase, where, found)
    for stage in recipe.stages:
        for where, run in stage.runs.items():
            parts = run.predict.windows or run.predict.voting
            if run.network == name and parts:
                with found.noting(f"stages.{stage.name}.runs.{where}"):
                    built.check_window(parts.size, f"predict.{run.predict.choice}")


def _examine_use(network: SegmentationNetwork, phase: Phase, where: str, found: Examined) -> None:
    """Note what a phase wants of its network that the network hasn't got."""
    with found.noting(where):
        network.check_heads(phase.deep_supervision)
    with found.noting(where):
        network.check_parts(phase.part_lr)
    if phase.crop:
        with found.noting(where):
            network.check_window(phase.crop.size, "phase.crop")


def _examine_phase(recipe: Recipe, phase: Phase, where: str, found: Examined) -> None:
    """Note augmentations and arguments of losses that don't work."""
    import torch

    from stagepipe.augment import Augmentation
    from stagepipe.losses import total_loss

    outputs = recipe.dataset.outputs
    target = torch.zeros((1, 8, 8), dtype=torch.float32 if outputs == 1 else torch.int64)
    logits = torch.zeros(1, outputs, 8, 8)
    with found.noting(where):
        Augmentation(phase.augment)
    for loss in (phase.loss, *phase.deep_supervision.values()):
        with found.noting(where):
            terms = _without_download(loss, where, found)
            if terms:
                total_loss(terms, logits, target, recipe.dataset.ignore_index, recipe.dataset.classes)


def _without_download(terms: Mapping[str, LossTerm], where: str, found: Examined) -> Mapping[str, LossTerm]:
    """The terms but a topology-aware loss whose weights aren't in the local folder, which is noted."""
    from stagepipe import topology
    from stagepipe.networks.weights import local_file

    if "topology" not in terms or local_file(topology.ENCODER):
        return terms
    found.notes.append(f"{where}.loss.topology: weights of {topology.ENCODER}, which the first training downloads")
    return {name: term for name, term in terms.items() if name != "topology"}
