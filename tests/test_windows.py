"""Windows of large images: where they lie, how they are weighed, and that they give what whole images give."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stagepipe import windows
from stagepipe.inference import Predictor
from stagepipe.recipe.model import Predict

EDGES = st.integers(1, 40)


class PerPixel:
    """Stands for an ensemble: probabilities of 3 classes from each pixel's own values, two windows a batch."""

    def __init__(self):
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(1, 3, 1)
        self.seen: list[tuple[int, ...]] = []

    device = torch.device("cpu")

    def batch_size(self, height, width):
        return 2

    @torch.inference_mode()
    def predict(self, images):
        self.seen.append(tuple(images.shape))
        return self.convolution(images.permute(0, 3, 1, 2).float() / 40 - 3).softmax(1)


def image(height=31, width=45, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 1), dtype=np.uint8)


def maps_of(how, pixels, ensemble=None):
    ((_, (found,)),) = Predictor(ensemble or PerPixel(), Predict(**how), 3).quantised([(None, pixels[None])])
    return found


WHOLE = {"whole": {}}


@given(EDGES, EDGES, EDGES, EDGES, st.floats(0, 0.99))
def test_windows_cover_the_image_and_stay_in_it(height, width, rows, columns, overlap):
    height, width = max(height, rows), max(width, columns)
    covered = np.zeros((height, width), int)
    places = windows.overlapping((height, width), (rows, columns), overlap)
    for row, column in places:
        assert 0 <= row <= height - rows and 0 <= column <= width - columns
        covered[row : row + rows, column : column + columns] += 1
    assert covered.min() >= 1 and len(set(places)) == len(places)
    for starts, size in ((sorted({row for row, _ in places}), rows), (sorted({c for _, c in places}), columns)):
        assert all(
            after - before <= max(1, size * (1 - overlap) + 1e-6) for before, after in itertools.pairwise(starts)
        )


@given(EDGES, EDGES, st.integers(1, 6))
def test_every_tiling_covers_the_image(edge, tile, grids):
    for grid, places in enumerate(windows.tilings((edge, edge), (tile, tile), grids)):
        rows = sorted({row for row, _ in places})
        covered = np.zeros(edge, int)
        for row in rows:
            covered[max(0, row) : max(0, row + tile)] += 1
        step = max(1, tile // grids)
        if grids <= tile:  # the recipe refuses more
            assert covered.min() >= 1, (grid, rows)
            assert {after - before for before, after in itertools.pairwise(rows)} <= {step * grids}


def test_gaussian_weights():
    weight = windows.gaussian((8, 12))
    assert weight.dtype == torch.float32 and weight.shape == (8, 12)
    torch.testing.assert_close(weight, weight.flip(0, 1))
    expected = np.exp(-(((1 - 3.5) / 2) ** 2 + ((4 - 5.5) / 3) ** 2) / 2)
    assert float(weight[1, 4]) == pytest.approx(expected, rel=1e-6)
    assert weight.min() > 0 and weight.max() < 1


@pytest.mark.parametrize("weight", ["gaussian", "even"])
@pytest.mark.parametrize("size", [16, (20, 45), (40, 64)])
def test_windows_give_what_the_whole_gives_if_pixels_stand_alone(weight, size):
    pixels = image()
    whole = maps_of(WHOLE, pixels).astype(int)
    found = maps_of({"windows": {"size": size, "overlap": 0.4, "weight": weight}}, pixels)
    assert found.shape == whole.shape and np.abs(found - whole).max() <= 1  # the sums are rounded


@pytest.mark.parametrize(("size", "grids"), [(16, 5), ((12, 20), 3), (64, 1)])
def test_votes_of_one_mind(size, grids):
    pixels = image()
    found = maps_of({"voting": {"size": size, "grids": grids}}, pixels)
    assert set(np.unique(found)) == {0, 255}
    assert (found.argmax(0) == maps_of(WHOLE, pixels).argmax(0)).all()


def test_an_image_of_one_window_is_predicted_whole():
    pixels, ensemble = image(16, 16), PerPixel()
    assert (maps_of({"windows": {"size": 16, "weight": "even"}}, pixels, ensemble) == maps_of(WHOLE, pixels)).all()
    assert ensemble.seen == [(1, 16, 16, 1)]


def test_windows_go_in_batches():
    ensemble = PerPixel()
    maps_of({"windows": {"size": 16, "overlap": 0.0}}, image(32, 48), ensemble)
    assert ensemble.seen == [(2, 16, 16, 1)] * 3


class OfItsPlace(PerPixel):
    """Probabilities that depend on where in the window a pixel lies."""

    @torch.inference_mode()
    def predict(self, images):
        rows = torch.arange(images.shape[1]).view(1, -1, 1)
        label = (images[..., 0].long() // 32 + rows // 5) % 3
        return nn.functional.one_hot(label, 3).permute(0, 3, 1, 2).float()


def published_votes(pixels, size, grids):
    """Shifted tilings in the words of the write-up: a border of a tile, labels tile by tile, the mode of all maps."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((size, size), (size, size), (0, 0)), mode="edge")
    step = size // grids
    starts = [list(range(0, edge + size + 1, step)) for edge in (height, width)]
    maps = []
    for grid in range(grids):
        labels = np.zeros(padded.shape[:2], np.uint8)
        for y in starts[0][grid::grids]:
            for x in starts[1][grid::grids]:
                tile = padded[y : y + size, x : x + size]
                label = OfItsPlace().predict(torch.from_numpy(tile[None]))[0].argmax(0).numpy()
                labels[y : y + size, x : x + size] = label
        maps.append(labels[size : size + height, size : size + width])
    votes = np.stack([np.sum([labels == index for labels in maps], axis=0) for index in range(3)])
    return votes


@pytest.mark.parametrize(("size", "grids"), [(16, 5), (15, 4)])
def test_votes_are_counted_as_published(size, grids):
    pixels = image(37, 29)
    votes = published_votes(pixels, size, grids)
    found = maps_of({"voting": {"size": size, "grids": grids}}, pixels, OfItsPlace())
    assert (found == np.floor(votes / grids * 255 + 0.5)).all()
    assert len(np.unique(votes)) > 1


def test_overlapping_windows_are_averaged_by_their_weights():
    """Two windows of 4 columns, of which the middle two are common to both."""
    pixels = np.zeros((4, 6, 1), np.uint8)

    class Constant(PerPixel):
        @torch.inference_mode()
        def predict(self, images):
            self.seen.append(tuple(images.shape))
            share = torch.tensor([0.2, 0.8])[: len(images)].view(-1, 1, 1, 1)
            return torch.cat([share, 1 - share, 0 * share], dim=1).expand(-1, -1, 4, 4).contiguous()

    even = maps_of({"windows": {"size": 4, "overlap": 0.5, "weight": "even"}}, pixels, Constant())
    assert even[0, 0].tolist() == [51, 51, 128, 128, 204, 204]
    weight = windows.gaussian((4, 4))[0]
    third = float((0.2 * weight[2] + 0.8 * weight[0]) / (weight[2] + weight[0]))
    gaussian = maps_of({"windows": {"size": 4, "overlap": 0.5}}, pixels, Constant())
    assert gaussian[0, 0, 2] == int(third * 255 + 0.5) and third < 0.5


@pytest.mark.parametrize(("size", "overlap"), [((16, 12), 0.6), ((7, 9), 0.3), ((8, 8), 0.0), ((40, 10), 0.5)])
def test_bands_give_the_mean_of_all_windows(size, overlap):
    """The means leave band by band; here they are of sums over the whole image, in float64."""
    height, width = 37, 29
    random = np.random.default_rng(0)
    shape = max(height, size[0]), max(width, size[1])
    found = [
        (place, torch.from_numpy(random.random((2, *size), np.float32)))
        for place in windows.overlapping(shape, size, overlap)
    ]
    weight = windows.gaussian(size)
    total, weights = np.zeros((2, *shape)), np.zeros(shape)
    for (row, column), maps in found:
        total[:, row : row + size[0], column : column + size[1]] += (maps * weight).numpy()
        weights[row : row + size[0], column : column + size[1]] += weight.numpy()
    bands = [(rows, means.clone()) for rows, means in windows.weighted_means(iter(found), weight, (2, shape[1]))]
    assert [rows.start for rows, _ in bands] == sorted({row for (row, _), _ in found})
    means = torch.cat([means for _, means in bands], dim=1)
    torch.testing.assert_close(means, torch.from_numpy(total / weights).float())


@given(EDGES, EDGES, EDGES, EDGES)
def test_a_border_is_cut_off_again(height, width, rows, columns):
    pixels = image(height, width)
    whole = windows.padded(pixels, (rows, columns))
    assert whole.shape == (max(height, rows), max(width, columns), 1)
    assert (windows.unpadded(whole.transpose(2, 0, 1), (height, width)) == pixels.transpose(2, 0, 1)).all()
