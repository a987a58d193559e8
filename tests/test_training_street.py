"""Training on windows of images with several classes: what is trained on, what the score says, what the losses get."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import tiny
import torch
import torch.nn.functional as F
from data_layouts import picture, save, street
from torch import nn

from stagepipe import losses
from stagepipe.artefacts import write_table
from stagepipe.data.training import select
from stagepipe.device_metrics import batch_counts
from stagepipe.errors import RecipeError
from stagepipe.networks import Geometry, SegmentationNetwork
from stagepipe.networks.inputs import InputChannels
from stagepipe.recipe.model import Normalise, Pad
from stagepipe.tables import PSEUDOLABELS
from stagepipe.training import start
from stagepipe.training.loss import phase_loss

CLASSES = ("road", "car", "tree", "signal")
HEIGHT, WIDTH = 32, 40


def mask_of(number: int) -> np.ndarray:
    """Road with what differs from image to image: no signal in most, no car in every third, a part to be ignored."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[: 4 + number, :12] = 2
    mask[20:22, 30:33] = 1 if number % 3 else 0
    mask[0, 39] = 3 if number % 4 == 0 else 0
    mask[28:, :20] = 255
    return mask


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("street")
    for number in range(10):
        image = np.dstack([picture(number, size=WIDTH)[:HEIGHT, :, :2], mask_of(number) % 255 * 60])
        save(root / f"raw/train/images/s{number}.png", image)
        save(root / f"raw/train/masks/s{number}.png", mask_of(number))
    save(root / "raw/test/images/t.png", picture(99, size=WIDTH)[:HEIGHT])
    return tiny.from_raw(root, street(classes=list(CLASSES), ignore_index=255), root / "raw")


def part(evaluated=(), **phase):
    keys = {"loss": "cross_entropy", "augment": "street", "ignore_index": 255, "batch": 2} | phase
    return tiny.part(classes=CLASSES, **keys).model_copy(update={"evaluated": list(evaluated)})


CROP = {"size": [16, 24], "class_aware": 0.5}

# ------------------------------------------------------------------------------------------------------------- windows


def test_a_phase_trains_on_windows_and_is_validated_on_whole_images(data, tmp_path, monkeypatch):
    trainer = tiny.trainer(tmp_path, data, part(crop=CROP, epochs=1))
    seen, heads = [], trainer.network.heads

    def watched(images):
        seen.append((trainer.network.training, tuple(images.shape)))
        return heads(images)

    trainer.replica.forward = trainer.forward = watched
    trainer.run()
    assert seen[:2] == [(True, (2, 16, 24, 3))] * 2
    assert seen[2:] == [(False, (1, HEIGHT, WIDTH, 3))] * 5
    assert trainer.progress.history[0][5] == 4


def test_windows_are_of_the_same_bits_for_any_number_of_workers(data, tmp_path):
    runs = [tiny.train(tmp_path / str(workers), data, part(crop=CROP), workers) for workers in (0, 2)]
    assert runs[0].bits() == runs[1].bits() and runs[0].losses() == runs[1].losses()
    other = tiny.train(tmp_path / "whole", data, part())
    assert other.losses() != runs[0].losses()


def test_rare_classes_are_found(data, tmp_path):
    shares = {}
    for aware in (0.0, 1.0):
        trainer = tiny.trainer(tmp_path / str(aware), data, part(crop={"size": [8, 8], "class_aware": aware}))
        masks = [trainer.samples[epoch, 0, index][1] for epoch in range(40) for index in range(4)]
        assert {mask.shape for mask in masks} == {(8, 8)}
        shares[aware] = np.mean([(mask == 1).any() for mask in masks])
    assert shares[1.0] > 0.08 + shares[0.0]


@pytest.mark.parametrize("size", [[40, 16], [16, 48]])
def test_an_image_smaller_than_the_window_is_named_before_training(size, data, tmp_path):
    message = rf"phase.crop: size \[{size[0]}, {size[1]}\] is larger than s\d, 32 x 40; write a size that fits"
    with pytest.raises(RecipeError, match=message):
        tiny.trainer(tmp_path, data, part(crop={"size": size}))


@pytest.mark.parametrize(("batch", "size", "images"), [(2, (16, 24), 1), (8, (16, 24), 2), (8, (8, 8), 1)])
def test_a_batch_of_whole_images_has_the_pixels_of_one_of_windows(batch, size, images, data, tmp_path):
    trainer = tiny.trainer(tmp_path, data, part(crop={"size": size}, batch=batch))
    assert trainer.validator._batch(HEIGHT, WIDTH) == images
    assert tiny.trainer(tmp_path, data, part(batch=batch)).validator._batch(HEIGHT, WIDTH) == batch


# -------------------------------------------------------------------------------------------------------- pseudolabels


@pytest.mark.parametrize(("ignored", "foreground"), [(255, 7 + 40), (2, 7 + 100), (0, 7 + 40 + 100)])
def test_unsure_pixels_of_a_pseudolabel_are_no_foreground(ignored, foreground, data, tmp_path):
    row = {"sample_id": "t", "confidence": 1.0, "source": "before", "folds": [0, 1], "height": HEIGHT, "width": WIDTH}
    runs = {"lengths": [HEIGHT * WIDTH - 147, 40, 7, 100], "values": [0, 2, 1, 255]}
    path = tmp_path / "pseudolabels.parquet"
    write_table(path, pa.Table.from_pylist([row | runs], schema=PSEUDOLABELS))
    of = part(data="pseudolabels", ignore_index=ignored)
    (item,) = select(of, data.table, data.folds, path).training
    assert item.foreground == foreground


# -------------------------------------------------------------------------------------------------------------- scores


def mistaken(index):
    """Classes [..., H, W] where every fifth column is road, and a few pixels a signal."""
    index[..., ::5] = 0
    index[..., 1::9, 1::7] = 3
    return index


class Answers(nn.Module):
    """Says the class that the red of a pixel tells, as the images of `data` do, with some mistakes."""

    requires_divisible_input_shape = False
    divisor = 1

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 1, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        index = mistaken((pixels[:, 0] * 255 / 60).round().long())
        return F.one_hot(index, 4).permute(0, 3, 1, 2).float() * 5


@pytest.fixture
def answers(monkeypatch):
    """Let every trainer have the network that knows the answers."""

    def build(*_, **__):
        inputs = InputChannels(["image"], Normalise(mean=[0.0], std=[1.0]), 3)
        return SegmentationNetwork(Answers(), Geometry(single_class=False), inputs, 3)

    monkeypatch.setattr(start, "build", build)


def by_hand(trainer, monitor: str, scored: list[int], ignored: int) -> float:
    """The score by its definition, image by image and class by class."""
    scores, sums = [], np.zeros((4, 2))
    for row in trainer.validator.rows:
        truth = trainer.store.mask(row)
        index = mistaken(np.rint(trainer.store.image(row)[..., 0] / 60).astype(int))
        ious = {}
        for number in scored:
            one, other = (truth == number)[truth != ignored], (index == number)[truth != ignored]
            sums[number] += (one & other).sum(), (one | other).sum()
            if one.any() or (other.any() and monitor == "iou"):
                ious[number] = (one & other).sum() / (one | other).sum()
        if ious or monitor == "iou":
            scores.append(np.mean(list(ious.values())) if ious else 1.0)
    if monitor == "dataset_iou":
        return float(np.mean([shared / union for shared, union in sums[scored] if union]))
    return float(np.mean(scores)) if scores else 0.0


@pytest.mark.parametrize("monitor", ["iou", "truth_iou", "dataset_iou"])
@pytest.mark.parametrize(
    ("evaluated", "scored", "ignored"),
    [
        ((), [0, 1, 2, 3], 255),
        (("car", "signal"), [1, 3], 255),
        (("signal",), [3], 255),
        ((), [1, 2, 3], 0),  # one of the classes is what doesn't count
    ],
)
def test_the_score_is_that_of_its_definition(monitor, evaluated, scored, ignored, data, tmp_path, answers, monkeypatch):
    of = part(evaluated, monitor=monitor, ignore_index=ignored, crop={"size": [8, 8]})
    trainer = tiny.trainer(tmp_path, data, of)
    if ignored == 0:
        stored = trainer.store.mask
        monkeypatch.setattr(trainer.store, "mask", lambda row: np.where(stored(row) == 255, 0, stored(row)))
    found = trainer.validate().score
    assert found == pytest.approx(by_hand(trainer, monitor, scored, ignored), abs=1e-12)
    assert 0 < found < 1


def test_images_whose_truth_has_no_scored_class_do_not_count(data, tmp_path, answers):
    trainer = tiny.trainer(tmp_path, data, part(("signal",), monitor="truth_iou"))
    counts = np.zeros((3, 4, 3), np.int64)
    counts[0, 3] = (1, 2, 3)  # 1 of 4 pixels
    counts[1, 3] = (0, 0, 9)
    counts[1:, 0] = 100
    assert trainer.validator._score(counts, np.full(3, 100)).score == 0.25
    assert trainer.validator._score(counts[1:], np.full(2, 100)).score == 0


# -------------------------------------------------------------------------------------------------------------- counts


def class_by_class(probabilities, target, ignore_index) -> torch.Tensor:
    """What `batch_counts` says, one class after the other."""
    predicted = probabilities.argmax(dim=1)
    valid = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    counts = []
    for index in range(probabilities.shape[1]):
        wanted, found = (target == index) & valid, (predicted == index) & valid
        counts.append(torch.stack([mask.sum(dim=(1, 2)) for mask in (wanted & found, wanted, found)], dim=1))
    return torch.stack(counts, dim=1)


def street_batch(ignore_index: int | None, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities of twenty classes and a target that lacks eight of them."""
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(3, 20, 37, 23, generator=generator).softmax(dim=1)
    target = torch.randint(0, 12, (3, 37, 23), generator=generator).to(dtype)
    target[0] = 7
    target[1, :5] = 19
    if ignore_index is not None:
        target[:, 3:9, ::2] = ignore_index
        target[2] = ignore_index
    return probabilities, target


@pytest.mark.parametrize("ignore_index", [None, 0, 19, 20, 255])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_counts_of_many_classes_are_those_of_each(ignore_index, dtype):
    probabilities, target = street_batch(ignore_index, dtype)
    counts = batch_counts(probabilities, target, 0.5, ignore_index)
    assert counts.dtype == torch.int64 and counts.shape == (3, 20, 3)
    assert torch.equal(counts, class_by_class(probabilities, target, ignore_index))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_the_host_does_not_wait_for_counts():
    probabilities, target = street_batch(19, torch.uint8)
    on_device = probabilities.cuda(), target.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        counts = batch_counts(*on_device, 0.5, 19)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(counts.cpu(), class_by_class(probabilities, target, 19))


# -------------------------------------------------------------------------------------------------------------- losses


def on_grid(single: bool) -> SimpleNamespace:
    """What `phase_loss` asks of a network."""
    return SimpleNamespace(geometry=Geometry(pad=Pad(to=(20, 20), mode="zero"), single_class=single))


def test_a_further_head_has_the_target_of_the_main_one_and_ignores_what_it_ignores():
    of = part(loss={"cross_entropy": 1}, deep_supervision={"auxiliary": {"cross_entropy": 0.4}})
    generator = torch.Generator().manual_seed(0)
    heads = {name: torch.randn(2, 4, 20, 20, generator=generator) for name in ("logits", "auxiliary")}
    masks = torch.randint(0, 4, (2, 16, 16), generator=generator).to(torch.uint8)
    masks[:, 4:9] = 255
    target = F.pad(masks.long(), (2, 2, 2, 2), value=255)
    main, further = (F.cross_entropy(heads[name], target, ignore_index=255) for name in ("logits", "auxiliary"))
    torch.testing.assert_close(phase_loss(of, on_grid(False), heads, masks), main + 0.4 * further)


def test_a_further_head_of_a_single_class_has_its_mask():
    of = tiny.part(loss="bce", deep_supervision={"auxiliary": {"bce": 0.4}})
    generator = torch.Generator().manual_seed(0)
    heads = {name: torch.randn(2, 1, 20, 20, generator=generator) for name in ("logits", "auxiliary")}
    masks = torch.randint(0, 2, (2, 16, 16), generator=generator).to(torch.uint8)
    target = F.pad(masks.float(), (2, 2, 2, 2))
    main, further = (F.binary_cross_entropy_with_logits(heads[name][:, 0], target) for name in ("logits", "auxiliary"))
    torch.testing.assert_close(phase_loss(of, on_grid(True), heads, masks), main + 0.4 * further)


def test_class_weights_of_the_recipe_reach_the_loss():
    of = part(loss={"cross_entropy": {"class_weights": {"car": 3, "signal": 0}}})
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 20, 20, generator=generator)
    masks = torch.randint(0, 4, (2, 20, 20), generator=generator).to(torch.uint8)
    expected = F.cross_entropy(logits, masks.long(), weight=torch.tensor([1.0, 3, 1, 0]), ignore_index=255)
    torch.testing.assert_close(phase_loss(of, on_grid(False), {"logits": logits}, masks), expected)


def test_what_losses_need_is_loaded_before_any_training(data, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(losses, "prepare", lambda terms, device: asked.append((sorted(terms), device.type)))
    tiny.trainer(tmp_path, data, part(loss={"cross_entropy": 1, "dice": 1}))
    assert asked == [(["cross_entropy", "dice"], "cpu")]
