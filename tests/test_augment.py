import multiprocessing
import pickle

import albumentations
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagepipe.augment import Augmentation, CropAndStretch, HorizontalShear
from stagepipe.augmentation_lists import NAMED, SIIM, TGS_5TH, TGS_BES, TGS_PHALANX
from stagepipe.errors import RecipeError
from stagepipe.recipe.model import AUGMENTATIONS, Transform
from stagepipe.seeding import key

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (101, 101, 1), dtype=np.uint8)
GRAYS = np.array([[[0], [100], [255]]], np.uint8)
MASK = (cv2.GaussianBlur(RNG.random((101, 101)), (0, 0), 5) > 0.5).astype(np.uint8)
IMAGE.flags.writeable = MASK.flags.writeable = False


def one(name: str, transforms=(), **arguments) -> Transform:
    return Transform(name=name, arguments=arguments, transforms=list(transforms))


def digest(augmentation: Augmentation, index: int) -> bytes:
    image, mask = augmentation.apply(IMAGE, MASK, key("test", index))
    return image.tobytes() + mask.tobytes()


NOISE = [one("OneOf", [one("GaussNoise", p=1), one("ElasticTransform", p=1), one("CoarseDropout", p=1)], p=0.9)]
LISTS = ["tgs_bes", "tgs_phalanx", "tgs_5th", "tgs_15th", "siim"]
SPECS = ["none", *LISTS, NOISE]


def test_every_list_of_a_recipe_is_there():
    assert set(NAMED) == set(AUGMENTATIONS)


@pytest.mark.parametrize("spec", SPECS, ids=["none", *LISTS, "noise"])
def test_same_key_same_bits_in_any_order_and_process(spec):
    augmentation = Augmentation(spec)
    first = [digest(augmentation, index) for index in range(12)]
    assert [digest(augmentation, index) for index in reversed(range(12))] == first[::-1]
    assert digest(pickle.loads(pickle.dumps(augmentation)), 3) == first[3]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(digest, [(augmentation, index) for index in range(12)], chunksize=1) == first


@pytest.mark.parametrize("spec", LISTS)
def test_different_keys_differ(spec):
    augmentation = Augmentation(spec)
    assert len({digest(augmentation, index) for index in range(60)}) > 40  # phalanx and siim leave one in eight alone


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(LISTS),
    st.integers(20, 70),
    st.integers(20, 70),
    st.sampled_from([1, 3]),
    st.integers(0, 2**63),
)
def test_shapes_and_types_stay_and_masks_stay_binary(spec, height, width, channels, seed):
    image = np.full((height, width, channels), 200, np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[height // 3 :, width // 4 :] = 1
    new_image, new_mask = Augmentation(spec).apply(image, mask, seed)
    assert new_image.dtype == new_mask.dtype == np.uint8
    assert (new_image.shape, new_mask.shape) == (image.shape, mask.shape)
    assert set(np.unique(new_mask)) <= {0, 1}


def applied(spec: list[Transform], count: int) -> np.ndarray:
    """Which of the transforms changed the image, by key: bool [count, transforms]."""
    augmentation = Augmentation(spec)
    changed = []
    for index in range(count):
        augmentation.apply(IMAGE, MASK, key("applied", index))
        changed.append([bool(transform.params) for transform in augmentation._compose.transforms])
    return np.array(changed)


def test_transforms_are_drawn_independently_with_their_odds():
    flags = applied([one("HorizontalFlip", p=0.5), one("RandomGamma", p=0.2), one("VerticalFlip", p=0.5)], 3000)
    assert flags.mean(0) == pytest.approx([0.5, 0.2, 0.5], abs=0.03)
    assert np.corrcoef(flags.T)[np.triu_indices(3, 1)] == pytest.approx([0, 0, 0], abs=0.06)


def test_bes_odds_as_published():
    assert applied(TGS_BES, 2000).mean(0) == pytest.approx([0.5, 0.2, 0.1, 0.7], abs=0.035)


def test_flip_moves_image_and_mask_together():
    augmentation = Augmentation([one("HorizontalFlip", p=1)])
    image, mask = augmentation.apply(IMAGE, MASK, 1)
    assert np.array_equal(image, IMAGE[:, ::-1])
    assert np.array_equal(mask, MASK[:, ::-1])


def only(preset: list[Transform], *path: int) -> Augmentation:
    """One transform of a preset, always applied."""
    transform = preset[path[0]]
    for index in path[1:]:
        transform = transform.transforms[index]
    return Augmentation([Transform(name=transform.name, arguments={**transform.arguments, "p": 1})])


def levels(augmentation: Augmentation, bright: int = 240, count: int = 400) -> np.ndarray:
    """What the gray values 50, 100 and `bright` become, [count, 3]."""
    steps = np.repeat(np.array([[50, 100, bright]], np.uint8), 3, 0)[..., None]
    empty = np.zeros((3, 3), np.uint8)
    return np.array([augmentation.apply(steps, empty, index)[0][0, :, 0] for index in range(count)], dtype=int)


@pytest.mark.parametrize(("augmentation", "limit"), [(only(TGS_BES, 1), 0.2), (only(TGS_PHALANX, 2, 1), 0.08)])
def test_brightness_multiplies_gray_values_of_0_to_255(augmentation, limit):
    found = levels(augmentation)
    factors = found[:, 1] / 100
    assert (factors.min(), factors.max()) == pytest.approx((1 - limit, 1 + limit), abs=0.015)
    assert np.abs(found[:, 0] - 50 * factors).max() <= 1
    assert found[:, 2].max() == min(255, int(240 * (1 + limit)))  # clipped at white, not at 1


def test_contrast_keeps_the_mean():
    found = levels(only(TGS_BES, 2), bright=150)
    assert np.abs(found.mean(1) - 100).max() <= 1
    spread = (found[:, 1] - found[:, 0]) / 50
    assert (spread.min(), spread.max()) == pytest.approx((0.8, 1.2), abs=0.03)


def test_phalanx_shift_adds_up_to_a_tenth_of_white():
    found = levels(only(TGS_PHALANX, 2, 0))
    assert (found[:, 1].min(), found[:, 1].max()) == pytest.approx((100 - 25.5, 100 + 25.5), abs=1.5)
    assert np.abs((found[:, 1] - found[:, 0]) - 50).max() == 0


def test_bes_scales_about_the_centre_and_shifts_within_the_published_limits():
    augmentation = only(TGS_BES, 3)
    for index in range(50):
        augmentation.apply(IMAGE, MASK, index)
        matrix = augmentation._compose.transforms[0].params["matrix"]
        scale = matrix[0, 0]
        assert 0.4 <= scale <= 1.6
        assert matrix[:2, :2] == pytest.approx(np.eye(2) * scale)
        assert np.abs(matrix[:2, 2] - 50 * (1 - scale)).max() <= 0.1625 * 101


def test_phalanx_crop_is_the_published_crop_and_resize():
    transform = CropAndStretch(limit=0.2, p=1)
    drawn = []
    for index in range(300):
        transform.set_random_seed(index)
        result = transform(image=IMAGE, mask=MASK)
        top, bottom, left, right = transform.params["cuts"]
        drawn += [top, bottom, left, right]
        inside = slice(top, 101 - bottom), slice(left, 101 - right)
        assert np.array_equal(result["image"][..., 0], cv2.resize(IMAGE[inside], (101, 101)))
        assert np.array_equal(result["mask"], cv2.resize(MASK[inside].astype(np.float32), (101, 101)) > 0.5)
    assert set(drawn) == set(range(20))


def test_phalanx_shear_is_the_published_perspective():
    transform = HorizontalShear(limit=0.07, p=1)
    shifts = set()
    for index in range(150):
        transform.set_random_seed(index)
        result = transform(image=IMAGE, mask=MASK)
        shift = transform.params["shift"]
        shifts.add(shift)
        corners = np.array([[0, 0], [101, 0], [101, 101], [0, 101]], np.float32)
        moved = corners + np.array([[shift, 0], [shift, 0], [-shift, 0], [-shift, 0]], np.float32)
        matrix = cv2.getPerspectiveTransform(corners, moved)
        expected = cv2.warpPerspective(IMAGE, matrix, (101, 101), borderMode=cv2.BORDER_REFLECT_101)
        assert np.abs(result["image"][..., 0].astype(int) - expected.reshape(101, 101)).mean() < 0.5
    assert set(range(-6, 7)) <= shifts <= set(range(-7, 8))


def test_phalanx_turns_clockwise_up_to_15_degrees():
    augmentation = only(TGS_PHALANX, 1, 2)
    angles = []
    for index in range(200):
        augmentation.apply(IMAGE, MASK, index)
        matrix = augmentation._compose.transforms[0].params["matrix"]
        angles.append(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])))  # y points down: clockwise is positive
    assert 0 <= min(angles) < 1
    assert 14 < max(angles) <= 15


def test_5th_place_reaches_each_branch_with_its_odds():
    augmentation = Augmentation("tgs_5th")
    flip, *blocks = augmentation._compose.transforms
    branches = [flip, *(transform for block in blocks for transform in block.transforms)]
    count, reached = 3000, np.zeros(len(branches))
    for index in range(count):
        for transform in branches:
            transform.params = {}
        augmentation.apply(IMAGE, MASK, key("branches", index))
        reached += [bool(transform.params) for transform in branches]
    assert reached / count == pytest.approx([1 / 2] + 4 * [1 / 8] + 3 * [1 / 6], abs=0.025)


def test_5th_place_grid_moves_image_and_mask_together_in_cells_of_ten_pixels():
    augmentation = only(TGS_5TH, 1, 3)
    image = MASK[..., None] * 255
    widths = []
    for index in range(200):
        bent, mask = augmentation.apply(image, MASK, index)
        assert ((bent[..., 0] > 127) == mask).mean() > 0.97  # bilinear against nearest pixel
        columns = augmentation._compose.transforms[0].params["map_x"][0]
        widths += list(np.diff(columns[:101:10]) / 10)  # from the first pixel of a cell to that of the next
    assert (min(widths), max(widths)) == pytest.approx((1 - 0.0866, 1 + 0.0866), abs=0.003)
    # a limit drawn from 0 to 0.15 gives cells of this spread
    assert np.std(widths) == pytest.approx(0.05, abs=0.003)


def test_5th_place_gamma_keeps_black_and_white():
    augmentation = only(TGS_5TH, 2, 2)
    found = np.array([augmentation.apply(GRAYS, GRAYS[..., 0] // 255, index)[0][0, :, 0] for index in range(300)])
    assert (found[:, [0, 2]] == [0, 255]).all()
    exponents = np.log((found[:, 1] + 0.5) / 255) / np.log(100 / 255)
    assert (exponents.min(), exponents.max()) == pytest.approx((0.92, 1.08), abs=0.01)


def test_siim_reaches_each_branch_with_its_odds():
    augmentation = Augmentation("siim")
    flip, grays, bends, affine = augmentation._compose.transforms
    sequence, grid, lens = bends.transforms
    branches = [flip, *grays.transforms, *sequence.transforms, grid, lens, affine]
    count, reached, changed = 3000, np.zeros(len(branches)), 0
    image, mask = IMAGE[:24, :24], MASK[:24, :24]
    for index in range(count):
        for transform in branches:
            transform.params = {}
        augmented, _ = augmentation.apply(image, mask, key("branches", index))
        reached += [bool(transform.params) for transform in branches]
        changed += not np.array_equal(augmented, image)
    assert reached / count == pytest.approx([0.5] + 7 * [0.1] + [0.5], abs=0.025)
    assert changed / count == pytest.approx(1 - 0.5 * 0.7 * 0.7 * 0.5, abs=0.025)


def test_siim_contrast_is_about_black_and_brightness_by_the_mean():
    found = levels(only(SIIM, 1, 0))
    factors = found[:, 1] / 100
    assert (factors.min(), factors.max()) == pytest.approx((0.8, 1.2), abs=0.015)
    assert np.abs(found[:, 0] - 50 * factors).max() <= 1
    found, fifth = levels(only(SIIM, 1, 2), bright=180), (50 + 100 + 180) / 3 / 5
    assert (found[:, 1].min(), found[:, 1].max()) == pytest.approx((100 - fifth, 100 + fifth), abs=1.5)
    assert (found[:, 2] - found[:, 0] == 130).all()


def test_siim_gamma_varies_as_the_published_power():
    published = 100 / np.arange(80, 121)
    augmentation = only(SIIM, 1, 1)
    found = np.array([augmentation.apply(GRAYS, GRAYS[..., 0] // 255, index)[0][0, :, 0] for index in range(800)])
    assert (found[:, [0, 2]] == [0, 255]).all()
    powers = np.log((found[:, 1] + 0.5) / 255) / np.log(100 / 255)
    assert powers.mean() == pytest.approx(published.mean(), abs=0.015)
    assert powers.std() == pytest.approx(published.std(), abs=0.01)


def test_siim_affine_before_the_elastic_one_varies_as_the_published_three_points():
    """Published: three points at 341 pixels from the centre of 1024, each moved by up to 3.6 pixels each way."""
    rng, centre = np.random.default_rng(0), 511.5
    corners = np.array([[341, 341], [341, -341], [-341, -341]], np.float32)
    matrices = np.array(
        [
            cv2.getAffineTransform(corners, corners + rng.uniform(-3.6, 3.6, (3, 2)).astype(np.float32))
            for _ in range(4000)
        ]
    )
    transform = only(SIIM, 2, 0, 0)._compose.transforms[0]
    ours = [transform.get_params_dependent_on_data({"shape": (1024, 1024)}, {})["matrix"] for _ in range(4000)]
    found = np.array(ours)[:, :2]
    found[:, :, 2] += found[:, :, :2] @ [centre, centre] - centre  # the shift of the centre
    assert found.mean(0) == pytest.approx(matrices.mean(0), abs=0.1)
    assert found.std(0) == pytest.approx(matrices.std(0), rel=0.06)


def test_siim_elastic_varies_as_the_published_one():
    """Published: 120 times uniform noise of -1 to 1 under a Gaussian of 6 pixels, cut off at 4 of its deviations."""
    kernel = np.exp(-0.5 * (np.arange(-24, 25) / 6) ** 2)
    kernel /= kernel.sum()
    steps = np.arange(200)
    augmentation = only(SIIM, 2, 0, 1)
    moves = []
    for index in range(12):
        augmentation.apply(np.zeros((200, 200, 1), np.uint8), np.zeros((200, 200), np.uint8), index)
        params = augmentation._compose.transforms[0].params
        moves += [params["map_x"] - steps, params["map_y"] - steps[:, None]]
    inside = np.array(moves)[:, 30:-30, 30:-30]
    assert inside.std() == pytest.approx(120 / np.sqrt(3) * (kernel**2).sum(), rel=0.05)
    assert np.corrcoef(inside[::2].ravel(), inside[1::2].ravel())[0, 1] == pytest.approx(0, abs=0.06)
    likeness = [(inside[:, :, distance:] * inside[:, :, :-distance]).mean() for distance in (1, 6, 12)]
    assert likeness / inside.var() == pytest.approx(np.exp(-(np.array([1, 6, 12]) ** 2) / (4 * 36)), abs=0.05)


def test_siim_grid_has_five_cells_that_vary_by_three_tenths():
    augmentation = only(SIIM, 2, 1)
    widths = []
    for index in range(200):
        augmentation.apply(np.zeros((104, 104, 1), np.uint8), np.zeros((104, 104), np.uint8), index)
        params = augmentation._compose.transforms[0].params
        for edge in (params["map_x"][0], params["map_y"][:, 0]):
            starts = edge[:101:20]
            widths += list(np.diff(starts) / 20)
            for cell in range(5):  # each from its start to that of the next, as published
                expected = np.linspace(starts[cell], starts[cell + 1], 20)
                assert np.abs(edge[20 * cell : 20 * cell + 20] - expected).max() < 1e-3
    assert (min(widths), max(widths)) == pytest.approx((0.7, 1.3), abs=0.005)
    assert np.std(widths) == pytest.approx(0.3 / np.sqrt(3), abs=0.01)


def test_siim_lens_is_the_published_formula():
    """Published: x (1 + k r^2 + k r^4) about the middle, in units of the width, k within +-2 and no shift.

    OpenCV has the middle at half the width in the image and at half of the width less one in what is made of it.
    """
    augmentation = only(SIIM, 2, 2)
    y, x = (np.mgrid[:64, :64] - 31.5) / 64
    squared = x**2 + y**2
    strengths = []
    for index in range(300):
        augmentation.apply(np.zeros((64, 64, 1), np.uint8), np.zeros((64, 64), np.uint8), index)
        params = augmentation._compose.transforms[0].params
        k = ((params["map_x"][0, 0] - 32) / (64 * x[0, 0]) - 1) / (squared[0, 0] + squared[0, 0] ** 2)
        strengths.append(k)
        factor = 1 + k * squared + k * squared**2
        assert np.abs(params["map_x"] - 32 - 64 * x * factor).max() < 1e-3
        assert np.abs(params["map_y"] - 32 - 64 * y * factor).max() < 1e-3
    assert (min(strengths), max(strengths)) == pytest.approx((-2, 2), abs=0.05)


def test_siim_shifts_scales_and_turns_within_the_published_limits():
    augmentation = only(SIIM, 3)
    scales, angles, shifts = [], [], []
    for index in range(400):
        augmentation.apply(IMAGE, MASK, index)
        matrix = augmentation._compose.transforms[0].params["matrix"]
        scale, angle = np.hypot(*matrix[:2, 0]), np.arctan2(matrix[1, 0], matrix[0, 0])
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        assert matrix[:2, :2] == pytest.approx(turn)
        scales.append(scale)
        angles.append(np.degrees(angle))
        shifts += list(matrix[:2, :2] @ [50, 50] + matrix[:2, 2] - 50)
    assert (min(scales), max(scales)) == pytest.approx((0.9, 1.1), abs=0.003)
    assert (min(angles), max(angles)) == pytest.approx((-45, 45), abs=1)
    assert shifts == pytest.approx(np.round(shifts), abs=1e-6)
    assert (min(shifts), max(shifts)) == pytest.approx((-6, 6))  # 0.0625 of 101


@pytest.mark.parametrize("path", [(0,), (2, 0, 0), (2, 0, 1), (2, 1), (2, 2), (3,)])
def test_siim_moves_image_and_mask_together_and_mirrors_them_at_the_border(path):
    augmentation = only(SIIM, *path)
    image, whole = MASK[..., None] * 255, np.ones_like(MASK)
    for index in range(30):
        moved, mask = augmentation.apply(image, MASK, index)
        assert ((moved[..., 0] > 127) == mask).mean() > 0.95  # bilinear against nearest pixel
        # nothing comes in from outside: what is white everywhere stays so
        assert augmentation.apply(whole[..., None] * 255, whole, index)[0].min() == 255
        assert augmentation.apply(image, whole, index)[1].all()


def test_class_masks_get_no_new_classes():
    mask = (MASK * 7 + 2).astype(np.uint8)
    for index in range(40):
        assert set(np.unique(Augmentation("tgs_phalanx").apply(IMAGE, mask, index)[1])) <= {2, 9}


def test_gray_channel_survives_every_listed_transform():
    for name in ("Blur", "CLAHE", "Equalize", "ElasticTransform", "GridDistortion", "Rotate", "MotionBlur", "Solarize"):
        image, mask = Augmentation([one(name, p=1)]).apply(IMAGE, MASK, 5)
        assert image.shape == IMAGE.shape, name
        assert mask.shape == MASK.shape, name


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (one("HorizontalFlop"), r"augment\[0\]: HorizontalFlop is unknown; write one of HorizontalFlip"),
        (one("ToTensorV2"), "ToTensorV2 is unknown"),
        (one("Affine", rotation=3), r"augment\[0\].arguments: rotation is unknown; write one of .*rotate"),
        (one("HorizontalFlip", p=2), "HorizontalFlip refuses .* less than or equal to 1"),
        (one("Rotate", border_mode="BORDER_REFLEKT_101"), "border_mode: .* write one of BORDER_REFLECT_101"),
        (one("OneOf"), "OneOf is a block; list its transforms"),
        (one("Blur", [one("Blur")]), "Blur is no block"),
        (one("OneOf", [one("Blur"), one("Blurr")]), r"augment\[0\].transforms\[1\]: Blurr is unknown"),
    ],
)
def test_faults_of_the_recipe_say_where_and_what_to_write(transform, message):
    with pytest.raises(RecipeError, match=message):
        Augmentation([transform])


@pytest.mark.parametrize(
    ("transform", "message"),
    [(one("Normalize", p=1), "float32"), (one("ISONoise", p=1), "fails on an image"), (one("ToRGB", p=1), "channels")],
)
def test_transforms_that_a_gray_image_or_the_network_cant_take(transform, message):
    with pytest.raises(RecipeError, match=message):
        Augmentation([transform]).apply(IMAGE, MASK, 0)


def test_constants_of_opencv_go_by_name():
    augmentation = Augmentation([one("Rotate", border_mode="BORDER_REFLECT_101", interpolation="INTER_NEAREST")])
    built = augmentation._compose.transforms[0]
    assert (built.border_mode, built.interpolation) == (cv2.BORDER_REFLECT_101, cv2.INTER_NEAREST)
    assert isinstance(built, albumentations.Rotate)
