"""Averaging members and views: `Ensemble.predict` beside a loop over both, and the memory that a whole split takes."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import tiles
from benchmarks.published import RECIPES
from benchmarks.timing import compare, interleave
from stagepipe.artefacts import load_weights, read_table, save_weights
from stagepipe.data.store import PixelStore, same_size_batches
from stagepipe.inference import predict
from stagepipe.members import Ensemble
from stagepipe.networks import build
from stagepipe.recipe.load import load
from stagepipe.recipe.model import Network, Recipe, Runtime
from stagepipe.recipe.parts import MemberPart, PredictPart, predict_part
from stagepipe.runtime import Machine, configure

RECIPE = RECIPES / "tgs_salt_1st.yaml"
ENCODER, MEMBERS = "resnet34", 2
SMALL = Network.model_validate(
    {
        "encoder": "resnet18",
        "arguments": {"encoder_depth": 3, "decoder_channels": [16, 8, 8]},
        "resize": 64,
        "normalise": {"mean": [0.48], "std": [0.16]},
    }
)
SPLITS = (1_000, 3_000)
TILES, FLIPS = 18_000, 2
"""test tiles of TGS salt, and views of each"""
MEASURED = {"cpu": 16, "cuda": 4_000}
"""of these tiles"""
BLENDED = (("stage2", "resnext50"), ("stage3", "resnet34_pad128"))
"""runs of the TGS 1st place's submission"""
PLAIN_BATCH = {"cpu": 8, "cuda": 64}


def random_member(network: Network) -> torch.nn.Module:
    """A network of smp whose normalisation fits its activations; as built, they outgrow what bf16 resolves."""
    built = build(network, 1, 1).train()
    for layer in built.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        built(torch.randint(0, 256, (4, 101, 101, 1), dtype=torch.uint8))
    return built.module.eval()


def prepare(folder: Path, network: Network) -> tuple[PredictPart, dict[str, Path]]:
    """Random members and the part of a recipe that averages them with their mirrored views."""
    torch.manual_seed(0)
    members = {str(index): random_member(network).state_dict() for index in range(MEMBERS)}
    save_weights(folder / "weights.safetensors", members)
    part = PredictPart(
        stage="stage", run="run", fold="0", classes=["salt"], stored_channels=1, network=network, tta=["hflip"],
        members=[MemberPart(phase="phase", member=name, weight=1) for name in members],
    )  # fmt: skip
    return part, {"phase": folder / "weights.safetensors"}


def speed(machine: Machine) -> dict:
    with tempfile.TemporaryDirectory() as temporary:
        part, weights = prepare(Path(temporary), tiles.network(ENCODER))
        data = tiles.write(Path(temporary), train=20, test=1)
        store = PixelStore(data.pixels, read_table(data.samples))
        ensemble = Ensemble(part, weights, machine)
        chosen = [row % len(store) for row in range(ensemble.batch_size(101, 101))]
        images = torch.stack([torch.from_numpy(store.image(row).copy()) for row in chosen])
        networks = [build(part.network, 1, 1).module.to(machine.device).eval() for _ in part.members]
        for network, member in zip(networks, part.members, strict=True):
            network.load_state_dict(load_weights(weights[member.phase], member.member))
            network.to(memory_format=torch.contiguous_format)

    @torch.no_grad()
    def plain() -> torch.Tensor:
        """float32, NCHW, one model and one view at a time."""
        pixels = (images.permute(0, 3, 1, 2).float() / 255 - 0.48) / 0.16
        maps = []
        for network in networks:
            for flipped in (False, True):
                view = pixels.flip(3) if flipped else pixels
                padded = F.pad(view, (13, 14, 13, 14), mode="reflect").contiguous().to(machine.device)
                view_maps = network(padded).sigmoid()[..., 13:114, 13:114]
                maps.append((view_maps.flip(3) if flipped else view_maps).cpu())
        return torch.stack(maps).mean(dim=0)

    def ours() -> torch.Tensor:
        return ensemble.predict(images).cpu()

    difference = (plain() - ours()).abs().mean()
    assert difference < 0.02, f"the two ways differ by {difference:.3f} on average"
    note = (
        f"{MEMBERS} members, 2 views, batch {len(images)}; plain: float32 NCHW, a model and a view at a time; ours: "
        f"{'bf16' if machine.bf16 else 'float32'} channels_last; threads: {torch.get_num_threads()}"
    )
    calls = 20 if machine.compile else 1
    row = compare(f"predict U-Net {ENCODER} scse, 128 px", plain, ours, note, repeats=7, calls=calls)
    rates = {way: len(images) / row[way] * 1e3 for way in ("plain", "ours")}
    return row | rates | {"unit": "images/s"}


def peak() -> float:
    """High-water mark of this process in MiB (ru_maxrss would be the parent's if that was higher)."""
    return int(Path("/proc/self/status").read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) / 1024


def measure_memory(way: str, folder: Path) -> float:
    """MiB that predicting the test split with a small network takes above the imports."""
    machine = configure(Runtime(device="cpu", precision="fp32"), threads=1)
    part, weights = prepare(folder, SMALL)
    samples, pixels, folds = (folder / name for name in ("samples.parquet", "pixels.bin", "folds.parquet"))
    before = peak()
    if way == "ours":
        predict(part, samples, pixels, folds, weights, {"test": folder / "test.parquet"}, machine)
        return peak() - before
    table = read_table(samples)
    store, ensemble = PixelStore(pixels, table), Ensemble(part, weights, machine)
    rows = [row for row, split in enumerate(table["split"].to_pylist()) if split == "test"]
    maps = []
    for _, images in same_size_batches(store, rows, ensemble.batch_size):
        maps.append(ensemble.predict(torch.from_numpy(images)))
    torch.cat(maps)
    return peak() - before


def memory(images: int) -> dict:
    """Each way in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        tiles.write(Path(folder), train=20, test=images)
        megabytes = {}
        for way in ("plain", "ours"):
            command = [sys.executable, "-m", "benchmarks.bench_prediction", way, folder]
            megabytes[way] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return {
        "name": f"predict {images:,} images",
        **megabytes,
        "unit": "MiB",
        "ratio": megabytes["plain"] / megabytes["ours"],
        "note": "peak memory above the imports, give or take 50 MiB, 101 x 101; plain: all maps kept as float32",
    }


# ----------------------------------------------------------------------------------------------- a contest's submission


def blended(recipe: Recipe, stage: str, run: str) -> tuple[PredictPart, int]:
    """The part of a run's prediction with one of its members, and how many members all its folds have."""
    parts = [predict_part(recipe, stage, run, str(fold)) for fold in range(recipe.folds.count)]
    change = {"tta": ["hflip"], "members": parts[0].members[:1]}
    return parts[0].model_copy(update=change), sum(len(part.members) for part in parts)


def seconds_of_run(part: PredictPart, data: tiles.Tiles, folder: Path, machine: Machine) -> dict[str, float]:
    """Seconds of one network over all test tiles and their mirror images, from pixels to a written table.

    And of making it ready, which `ours` does anew.
    """
    member = part.members[0]
    network = build(part.network, 1, 1, member.resize, member.pad, pretrained=False)
    weights = {member.phase: folder / "weights.safetensors"}
    save_weights(weights[member.phase], {member.member: network.module.state_dict()})
    network.to(machine.device, memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    files = sorted((data.raw / "test" / "images").iterdir())

    @torch.no_grad()
    def plain() -> None:
        """float32, NCHW, PNG files decoded for each view, a view at a time; one array is written."""
        size, total = PLAIN_BATCH[machine.device.type], np.zeros((len(files), 101, 101), np.float32)
        for flipped in (False, True):
            for start in range(0, len(files), size):
                read = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in files[start : start + size]]
                images = torch.from_numpy(np.stack(read))[..., None].to(machine.device)
                view = images.flip(2) if flipped else images
                pixels = network.inputs(network.geometry.apply(view.permute(0, 3, 1, 2).float())).contiguous()
                maps = network.geometry.undo(network.module(pixels).sigmoid(), 101, 101)
                total[start : start + size] += (maps.flip(3) if flipped else maps)[:, 0].cpu().numpy() / FLIPS
        np.save(folder / "maps.npy", total)

    def ours() -> None:
        outputs = {"test": folder / "test.parquet"}
        predict(part, data.samples, data.pixels, data.folds, weights, outputs, machine)

    return interleave({"plain": plain, "ours": ours, "ready": lambda: Ensemble(part, weights, machine)}, repeats=1)


def submission(machine: Machine) -> dict:
    """What all networks of the TGS 1st place's submission take for the test tiles."""
    recipe, count = load(RECIPE), MEASURED[machine.device.type]
    seconds, networks = {"plain": 0.0, "ours": 0.0}, 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = tiles.write(folder, train=20, test=count)
        for stage, name in BLENDED:
            part, members = blended(recipe, stage, name)
            networks += members
            taken = seconds_of_run(part, data, folder, machine)
            seconds["plain"] += members * taken["plain"] * TILES / count
            seconds["ours"] += members * (taken["ready"] + (taken["ours"] - taken["ready"]) * TILES / count)
    return {
        "name": f"{TILES:,} tiles x {networks} networks x {FLIPS} flips, TGS 1st",
        **{way: value / 60 for way, value in seconds.items()},
        "unit": "minutes",
        "ratio": seconds["plain"] / seconds["ours"],
        "note": f"scaled from {count:,} tiles and one network of each run, from the store to a written table; plain: "
        f"float32 NCHW, PNG files, a view at a time; ours: {'bf16' if machine.bf16 else 'float32'} channels_last; "
        f"threads: {torch.get_num_threads()}",
    }


def run(gpu: bool) -> Iterator[dict]:
    # all cores, or as many as OMP_NUM_THREADS says
    machine = configure(Runtime(device="cuda" if gpu else "cpu"), threads=torch.get_num_threads())
    yield speed(machine)
    yield submission(machine)
    yield from (memory(images) for images in SPLITS)


if __name__ == "__main__":
    print(json.dumps(measure_memory(sys.argv[1], Path(sys.argv[2]))) if len(sys.argv) > 1 else list(run(gpu=False)))
