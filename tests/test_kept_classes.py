"""What tables of many classes keep, and pseudolabels whose unsure pixels don't count."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stagepipe import ensemble, probabilities
from stagepipe.artefacts import read_table, save_weights
from stagepipe.networks import build
from stagepipe.probabilities import ProbabilityWriter, iterate, keep_most_probable, most_probable
from stagepipe.pseudolabels import select
from stagepipe.recipe.model import Network, Pseudolabels
from stagepipe.rle import decode_runs

MAPS = arrays.arrays(np.uint8, st.tuples(st.integers(2, 6), st.integers(1, 4), st.integers(1, 5)))


@given(MAPS)
def test_the_most_probable_class_is_the_first_of_equals(maps):
    assert (most_probable(maps) == maps.argmax(axis=0)).all()


def test_255_classes():
    maps = np.zeros((255, 1, 3), np.uint8)
    maps[254, 0, 1], maps[[3, 200], 0, 2] = 1, 9
    assert most_probable(maps).tolist() == [[0, 254, 3]]


@given(MAPS, st.integers(1, 7))
def test_what_is_kept(maps, count):
    kept = keep_most_probable(maps, count)
    for pixel in np.ndindex(maps.shape[1:]):
        values = maps[(slice(None), *pixel)].tolist()
        order = sorted(range(len(values)), key=lambda index: (-values[index], index))[:count]
        assert kept[(slice(None), *pixel)].tolist() == [v if i in order else 0 for i, v in enumerate(values)]
    assert (most_probable(kept) == most_probable(maps)).all()


def test_blocks_make_no_difference(monkeypatch):
    maps = np.random.default_rng(0).integers(0, 9, (5, 13, 7), dtype=np.uint8)
    whole = keep_most_probable(maps, 2)
    monkeypatch.setattr(probabilities, "BLOCK", 8)
    assert (keep_most_probable(maps, 2) == whole).all()
    assert keep_most_probable(maps, None) is maps


def test_averages_keep_as_many(tmp_path):
    random = np.random.default_rng(1)
    tables = []
    for number in range(2):
        tables.append([tmp_path / f"{number}.parquet"])
        with ProbabilityWriter(tables[-1][0]) as writer:
            writer.add_quantised("a", random.integers(0, 256, (4, 3, 3), dtype=np.uint8))
    ((_, mean),) = ensemble.average(tables, [1, 1])
    ensemble.write(tmp_path / "mean.parquet", ensemble.average(tables, [1, 1]), 2)
    ((_, kept),) = iterate(tmp_path / "mean.parquet")
    assert (kept == keep_most_probable(mean, 2)).all() and (kept > 0).sum(axis=0).max() == 2


def test_unsure_pixels_of_pseudolabels_get_the_ignore_index(tmp_path):
    maps = np.array([[[255, 120, 10]], [[0, 130, 40]], [[0, 0, 205]]], np.uint8)
    spec = Pseudolabels(stage="s", keep="all", high=0.8)
    masks = []
    for ignore_index in (None, 255):
        path = tmp_path / f"{ignore_index}.parquet"
        select({(0, 1): lambda: iter([("a", maps)])}, spec, set(), 2, 0, path, ignore_index=ignore_index)
        (row,) = read_table(path).to_pylist()
        masks.append(decode_runs(row["lengths"], row["values"], row["height"], row["width"]).tolist())
        assert row["confidence"] == pytest.approx(2 / 3)
    assert masks == [[[0, 1, 2]], [[0, 255, 2]]]


MEASURE = """
from pathlib import Path
import numpy as np, torch
from stagepipe.inference import Predictor
from stagepipe.members import Ensemble
from stagepipe.recipe.model import Network, Predict, Runtime
from stagepipe.recipe.parts import MemberPart, PredictPart
from stagepipe.runtime import configure

machine = configure(Runtime(device="cpu", compile=False), threads=1)
network = Network(architecture="street_unet", encoder="resnet34", normalise="imagenet")
part = PredictPart(
    stage="stage", run="run", fold="0", classes=[str(index) for index in range(20)], stored_channels=3,
    network=network, members=[MemberPart(phase="phase", member="0", weight=1)],
    predict=Predict(windows={"size": 256, "overlap": 0.2}), kept_classes=3,
)
predictor = Predictor(Ensemble(part, {"phase": Path("weights.safetensors")}, machine), part.predict, 20)
image = np.random.default_rng(0).integers(0, 256, (1, 1216, 1936, 3), dtype=np.uint8)
((_, (quantised,)),) = predictor.quantised([(None, image)])
assert quantised.shape == (20, 1216, 1936) and quantised.sum(axis=0, dtype=int).min() > 240
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc for the peak of a process's memory")
def test_a_large_image_of_20_classes_takes_less_than_1500_mb(tmp_path):
    """Windows of 256 over 1936 x 1216 with the network of the Signate street scenes, all of the process counted."""
    network = Network(architecture="street_unet", encoder="resnet34", normalise="imagenet")
    save_weights(tmp_path / "weights.safetensors", {"0": build(network, 20, 3, pretrained=False).module.state_dict()})
    command = [sys.executable, "-c", MEASURE]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, check=True, capture_output=True, text=True)
    assert int(done.stdout) * 1024 < 1.5e9
