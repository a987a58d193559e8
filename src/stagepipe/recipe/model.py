"""The recipe as types: every key, its type, its default and its bounds, in one place.

What has an order (stages, phases) is a list of named items; what has none (networks, runs) is a mapping, so that
sorting the keys of a recipe never changes it. Nothing here imports torch or OpenCV: the Snakefile reads recipes in
milliseconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, WithJsonSchema, model_validator


def _both_edges(value: Any) -> Any:
    """A square's edge as height and width."""
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise ValueError(f"has {len(value)} items; write one for a square, or [height, width]")
        return tuple(value)
    return (value, value)


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
    WithJsonSchema(
        {
            "anyOf": [EDGE, {"type": "array", "items": EDGE, "minItems": 2, "maxItems": 2}],
            "description": "pixels: one number for a square, or [height, width]",
        }
    ),
]


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


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


# ---------------------------------------------------------------------------------------------------- dataset and folds


class Synthetic(Section):
    """A generated salt survey in the raw `tgs` layout."""

    train: Count = 160
    """labelled tiles"""
    test: Count = 80
    """unlabelled tiles"""
    size: Annotated[int, Field(strict=True, ge=32, le=1024)] = 101
    """tile edge in pixels"""
    empty: Share = 0.38
    """share of tiles without salt, about"""
    black: Share = 0.02
    """share of black tiles (no salt), about"""
    vertical: Share = 0.05
    """share of tiles whose salt border is vertical, about"""
    seed: Integer = 0


class Dataset(Section):
    """Raw data: a layout and where it lies."""

    format: Literal["tgs", "folder", "synthetic"]
    root: str | None = None
    """folder of the raw data, relative to the working directory or absolute; `synthetic` has none"""
    classes: list[Name] = Field(default=["salt"], min_length=1)
    """one name: that class against background (sigmoid); several: one class a pixel (softmax), in index order"""
    ignore_index: Annotated[int, Field(strict=True, ge=0, le=255)] | None = None
    """mask value that counts in no loss and no metric; needs several classes"""
    channels: Literal["gray", "rgb"] = "gray"
    """what is stored of an image; `gray` reads an RGB file with three equal channels as one"""
    faults: Literal["strict", "quarantine"] = "strict"
    """faulty files: `strict` stops with all of them listed, `quarantine` goes on without them and says so"""
    synthetic: Synthetic = Synthetic()

    @model_validator(mode="after")
    def _root(self) -> Dataset:
        if self.format == "synthetic" and self.root is not None:
            raise ValueError("root: the synthetic format writes its own raw data; leave root out")
        if self.format != "synthetic" and not self.root:
            raise ValueError(f"root: the {self.format} format reads raw data; write `root: path/to/data`")
        if self.format != "synthetic" and self.synthetic != Synthetic():
            raise ValueError("synthetic: describes generated data; leave it out or write `format: synthetic`")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes: {', '.join(self.classes)} repeats a name; give each class its own")
        if self.ignore_index is not None and len(self.classes) == 1:
            raise ValueError("ignore_index: needs several classes; leave it out or list the classes")
        return self

    @property
    def outputs(self) -> int:
        """Channels of the logits: 1 for a single class, else one per class."""
        return len(self.classes)


class Folds(Section):
    """How labelled samples are split for cross-validation."""

    count: Annotated[int, Field(strict=True, ge=2, le=100)] = 5
    stratify: list[str] = []
    """columns of the samples table whose values every fold gets in equal shares; numeric ones are binned"""
    bins: Annotated[int, Field(strict=True, ge=2)] = 10
    """quantile bins of a numeric stratification column"""
    group: str | None = None
    """column whose equal values stay in one fold"""
    file: str | None = None
    """CSV with columns id and fold, instead of a split of our own"""
    always_train: str | None = None
    """boolean column: true rows train in every fold and never validate"""
    seed: Integer = 0

    @model_validator(mode="after")
    def _file_or_rule(self) -> Folds:
        if self.file and (self.stratify or self.group):
            raise ValueError("file: the split comes from a file; leave stratify and group out")
        return self


# -------------------------------------------------------------------------------------------------------------- network


class Pad(Section):
    """Padding around the resized image, split evenly; an odd pixel goes to the bottom and the right."""

    to: Size
    mode: Literal["reflect", "edge", "symmetric", "zero"] = "reflect"
    """`reflect` leaves the border pixel out (OpenCV's reflect-101), `symmetric` repeats it, `edge` replicates it"""


class WeightsFile(Section):
    """Encoder weights from a local safetensors file."""

    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Normalise(Section):
    """(x / 255 - mean) / std, per stored image channel (one number serves all)."""

    mean: list[Number] = Field(default=[0.0], min_length=1)
    std: list[Positive] = Field(default=[1.0], min_length=1)


class Network(Section):
    """A network with its input geometry."""

    architecture: str = "unet"
    """any architecture of segmentation_models_pytorch, lower case"""
    encoder: str = "resnet34"
    """any encoder of segmentation_models_pytorch"""
    weights: Literal["imagenet"] | WeightsFile | None = None
    """encoder weights: `imagenet`, a local file with its checksum, or none (random)"""
    arguments: dict[str, JsonValue] = {}
    """further arguments of the architecture, for example {decoder_attention_type: scse}"""
    resize: Size | None = None
    """bilinear resize before padding; none keeps the size of the image"""
    pad: Pad | None = None
    channels: list[Literal["image", "row_ramp", "product"]] = Field(default=["image"], min_length=1)
    """input channels: the stored ones, a ramp 0..1 from top to bottom, the mean of the stored ones times the ramp"""
    normalise: Literal["imagenet"] | Normalise = Normalise()
    """`imagenet`: its mean and standard deviation (a gray image uses their averages)"""


# ---------------------------------------------------------------------------------------------------------------- phase


class Transform(Section):
    """One albumentations transform by class name with its arguments, or a block of several."""

    name: str
    arguments: dict[str, JsonValue] = {}
    transforms: list[Transform] = []
    """inner transforms of a block (OneOf, SomeOf, Sequential, ...)"""


AUGMENTATIONS = ("none", "tgs_bes", "tgs_phalanx")
LOSSES = (
    "bce", "dice", "dice_per_image", "focal", "jaccard", "cross_entropy",
    "lovasz_hinge", "lovasz_hinge_elu", "lovasz_softmax",
)  # fmt: skip
SIGMOID_LOSSES = {"bce", "lovasz_hinge", "lovasz_hinge_elu"}
SOFTMAX_LOSSES = {"cross_entropy", "lovasz_softmax"}


class LossTerm(Section):
    """One term of a weighted sum of losses."""

    weight: Positive = 1.0
    arguments: dict[str, Number] = {}
    """numbers the loss takes, for example {gamma: 2} of focal"""


class Sgd(Section):
    """Stochastic gradient descent."""

    momentum: Share = 0.9
    nesterov: Flag = False
    weight_decay: NotNegative = 0.0


class Adam(Section):
    """Adam."""

    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: NotNegative = 0.0


class AdamW(Section):
    """Adam with decoupled weight decay."""

    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: NotNegative = 0.01


class RmsProp(Section):
    """RMSprop."""

    alpha: Share = 0.9
    momentum: Share = 0.0
    weight_decay: NotNegative = 0.0


class Optimizer(OneOf):
    """The optimiser; every phase (and every cycle) starts with a fresh one."""

    sgd: Sgd | None = None
    adam: Adam | None = None
    adamw: AdamW | None = None
    rmsprop: RmsProp | None = None


class Constant(Section):
    """The learning rate stays."""


class Plateau(Section):
    """Multiply by `factor` after `patience` epochs without a better monitored score."""

    factor: Inside = 0.5
    patience: Count = 7
    floor: NotNegative = 0.0
    """lowest learning rate"""


class Cosine(Section):
    """floor + (lr - floor) (1 + cos(pi t / T)) / 2, t in epochs, T the epochs of a cycle."""

    floor: NotNegative = 0.0
    per: Literal["epoch", "step"] = "epoch"
    """`step`: t moves with every batch"""


class OneCycle(Section):
    """Rise to lr during the first `warmup` share, then cosine down to lr / `final_factor` (Smith and Topin 2017)."""

    warmup: Inside = 0.3
    start_factor: Annotated[float, Field(strict=True, ge=1)] = 25.0
    final_factor: Annotated[float, Field(strict=True, ge=1)] = 1e4


class Step(Section):
    """Multiply by `factor` every `every` epochs."""

    factor: Inside = 0.1
    every: Count = 30


class Schedule(OneOf):
    """How the learning rate moves; with several cycles it starts anew in each."""

    constant: Constant | None = None
    plateau: Plateau | None = None
    cosine: Cosine | None = None
    one_cycle: OneCycle | None = None
    step: Step | None = None


class Shuffle(Section):
    """Every sample once an epoch, in a new order."""


class Replacement(Section):
    """Random draws with replacement, `passes` times as many as there are samples."""

    passes: Positive = 1.0


class Balanced(Section):
    """As many draws as samples, a fixed share of them with a non-empty mask; within each kind without replacement."""

    positive: Inside = 0.5


class Sampler(OneOf):
    """Which samples an epoch is made of."""

    shuffle: Shuffle | None = None
    replacement: Replacement | None = None
    balanced: Balanced | None = None


class Best(Section):
    """The epoch with the best monitored score."""


class Top(Section):
    """The `k` epochs with the best monitored scores."""

    k: Annotated[int, Field(strict=True, ge=1, le=100)] = 3


class EndOfCycle(Section):
    """The last epoch of every cycle but the first `skip`."""

    skip: Natural = 0


class Select(OneOf):
    """Which weights of a phase become members."""

    best: Best | None = None
    top: Top | None = None
    end_of_cycle: EndOfCycle | None = None


class Phase(Section):
    """One node of a run: where its weights come from, what it trains on and how."""

    name: Name
    like: Name | None = None
    """an earlier phase of this run whose keys hold where this one is silent"""
    init: str | None = None
    """`encoder` (a fresh network), a phase of this run, or `stage/run/phase` of an earlier stage with the same network;
    none: the phase before, or `encoder` for the first"""
    init_weights: Literal["best", "last"] = "best"
    """which weights of the phase it starts from"""
    data: Literal["labels", "pseudolabels", "both"] = "labels"
    folds: Literal["each", "shared"] = "each"
    """`shared`: trained once, the same weights serve all folds; pseudolabels only, as labels would leak"""
    exclude_black: Flag = False
    """leave images with one single value out of training and validation"""
    exclude_empty: Flag = False
    """leave samples with an empty mask out of training"""
    resize: Size | None = None
    """input size of this phase instead of the network's"""
    pad: Pad | None = None
    """padding of this phase instead of the network's"""
    batch: Count = 16
    accumulate: Count = 1
    """batches per optimiser step"""
    loss: dict[Literal[LOSSES], LossTerm]  # type: ignore[valid-type]
    optimizer: Optimizer = Optimizer(adam=Adam())
    lr: Positive = 1e-3
    encoder_lr: Positive | None = None
    """learning rate of the encoder's parameters, if another; scheduled alike"""
    schedule: Schedule = Schedule(constant=Constant())
    clip_norm: Positive | None = None
    """largest norm of the gradient"""
    sampler: Sampler = Sampler(shuffle=Shuffle())
    augment: Literal[AUGMENTATIONS] | list[Transform] = "none"  # type: ignore[valid-type]
    epochs: Count
    """epochs of a cycle"""
    cycles: Count = 1
    """restarts of optimiser and schedule, keeping the weights"""
    early_stop: Count | None = None
    """end the cycle after so many epochs without a better score"""
    freeze_encoder: Natural = 0
    """first epochs in which the encoder's parameters stay"""
    select: Select = Select(best=Best())
    monitor: Literal["mean_precision", "dice", "iou"] = "iou"
    """validation score that chooses members and drives plateau and early stop"""
    member: NotNegative | None = None
    """weight of this phase's members in the run's average; 0: none; unset: 1 for the last phase, else 0"""

    @model_validator(mode="before")
    @classmethod
    def _loss_short_forms(cls, value: Any) -> Any:
        loss = value.get("loss") if isinstance(value, dict) else None
        if isinstance(loss, str):
            loss = {loss: {}}
        if isinstance(loss, dict):
            terms = {
                name: term if isinstance(term, dict | LossTerm) else {"weight": term} for name, term in loss.items()
            }
            value = {**value, "loss": terms}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Phase:
        if not self.loss:
            raise ValueError(f"loss: is empty; write one or several of {', '.join(LOSSES)}")
        if self.folds == "shared" and self.data != "pseudolabels":
            raise ValueError(
                "folds: shared trains one network for all folds, so labels would leak; write data: pseudolabels"
            )
        if self.select.top and self.select.top.k > self.epochs * self.cycles:
            raise ValueError(
                f"select: top {self.select.top.k} of {self.epochs * self.cycles} epochs; write a smaller k"
            )
        if self.select.top and self.early_stop and self.select.top.k > self.early_stop + 1:
            raise ValueError(f"select: early_stop may end after {self.early_stop + 1} epochs; write top <= that")
        if self.select.end_of_cycle and self.select.end_of_cycle.skip >= self.cycles:
            raise ValueError(f"select: skips all {self.cycles} cycles; write skip < cycles")
        return self

    @property
    def member_count(self) -> int:
        """How many weights files the phase hands to prediction."""
        if self.select.top:
            return self.select.top.k
        return self.cycles - self.select.end_of_cycle.skip if self.select.end_of_cycle else 1


class Run(Section):
    """One network trained in one stage."""

    network: Name
    phases: list[Phase] = Field(min_length=1)

    def phase(self, name: str) -> Phase:
        """The phase of that name."""
        return next(phase for phase in self.phases if phase.name == name)


# ---------------------------------------------------------------------------------------------------------------- stage


class SizeBin(Section):
    """A bin of mask sizes and how many of it are kept."""

    above: Share = 0.0
    """mask share of the image, exclusive (0 with `empty: true` is the empty bin)"""
    up_to: Share = 1.0
    """inclusive"""
    empty: Flag = False
    """the bin of empty masks; above and up_to are not looked at"""
    minimum_confidence: Share | None = None
    """this bin's own bound"""
    per_fold: Count | None = None
    """samples per fold; none: all of the bin"""


class Pseudolabels(Section):
    """Which test predictions of an earlier stage become training masks."""

    stage: Name
    """the earlier stage whose ensemble labels the test images"""
    keep: Literal["confident", "all"] = "confident"
    minimum_confidence: Share = 0.9
    low: Share = 0.2
    high: Share = 0.8
    """a pixel is sure if p < low or p > high; of several classes if its highest p > high"""
    exclude_black: Flag = False
    bins: list[SizeBin] = []
    """keep by mask size"""
    disjoint: Flag = False
    """every fold trains on its own slice of the pseudolabels"""
    cross_fit: Flag = False
    """fold k sees masks made only by networks that never saw fold k's labels; false, the published way, leaks mildly"""

    @model_validator(mode="after")
    def _order(self) -> Pseudolabels:
        if self.low > self.high:
            raise ValueError(f"low: {self.low} is above high ({self.high}); write low <= high")
        if any(b.per_fold for b in self.bins) and not self.disjoint:
            raise ValueError("bins: per_fold counts need `disjoint: true`")
        return self


class Stage(Section):
    """Runs that train on the same data, their ensemble, and the pseudolabels they may use."""

    name: Name
    pseudolabels: Pseudolabels | None = None
    runs: dict[Name, Run] = Field(min_length=1)
    ensemble: dict[Name, NotNegative] = {}
    """ratio of each run in the stage's average; none: all alike"""
    tta: list[Literal["hflip", "vflip", "rot90"]] = ["hflip"]
    """views averaged at prediction besides the plain one: hflip and vflip combine, rot90 adds quarter turns"""


# ----------------------------------------------------------------------------------------------------------- submission


class Threshold(Section):
    """Binarisation of a single class."""

    value: Share | None = 0.5
    """a pixel is foreground if p > value; null searches the best on pooled out-of-fold predictions"""
    metric: Literal["mean_precision", "dice", "iou"] = "mean_precision"
    """what a search maximises"""


class MinimumSize(Section):
    """Masks (of one class: connected components) smaller than this become background."""

    pixels: Count
    per: Literal["mask", "component"] = "mask"


class Postprocess(OneOf):
    """One step after binarisation."""

    minimum_size: MinimumSize | None = None


class Submission(Section):
    """Blend, binarise, postprocess, encode."""

    blend: dict[str, Positive] = Field(min_length=1)
    """shares of stages (`stage3`) or runs (`stage3/resnet34`); they sum to 1"""
    threshold: Threshold = Threshold()
    black_is_empty: Flag = False
    """a test image with one single value gets an empty mask"""
    postprocess: list[Postprocess] = []
    encode: Literal["tgs", "runs"] = "tgs"
    """`tgs`: id,rle_mask, column-major and 1-based; `runs`: JSON of row runs per class"""
    rows: str | None = None
    """sample submission whose ids set the order of the rows; none: sorted by id"""

    @model_validator(mode="after")
    def _shares(self) -> Submission:
        total = sum(self.blend.values())
        if abs(total - 1) > 1e-6:
            fixed = {key: round(value / total, 4) for key, value in self.blend.items()}
            raise ValueError(f"blend: the shares sum to {total:g}; they must sum to 1, for example {fixed}")
        return self


class Runtime(Section):
    """How jobs run on this machine. Nothing here is part of the result, so changing it re-runs nothing."""

    workers: Natural | Literal["auto"] = "auto"
    """data loader processes of a training job"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto`: bf16 where the hardware multiplies it"""
    compile: Flag | Literal["auto"] = "auto"
    """`auto`: on CUDA"""
    deterministic: Flag = False
    """on CUDA: slower kernels that give the same bits every time (a CPU always does)"""


class Recipe(Section):
    """The only input besides raw data."""

    name: Name
    """results land in results/<name>/"""
    seed: Integer = 0
    code: Literal["warn", "rerun"] = "warn"
    """artefacts made by other code than today's: name them and go on, or make them anew"""
    dataset: Dataset
    folds: Folds = Folds()
    networks: dict[Name, Network] = Field(min_length=1)
    stages: list[Stage] = Field(min_length=1)
    submission: Submission
    runtime: Runtime = Runtime()

    def stage(self, name: str) -> Stage:
        """The stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)
