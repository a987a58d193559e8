"""Where there is no GPU: steps and scores of the published recipes, small, on tensors that say they lie on one.

Such tensors have shapes and devices but no values. An operator that mixes devices raises, as on a GPU; one that reads a
value raises too. What the kernels of a GPU compute is in test_gpu.py.
"""

import pytest
import torch
from small_recipes import SMALL, overlays, published
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from stagepipe import losses, triplets
from stagepipe.device_metrics import batch_counts, threshold_counts
from stagepipe.networks import SegmentationNetwork, build
from stagepipe.recipe.load import load
from stagepipe.recipe.model import Phase, Recipe, Run
from stagepipe.recipe.parts import TrainPart, stored_channels, train_part
from stagepipe.training.loss import phase_loss

GPU = torch.device("cuda", 0)


class Copies(TorchDispatchMode):
    """Notes copies to the GPU that the host waits for."""

    def __init__(self):
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, keys = function.overloadpacket.__name__, kwargs or {}
        if name in ("_to_copy", "copy_") and not (keys.get("non_blocking") or args[-1] is True):
            source, to = (args[0], keys.get("device")) if name == "_to_copy" else (args[1], args[0].device)
            if to is not None and source.device.type == "cpu" and torch.device(to).type == "cuda":
                self.seen.append(f"{name} of {list(source.shape)}")
        return function(*args, **keys)


def on_gpu(module: nn.Module) -> None:
    """Put a module on the GPU; under FakeTensorMode `module.to` can't."""
    for inner in module.modules():
        for name, value in inner._parameters.items():
            inner._parameters[name] = value if value is None else nn.Parameter(torch.empty_like(value, device=GPU))
        for name, value in inner._buffers.items():
            inner._buffers[name] = value if value is None else torch.empty_like(value, device=GPU)


def score(part: TrainPart, network: SegmentationNetwork, logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Counts of validation."""
    maps = network.eval().restored(logits, *masks.shape[1:])
    if part.phase.triplets:
        return threshold_counts(maps, masks, triplets.thresholds(triplets.expand(part.phase.triplets)))
    return batch_counts(maps, masks, 0.5, part.ignore_index)


def phases(recipe: Recipe) -> list[tuple[str, str, Run, Phase]]:
    """Stage, run and phase of every network with every loss."""
    found: dict[tuple[object, ...], tuple[str, str, Run, Phase]] = {}
    for stage in recipe.stages:
        for name, run in stage.runs.items():
            for phase in run.phases:
                what = run.network, *phase.loss, *phase.deep_supervision, bool(phase.triplets), bool(phase.crop)
                found.setdefault(what, (stage.name, name, run, phase))
    return list(found.values())


@pytest.mark.parametrize("name", SMALL)
def test_no_operator_mixes_devices_or_reads_a_value(name, monkeypatch):
    recipe = load(published(name), overlays(name))
    size = getattr(recipe.dataset, recipe.dataset.format).size
    channels = stored_channels(recipe)
    # A VGG19 with weights of its own; its layers are like those of any network.
    monkeypatch.setitem(losses.LOSSES, "topology", lambda logits, target, *_, **__: logits.mean())
    for stage, run_name, run, phase in phases(recipe):
        crop = phase.crop and phase.crop.size
        network = build(
            recipe.networks[run.network], recipe.dataset.outputs, channels, phase.resize, phase.pad, False, crop
        )
        part = train_part(recipe, stage, run_name, phase.name, "0" if phase.folds == "each" else "all")
        shape = crop or (size if isinstance(size, tuple) else (size, size))
        # Without cuDNN, whose sampling of a grid has no such tensors.
        with torch.backends.cudnn.flags(enabled=False), FakeTensorMode(allow_non_fake_inputs=True):
            on_gpu(network)
            images = torch.empty(2, *shape, channels, dtype=torch.uint8, device=GPU)
            masks = torch.empty(2, *shape, dtype=torch.uint8, device=GPU)
            phase_loss(part, network, network.heads(images), masks)  # constants of the recipe are copied once
            with Copies() as copies:
                heads = network.heads(images)
                loss = phase_loss(part, network, heads, masks)
                counts = score(part, network, heads["logits"], masks)
        assert loss.device == counts.device == GPU and loss.dtype == torch.float32
        assert not copies.seen, f"{stage}/{run_name}/{phase.name}"


def test_what_mixes_devices_waits_or_reads_is_seen():
    with FakeTensorMode():
        there = torch.empty(2, device=GPU)
        with pytest.raises(RuntimeError, match="two devices"):
            there + torch.ones(2)
        with pytest.raises(Exception, match="local_scalar_dense"):
            float(there.sum())
        with Copies() as copies:
            torch.ones(2).to(GPU)
            torch.ones(2).to(GPU, non_blocking=True)
    assert copies.seen == ["_to_copy of [2]"]
