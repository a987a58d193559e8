"""A plan summed up: by stage and rule, over all, and what it assumed; as plain data for machines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stagepipe.plan import Plan
from stagepipe.plan.estimate import Estimate
from stagepipe.plan.jobs import Job
from stagepipe.plan.took import Took
from stagepipe.recipe.parts import pseudolabel_sets


@dataclass(frozen=True)
class Line:
    """All jobs of a rule in a stage."""

    stage: str
    rule: str
    jobs: int
    train: int
    """image passes"""
    validation: int
    predict: int
    flops: float
    seconds: float | None
    measured: bool
    kept: float
    """bytes on the disk"""
    took: Took | None
    """of the jobs that ran"""
    seconds_of_done: float | None
    """planned seconds of as many jobs as ran"""

    @property
    def passes(self) -> int:
        """Image passes of training or prediction; a training's validation comes to it."""
        return self.train + self.predict


def lines(plan: Plan) -> list[Line]:
    """Jobs by stage and rule, in the order of the recipe."""
    groups: dict[tuple[str, str], list[Estimate]] = {}
    for estimate in plan.estimates:
        groups.setdefault((estimate.job.stage, estimate.job.rule), []).append(estimate)
    return [_line(stage, rule, group, plan.took.get((stage, rule))) for (stage, rule), group in groups.items()]


def _line(stage: str, rule: str, group: Sequence[Estimate], took: Took | None) -> Line:
    seconds = _seconds(group)
    done = took.jobs if took else 0
    return Line(
        stage,
        rule,
        len(group),
        sum(estimate.train for estimate in group),
        sum(estimate.validation for estimate in group),
        sum(estimate.predict for estimate in group),
        sum(estimate.flops for estimate in group),
        seconds,
        all(estimate.measured for estimate in group),
        sum(estimate.kept for estimate in group),
        took if done else None,
        seconds * done / len(group) if seconds is not None and done else None,
    )


def _seconds(estimates: Iterable[Estimate]) -> float | None:
    each = [estimate.seconds for estimate in estimates]
    return None if None in each else sum(second for second in each if second is not None)


@dataclass(frozen=True)
class Totals:
    """The whole recipe."""

    jobs: int
    gpu_jobs: int
    train: int
    validation: int
    predict: int
    flops: float
    gpu_seconds: float | None
    """of jobs that hold a GPU where there is one"""
    other_seconds: float | None
    wall_seconds: float | None
    """with so many GPUs and cores, if nothing waited for anything"""
    kept: float
    scratch: float
    """bytes that the training with the largest state needs while it runs"""
    gpu_memory: float
    """bytes of the job that needs the most"""
    gpu_memory_of: str
    host_memory: float
    host_memory_of: str


def totals(plan: Plan, gpus: int = 1, cores: int = 1) -> Totals:
    """Sums over all jobs."""
    every = plan.estimates
    on_gpu, others = [e for e in every if e.on_gpu], [e for e in every if not e.on_gpu]
    gpu_seconds, other_seconds = _seconds(on_gpu), _seconds(others)
    wall = None
    if gpu_seconds is not None and other_seconds is not None:
        wall = gpu_seconds / gpus + other_seconds / cores
    largest, heaviest = max(on_gpu, key=lambda e: e.gpu_memory), max(on_gpu, key=lambda e: e.host_memory)
    return Totals(
        jobs=len(every),
        gpu_jobs=len(on_gpu),
        train=sum(e.train for e in every),
        validation=sum(e.validation for e in every),
        predict=sum(e.predict for e in every),
        flops=sum(e.flops for e in every),
        gpu_seconds=gpu_seconds,
        other_seconds=other_seconds,
        wall_seconds=wall,
        kept=sum(e.kept for e in every),
        scratch=max(e.scratch for e in every),
        gpu_memory=largest.gpu_memory,
        gpu_memory_of=name(largest.job),
        host_memory=heaviest.host_memory,
        host_memory_of=name(heaviest.job),
    )


def name(job: Job) -> str:
    """A training or prediction in words."""
    part: Any = job.part
    phase = f"/{part.phase.name}" if job.rule == "train" else ""
    return f"{job.rule} {part.stage}/{part.run}{phase}"


def assumptions(plan: Plan) -> list[str]:
    """What the plan could not know."""
    phases = [phase for stage in plan.recipe.stages for run in stage.runs.values() for phase in run.phases]
    confident = [spec for spec in pseudolabel_sets(plan.recipe).values() if spec.keep == "confident"]
    found = []
    if any(phase.early_stop for phase in phases):
        found.append("no training stops early, so passes and hours are upper bounds")
    if confident and plan.confident is None:
        found.append("as many confident pseudolabels as TGS salt had at that confidence (--confident SHARE)")
    unmeasured = [estimate for estimate in plan.estimates if estimate.on_gpu and not estimate.measured]
    if plan.figures and unmeasured:
        found.append(
            f"~ times: {plan.figures.train_tflops:.3g} TFLOP/s in training and {plan.figures.predict_tflops:.3g} in "
            "prediction, whatever the network"
        )
    return found


def tree(plan: Plan, gpus: int = 1, cores: int = 1) -> dict[str, Any]:
    """The plan as plain data: times in seconds, sizes in bytes."""
    return {
        "recipe": plan.recipe.name,
        "images": asdict(plan.images),
        "figures": plan.figures.model_dump(mode="json") if plan.figures else None,
        "totals": asdict(totals(plan, gpus, cores)),
        "lines": [asdict(line) for line in lines(plan)],
        "assumptions": assumptions(plan),
    }
