"""Prediction: views, members and batches in one pass give what one image, one view and one member at a time give."""

import itertools

import cv2
import numpy as np
import pyarrow as pa
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from stagepipe import members, metrics
from stagepipe.artefacts import load_weights, read_table, save_weights, write_table
from stagepipe.errors import RecipeError, TrainingError
from stagepipe.inference import Predictor, predict
from stagepipe.members import Ensemble
from stagepipe.networks import SegmentationNetwork, build
from stagepipe.probabilities import iterate
from stagepipe.recipe.model import Dataset, Network, Pad, Predict
from stagepipe.recipe.parts import MemberPart, PredictPart
from stagepipe.views import View, views

ALL = ["hflip", "vflip", "rot90"]
NETWORK = tiny.network(resize=[40, 24], pad=Pad(to=[48, 32]))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.survey(tmp_path_factory.mktemp("data"), train=10, test=5)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Two phases with different random weights, the first with two members."""
    folder = tmp_path_factory.mktemp("weights")
    paths = {}
    for phase, count in (("one", 2), ("two", 1)):
        members = {}
        for member in range(count):
            torch.manual_seed(len(paths) * 10 + member)
            members[str(member)] = build(NETWORK, 1, 1).module.state_dict()
            members[str(member)]["segmentation_head.0.weight"] *= 30  # a fresh head gives one half everywhere
        paths[phase] = folder / f"{phase}.safetensors"
        save_weights(paths[phase], members)
    return paths


MEMBERS = [
    MemberPart(phase="one", member="0", weight=1),
    MemberPart(phase="one", member="1", weight=1),
    MemberPart(phase="two", member="0", weight=2, resize=(32, 32), pad=Pad(to=(32, 32))),
]


def part(tta: list[str], members: list[MemberPart] = MEMBERS, **changes: object) -> PredictPart:
    keys = {"stage": "stage", "run": "run", "fold": "0", "classes": ["salt"], "stored_channels": 1, "network": NETWORK}
    return PredictPart(members=members, tta=tta, **(keys | changes))


def network_of(paths, member: MemberPart) -> SegmentationNetwork:
    network = build(NETWORK, 1, 1, member.resize, member.pad, pretrained=False)
    network.module.load_state_dict(load_weights(paths[member.phase], member.member))
    return network.eval()


def of_one_view(network: SegmentationNetwork, image: np.ndarray, view: View) -> np.ndarray:
    """Probabilities [C, H, W] of one image [H, W, K] and view, by NumPy's flips."""
    turned = image[::-1] if view.vertical else image
    turned = turned[:, ::-1] if view.horizontal else turned
    turned = np.rot90(turned, view.turns)
    with torch.no_grad():
        logits = network(torch.from_numpy(turned.copy())[None])
        maps = network.geometry.undo(logits.sigmoid(), *turned.shape[:2])[0].numpy()
    maps = np.rot90(maps, -view.turns, (1, 2))
    maps = maps[:, :, ::-1] if view.horizontal else maps
    return maps[:, ::-1] if view.vertical else maps


def reference(paths, images: list[np.ndarray], tta: list[str]) -> list[np.ndarray]:
    """Probabilities [C, H, W] of each image, one view and member at a time."""
    networks = [network_of(paths, member) for member in MEMBERS]
    means = [
        [np.mean([of_one_view(n, image, view) for view in views(tta)], axis=0) for n in networks] for image in images
    ]
    return [(first + second + 2 * third) / 4 for first, second, third in means]


# --------------------------------------------------------------------------------------------------------------- views


def test_which_views():
    assert views([]) == [View()]
    assert views(["hflip"]) == [View(), View(horizontal=True)]
    assert len(views(["hflip", "vflip"])) == 4
    assert len(set(views(ALL))) == 8


@given(st.integers(1, 6), st.integers(1, 6))
def test_a_view_is_undone_exactly(height, width):
    images = torch.arange(2 * height * width * 3).reshape(2, height, width, 3)
    for view in views(ALL):
        turned = view.apply(images)
        assert torch.equal(view.undo(turned.permute(0, 3, 1, 2)), images.permute(0, 3, 1, 2))
        assert sorted(turned.flatten().tolist()) == list(range(images.numel()))


def test_eight_views_are_the_eight_symmetries_of_a_square():
    square = torch.arange(4).reshape(1, 2, 2, 1)
    assert len({tuple(view.apply(square).flatten().tolist()) for view in views(ALL)}) == 8


# ------------------------------------------------------------------------------------------------------------ ensemble


@pytest.mark.parametrize("tta", [[], ["hflip"], ALL])
@pytest.mark.parametrize("size", [(32, 32), (20, 28)])
def test_stacked_views_and_weighted_members_equal_one_at_a_time(tta, size, weights):
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 1), dtype=np.uint8)
    found = Ensemble(part(tta), weights, tiny.machine()).predict(torch.from_numpy(images))
    assert (found.dtype, found.shape) == (torch.float32, (3, 1, *size))
    assert np.abs(found.numpy() - reference(weights, list(images), tta)).max() < 2e-6
    assert found.std() > 0.02


def test_a_members_weight_is_its_share(weights):
    images = torch.randint(0, 256, (1, 32, 32, 1), dtype=torch.uint8)

    def maps(*shares: float) -> torch.Tensor:
        members = [member.model_copy(update={"weight": share}) for member, share in zip(MEMBERS, shares, strict=False)]
        return Ensemble(part([], members), weights, tiny.machine()).predict(images)

    expected = 0.75 * maps(1) + 0.25 * Ensemble(part([], MEMBERS[1:2]), weights, tiny.machine()).predict(images)
    torch.testing.assert_close(maps(3, 1), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(maps(0.3, 0.1), maps(3, 1), rtol=0, atol=1e-6)


# -------------------------------------------------------------------------------------------------------------- tables


def predicted(folder, data, paths, of: PredictPart) -> dict[str, list[tuple[str, np.ndarray]]]:
    outputs = {name: folder / f"{name}.parquet" for name in ("out_of_fold", "test")}
    predict(of, data.samples, data.pixels, data.folds, paths, outputs, tiny.machine())
    return {name: [(key, value.copy()) for key, value in iterate(path)] for name, path in outputs.items()}


def test_tables_hold_their_samples_in_order_with_rounded_values(data, weights, tmp_path):
    tables = predicted(tmp_path, data, weights, part(["hflip"], fold="1"))
    folds, rows = data.fold_of(), data.table.to_pylist()
    assert [key for key, _ in tables["out_of_fold"]] == sorted(key for key, fold in folds.items() if fold == 1)
    assert [key for key, _ in tables["test"]] == sorted(row["sample_id"] for row in rows if row["split"] == "test")
    number = {row["sample_id"]: index for index, row in enumerate(rows)}
    maps = dict(itertools.chain(*tables.values()))
    exact = reference(weights, [data.store.image(number[key]) for key in maps], ["hflip"])
    # A batch sums in another order than an image alone: only next to a half may they round apart.
    assert np.abs(np.stack(list(maps.values())) - 255 * np.stack(exact)).max() <= 0.5 + 1e-3


def test_black_images_are_empty_where_the_run_says_so(data, weights, tmp_path):
    rows = data.table.to_pylist()
    black = {row["sample_id"] for row in rows[::3]}
    changed = tiny.Data(tmp_path / "samples.parquet", data.pixels, data.folds)
    table = pa.Table.from_pylist([row | {"black": row["sample_id"] in black} for row in rows], data.table.schema)
    write_table(changed.samples, table)
    found = {}
    for name, kept in (("plain", False), ("emptied", True)):
        (tmp_path / name).mkdir()
        of = part([], MEMBERS[:1]).model_copy(update={"black_is_empty": kept})
        found[name] = dict(itertools.chain(*predicted(tmp_path / name, changed, weights, of).values()))
    assert black & set(found["plain"]) and all(found["plain"][name].any() for name in found["plain"])
    for name, maps in found["emptied"].items():
        assert np.array_equal(maps, np.zeros_like(maps) if name in black else found["plain"][name])


@pytest.mark.parametrize("tta", [[], ["hflip", "vflip"]])
def test_windows_go_through_every_member_and_view_as_they_are(tta, weights):
    """The members' resize and pad are of whole images; here the right half of a column of two windows counts twice."""
    image = np.random.default_rng(2).integers(0, 256, (32, 48, 1), dtype=np.uint8)
    how = Predict(windows={"size": 32, "overlap": 0.5, "weight": "even"})
    ensemble = Ensemble(part(tta, predict=how), weights, tiny.machine())
    ((_, (found,)),) = Predictor(ensemble, how, 1).quantised([(None, image[None])])
    total, seen = np.zeros((1, 32, 48)), np.zeros(48)
    networks = [build(NETWORK, 1, 1, None, None, pretrained=False) for _ in MEMBERS]
    for network, member in zip(networks, MEMBERS, strict=True):
        network.module.load_state_dict(load_weights(weights[member.phase], member.member))
        for left, view in itertools.product((0, 16), views(tta)):
            of_view = of_one_view(network.eval(), image[:, left : left + 32], view)
            total[..., left : left + 32] += of_view * member.weight / 4 / len(views(tta))
    for left in (0, 16):
        seen[left : left + 32] += 1
    assert np.abs(found - np.floor(total / seen * 255 + 0.5)).max() <= 1
    assert found.std() > 2


def test_every_sample_is_out_of_fold_once_but_those_that_always_train(data, weights, tmp_path):
    split = read_table(data.folds).to_pylist()
    split[0] |= {"always_train": True}
    split[3] |= {"always_train": True, "fold": -1}
    write_table(tmp_path / "folds.parquet", pa.Table.from_pylist(split, schema=read_table(data.folds).schema))
    changed = tiny.Data(data.samples, data.pixels, tmp_path / "folds.parquet")
    ids = []
    for fold in ("0", "1"):
        (tmp_path / fold).mkdir()
        tables = predicted(tmp_path / fold, changed, weights, part([], MEMBERS[:1], fold=fold))
        ids += [key for key, _ in tables["out_of_fold"]]
    assert sorted(ids) == sorted(row["sample_id"] for row in split if not row["always_train"])


def test_weights_that_are_no_numbers_are_an_error(data, weights, tmp_path):
    broken = load_weights(weights["two"], "0")
    broken["segmentation_head.0.bias"][:] = float("nan")
    save_weights(tmp_path / "broken.safetensors", {"0": broken})
    with pytest.raises(
        TrainingError, match="stage/run fold 0 out_of_fold: the network gives values that are no numbers"
    ):
        predicted(tmp_path, data, weights | {"two": tmp_path / "broken.safetensors"}, part([]))
    assert not (tmp_path / "out_of_fold.parquet").exists()


# -------------------------------------------------------------------------------------- several classes, several sizes

CLASSES = ("road", "car", "tree")
STREET = Network(
    architecture="unet",
    encoder="tu-test_resnet",
    arguments={"encoder_depth": 3, "decoder_channels": [16, 16, 16]},
    normalise="imagenet",
)


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """RGB images of two sizes whose colour is their class, with a border that is ignored."""
    folder = tmp_path_factory.mktemp("street")
    random = np.random.default_rng(0)
    colours = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220]])
    for number in range(20):
        size = (32, 48) if number % 4 < 2 else (40, 32)
        mask = np.full(size, number % 3, np.uint8)
        top, left = random.integers(0, 20, 2)
        mask[top : top + 16, left : left + 12] = (number + 1) % 3
        image = np.clip(colours[mask] + random.normal(0, 20, (*size, 3)), 0, 255).astype(np.uint8)
        split = "train" if number < 16 else "test"
        for name in ("images", "masks")[: 2 if split == "train" else 1]:
            path = folder / "raw" / split / name / f"i{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            mask[:2] = 255
            cv2.imwrite(str(path), image[..., ::-1] if name == "images" else mask)
    dataset = Dataset(format="folder", root="raw", classes=list(CLASSES), ignore_index=255, channels="rgb")
    return tiny.from_raw(folder, dataset, folder / "raw")


def test_several_classes_and_sizes_train_and_predict(street, tmp_path, monkeypatch):
    crop = [{"name": "RandomCrop", "arguments": {"height": 32, "width": 32}}]
    phase = tiny.part(
        classes=CLASSES, ignore_index=255, network=STREET, augment=crop, epochs=12, lr=2e-2, schedule="one_cycle",
        loss={"cross_entropy": 1, "dice": 0.5},
    )  # fmt: skip
    done = tiny.train(tmp_path, street, phase)
    assert max(row["score"] for row in done.history) > 0.8
    seen = []
    original = Ensemble.predict
    monkeypatch.setattr(Ensemble, "predict", lambda self, images: seen.append(images.shape) or original(self, images))
    monkeypatch.setitem(members.PIXELS_PER_BATCH, "cpu", 2 * 40 * 48 * 4)
    one = [MemberPart(phase="phase", member="0", weight=1)]
    of = part(ALL, one, classes=list(CLASSES), stored_channels=3, network=STREET)
    tables = predicted(tmp_path, street, {"phase": done.weights}, of)
    # Neighbours of one size go together, as many as the budget holds with all their views.
    assert {shape[1:3] for shape in seen} == {(32, 48), (40, 32)}
    assert max(shape[0] for shape in seen) == 1 and sum(shape[0] for shape in seen) == 8 + 4
    rows = {row["sample_id"]: index for index, row in enumerate(street.table.to_pylist())}
    scores = []
    for key, quantised in tables["out_of_fold"]:
        truth = street.store.mask(rows[key])
        assert quantised.shape == (3, *truth.shape)
        assert np.abs(quantised.sum(axis=0, dtype=int) - 255).max() <= 2
        counts = metrics.intersections(truth, quantised.argmax(axis=0).astype(np.uint8), 3, 255)
        scores.append(metrics.scores(counts[None])["iou"][0])
    assert np.mean(scores) > 0.8
    assert [key for key, _ in tables["test"]] == [f"i{number}" for number in range(16, 20)]


def test_a_window_that_the_network_cannot_take():
    how = Predict(voting={"size": [32, 41], "grids": 2})
    strict = STREET.model_copy(update={"architecture": "unetplusplus"})
    of = part([], MEMBERS[:1], stored_channels=3, network=strict, predict=how)
    with pytest.raises(RecipeError, match=r"divisible by 8, predict.voting.size is 32 x 41; write `size: \[32, 48\]`"):
        Ensemble(of, {}, tiny.machine())
