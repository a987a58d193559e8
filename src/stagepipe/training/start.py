"""The network that a phase starts from: a fresh one with its encoder's weights, or a member of an earlier phase."""

import logging
from pathlib import Path

import torch

from stagepipe import seeding
from stagepipe.artefacts import load_weights
from stagepipe.errors import TrainingError
from stagepipe.networks import SegmentationNetwork, build
from stagepipe.recipe.parts import TrainPart

LOG = logging.getLogger(__name__)
Weights = dict[str, torch.Tensor]


def starting_network(
    part: TrainPart, key: tuple[str | int, ...], origin: Path | None, device: torch.device
) -> SegmentationNetwork:
    """The phase's network on a device, with the weights that `init` and `init_weights` name.

    `key` seeds what is drawn at random, `origin` is the weights file of the phase that `init` names. With `init_grown`
    that phase's network may be another one: what has its weights' name and shape takes them, the rest starts as
    `encoder` would. TrainingError if there is no origin or it doesn't fit, never a random start in its place;
    ArtefactError if it is damaged or lacks the member.
    """
    # Recipes read from files have `init` written out; without it a phase was made by hand and stands alone.
    if origin is None and part.phase.init not in (None, "encoder"):
        raise TrainingError(
            f"{_place(part)}: starts from the weights of {part.phase.init}, but got none; pass the weights.safetensors "
            "of that phase and fold as `origin` (--origin of workflow/scripts/train.py), or write `init: encoder`"
        )
    torch.manual_seed(seeding.key("init", *key))
    network = build(
        part.network,
        len(part.classes),
        part.stored_channels,
        part.phase.resize,
        part.phase.pad,
        pretrained=origin is None or part.phase.init_grown,
        crop=part.phase.crop.size if part.phase.crop else None,
    )
    if origin is not None:
        _load(network, origin, part)
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _load(network: SegmentationNetwork, origin: Path, part: TrainPart) -> None:
    member = "last" if part.phase.init_weights == "last" else "0"
    weights = load_weights(origin, member)
    if part.phase.init_grown:
        weights = _agreeing(weights, network, f"{origin}: member {member!r}", part)
    try:
        network.module.load_state_dict(weights, strict=not part.phase.init_grown)
    except RuntimeError as error:
        raise TrainingError(
            f"{origin}: member {member!r} doesn't fit the network of {_place(part)} ({str(error)[:400]}); start from "
            "a phase with the same network, classes and channels, or delete the file and run again"
        ) from error


def _agreeing(weights: Weights, network: SegmentationNetwork, source: str, part: TrainPart) -> Weights:
    """Those of the weights that the network has under the same name and in the same shape."""
    own: Weights = network.module.state_dict()
    taken = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    if not taken:
        raise TrainingError(
            f"{source} has no tensor of the network of {_place(part)}, neither by name nor by shape; start from a "
            "phase whose network is a part of this one, or write `init: encoder`"
        )
    LOG.info("%d of %d tensors start from %s, the others fresh", len(taken), len(own), source)
    return taken


def _place(part: TrainPart) -> str:
    return f"{part.stage}/{part.run}/{part.phase.name}, fold {part.fold}"
