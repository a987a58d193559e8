"""What one job takes: seconds, memory and bytes on the disk, from its image passes and a device's figures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from stagepipe.plan import networks, passes
from stagepipe.plan.figures import Figures, PredictFigure, TrainFigure
from stagepipe.plan.images import Images
from stagepipe.plan.jobs import ON_A_GPU, Job
from stagepipe.plan.kinds import predict_kind, train_kind
from stagepipe.recipe.averages import EnsemblePart
from stagepipe.recipe.model import Recipe
from stagepipe.recipe.parts import PredictPart, ScorePart, TrainPart, stored_channels

FLOAT = 4
"""bytes"""
IMPORTS, LIGHT_IMPORTS = 900 * 2**20, 250 * 2**20
"""bytes of a process with torch and its libraries, and of one without"""
CUDA = 600 * 2**20
"""bytes that CUDA itself takes of a GPU for each process"""
TABLE_SHARE = {True: 0.6, False: 0.95}
"""bytes on the disk for each byte of a map that is kept, of a single class and of several: tables of the small recipe,
and of 20 classes of which 3 are kept (docs/benchmarks.md)"""
RAW_SHARE = 0.7
"""bytes of a generated raw image for each of its pixels"""
PIXELS_A_SECOND = {"ingest": 4e7, "find_mosaics": 6e7, "ensemble": 1e8, "blend": 1e8, "blend_emptiness": 1e8}
"""pixels that jobs without a GPU get through, of every map or image they read (docs/benchmarks.md)"""
OTHERS_A_SECOND = 5e7
REPORT_STARTS = 30
"""The report draws its pictures for so many times as long as another job takes to start (small recipe)."""


@dataclass(frozen=True)
class Estimate:
    """One job."""

    job: Job
    train: int = 0
    """image passes of training"""
    validation: int = 0
    predict: int = 0
    flops: float = 0.0
    seconds: float | None = None
    """none: nothing is known of the device"""
    measured: bool = True
    """its seconds are measured ones of its kind, not those of FLOPs"""
    kept: float = 0.0
    """bytes of its outputs"""
    scratch: float = 0.0
    """bytes that it needs besides while it runs"""
    gpu_memory: float = 0.0
    """bytes of a GPU, estimated or measured on one"""
    host_memory: float = LIGHT_IMPORTS
    """bytes of its process, loader workers not counted"""

    @property
    def on_gpu(self) -> bool:
        """Whether it holds a GPU where there is one."""
        return self.job.rule in ON_A_GPU


def estimates(
    recipe: Recipe, jobs: Iterable[Job], images: Images, figures: Figures | None, confident: float | None = None
) -> list[Estimate]:
    """What every job takes; `confident` is the assumed share of confident test images, none: that of TGS salt."""
    found = []
    for job in jobs:
        if isinstance(job.part, TrainPart):
            found.append(_training(recipe, job, job.part, images, figures, confident))
        elif isinstance(job.part, PredictPart):
            found.append(_prediction(recipe, job, job.part, images, figures))
        else:
            found.append(_other(recipe, job, images, figures))
    return found


def _training(
    recipe: Recipe, job: Job, part: TrainPart, images: Images, figures: Figures | None, confident: float | None
) -> Estimate:
    kind, phase = train_kind(part, images), part.phase
    count, cost = passes.training(recipe, part, images, confident), networks.train_cost(kind)
    flops = count.train * cost.training + count.validation * cost.forward
    own = figures.training.get(kind.fingerprint()) if figures else None
    seconds: float | None = None
    if figures and own:
        epoch = (count.train * own.image + count.validation * own.validation) / count.epochs
        # An epoch's state is written while the next one trains, the members when all have.
        epochs = count.epochs * (own.copy_state + max(epoch, own.save_state))
        seconds = figures.start.train + own.prepare + epochs + own.save_state
    elif figures:
        seconds = figures.start.train + flops / (figures.train_tflops * 1e12)
    weights, states = cost.parameters * FLOAT, networks.optimizer_states(phase)
    ends = phase.select.end_of_cycle
    # The last epoch is written for itself where it may not be a member.
    written = phase.member_count + (ends is None or ends.skip + phase.member_count < phase.cycles)
    activations = phase.batch * cost.saved * (0.5 if figures and figures.bf16 else 1.0)
    gpu, host = _memory(weights * (2 + states) + activations, weights * (1 + states), figures, own)
    return Estimate(
        job,
        train=count.train,
        validation=count.validation,
        flops=flops,
        seconds=seconds,
        measured=own is not None,
        kept=weights * written,
        # Where training goes on from, and the epochs that are or may become members.
        scratch=weights * (1 + states + written),
        gpu_memory=gpu,
        host_memory=host,
    )


def _memory(
    device: float, copied: float, figures: Figures | None, own: TrainFigure | PredictFigure | None
) -> tuple[float, float]:
    """Bytes of the GPU and of the host: what lies on the device, and what is copied from it to be written."""
    on_cpu = figures is not None and not figures.gpu
    gpu, host = CUDA + device, IMPORTS + copied + device * on_cpu
    if own and own.memory:
        measured = own.memory * 2**20
        return (gpu, measured) if on_cpu else (measured, host)
    return gpu, host


def _prediction(recipe: Recipe, job: Job, part: PredictPart, images: Images, figures: Figures | None) -> Estimate:
    count = passes.prediction(part, images, recipe.folds.count)
    seconds: float | None = figures.start.predict if figures else None
    flops, weights, owns = 0.0, 0.0, []
    # Members that differ in nothing but their weights are made ready once.
    kinds = [predict_kind(part, member, images) for member in part.members]
    for kind in {kind.fingerprint(): kind for kind in kinds}.values():
        cost, members = networks.predict_cost(kind), kinds.count(kind)
        flops += members * count.maps * cost.forward
        weights += members * cost.parameters * FLOAT
        own = figures.prediction.get(kind.fingerprint()) if figures else None
        owns.append(own)
        if figures and seconds is not None:
            rate = own.network_pass if own else cost.forward / (figures.predict_tflops * 1e12)
            seconds += (own.prepare if own else 0.0) + members * count.maps * rate
    heaviest = max((own for own in owns if own), key=lambda own: own.memory, default=None) if all(owns) else None
    gpu, host = _memory(weights, 0.0, figures, heaviest)
    return Estimate(
        job,
        predict=count.passes,
        flops=flops,
        seconds=seconds,
        measured=all(owns),
        kept=count.images * _map_bytes(recipe, images),
        gpu_memory=gpu,
        host_memory=host,
    )


def _map_bytes(recipe: Recipe, images: Images) -> float:
    """Bytes of the map of one image in a probability table, on the disk."""
    classes = recipe.dataset.outputs
    return math.prod(images.size) * min(classes, recipe.kept_classes or classes) * TABLE_SHARE[classes == 1]


def _other(recipe: Recipe, job: Job, images: Images, figures: Figures | None) -> Estimate:
    """A job without a GPU: the start of its process, and the images or maps that it reads."""
    area, folds = math.prod(images.size), recipe.folds.count
    everything = images.train + images.test
    kept = {
        "synthesise": everything * area * RAW_SHARE,
        "ingest": area * (everything * stored_channels(recipe) + images.train),
    }
    read = {"synthesise": everything, "ingest": everything, "find_mosaics": everything, "report": 0}
    maps = read.get(job.rule, images.train)
    if isinstance(job.part, EnsemblePart):
        of_split = images.test if job.part.split == "test" else images.train
        maps = of_split * len(job.part.runs) * (folds if job.part.split == "test" else 1)
        kept[job.rule] = of_split * _map_bytes(recipe, images)
    elif isinstance(job.part, ScorePart):
        maps = images.train * len(job.part.runs)
    elif job.rule in ("select_pseudolabels", "submit"):
        maps = images.test
    starts = REPORT_STARTS if job.rule == "report" else 1
    rate = PIXELS_A_SECOND.get(job.rule, OTHERS_A_SECOND)
    seconds = starts * figures.start.other + maps * area * recipe.dataset.outputs / rate if figures else None
    return Estimate(job, seconds=seconds, kept=kept.get(job.rule, 0.0))
