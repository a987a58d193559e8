"""The network that a phase starts from: a fresh one with its encoder's weights, or a member of an earlier phase."""

from pathlib import Path

import torch

from stagepipe import seeding
from stagepipe.artefacts import load_weights
from stagepipe.errors import TrainingError
from stagepipe.networks import SegmentationNetwork, build
from stagepipe.recipe.parts import TrainPart


def starting_network(
    part: TrainPart, key: tuple[str | int, ...], origin: Path | None, device: torch.device
) -> SegmentationNetwork:
    """The phase's network on a device, with the weights that `init` and `init_weights` name.

    `key` seeds what is drawn at random, `origin` is the weights file of the phase that `init` names. TrainingError if
    there is none or it doesn't fit, never a random start in its place; ArtefactError if it is damaged or lacks the
    member.
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
        pretrained=origin is None,
    )
    if origin is not None:
        _load(network, origin, part)
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _load(network: SegmentationNetwork, origin: Path, part: TrainPart) -> None:
    member = "last" if part.phase.init_weights == "last" else "0"
    try:
        network.module.load_state_dict(load_weights(origin, member))
    except RuntimeError as error:
        raise TrainingError(
            f"{origin}: member {member!r} doesn't fit the network of {_place(part)} ({str(error)[:400]}); start from "
            "a phase with the same network, classes and channels, or delete the file and run again"
        ) from error


def _place(part: TrainPart) -> str:
    return f"{part.stage}/{part.run}/{part.phase.name}, fold {part.fold}"
