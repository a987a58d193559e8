"""The augmentation lists of published recipes by their names, and what differs from the published ones."""

from pydantic import JsonValue

from stagepipe.recipe.model import Transform


def _multiply(limit: float, p: float) -> Transform:
    """Pixel values times 1 + U(-limit, limit)."""
    kept = {"contrast": [1, 1], "saturation": [1, 1], "hue": [0, 0]}
    return Transform(name="ColorJitter", arguments={"brightness": [1 - limit, 1 + limit], **kept, "p": p})


_FLIP = Transform(name="HorizontalFlip", arguments={"p": 0.5})

# TGS salt 2018, 1st place, b.e.s. (ResNeXt50). The published code clips brightness and contrast of 0..255 images to
# 0..1, so that 28 % of its training samples are nearly black and white, and the contrast of the albumentations it used
# adds three times the mean it should; both are corrected here. uint8 arithmetic truncates to whole gray values.
TGS_BES = [
    _FLIP,
    _multiply(0.2, p=0.2),
    Transform(
        name="ColorJitter",
        arguments={"brightness": [1, 1], "contrast": [0.8, 1.2], "saturation": [1, 1], "hue": [0, 0], "p": 0.1},
    ),
    Transform(
        name="Affine",
        arguments={
            "scale": [0.4, 1.6], "keep_ratio": True, "translate_percent": [-0.1625, 0.1625],
            "border_mode": "BORDER_REFLECT_101", "p": 0.7,
        },
    ),
]  # fmt: skip

_CROP = Transform(name="CropAndStretch", arguments={"limit": 0.2, "p": 1})
_SHEAR = Transform(name="HorizontalShear", arguments={"limit": 0.07, "p": 1})
_CLOCKWISE = Transform(name="Rotate", arguments={"limit": [-15, 0], "border_mode": "BORDER_REFLECT_101", "p": 1})
_BRIGHTNESS = Transform(
    name="RandomBrightnessContrast",
    arguments={"brightness_limit": 0.1, "contrast_limit": 0, "brightness_by_max": True, "p": 1},
)


def _one_of(*transforms: Transform, p: float = 0.5) -> Transform:
    """One of them, each as likely, on a share `p` of the samples."""
    return Transform(name="OneOf", arguments={"p": p}, transforms=list(transforms))


# TGS salt 2018, 1st place, phalanx (ResNet34). Rotation is clockwise only, as published (a flip precedes it), here
# about the centre of the pixels, there half a pixel beside it; gray values are whole numbers here and were floats
# there.
TGS_PHALANX = [_FLIP, _one_of(_CROP, _SHEAR, _CLOCKWISE), _one_of(_BRIGHTNESS, _multiply(0.08, p=1))]

# TGS salt 2018, 5th place. Different from the published list are
# * the grid: there cells of 10 pixels and a limit drawn for each image from 0 to 0.15; here 10 cells to an edge, so 10
#   pixels in a tile of 101, and one limit, 0.15 / sqrt(3), by which cells vary as much in the mean square. (In images
#   below 90 pixels whose edge isn't near a multiple of 10, the last columns or rows repeat the first.)
# * gray values: whole numbers here, floats there. Brightness adds up to a tenth of white; the factor and the exponent
#   of the gamma are drawn from 0.92 to 1.08.
# Rotation is clockwise as in the list above; published is only that it has one direction.
TGS_5TH = [
    _FLIP,
    _one_of(
        _CROP,
        _SHEAR,
        _CLOCKWISE,
        Transform(
            name="GridDistortion",
            arguments={
                "num_steps": 10, "distort_limit": 0.0866, "normalized": False,
                "border_mode": "BORDER_REFLECT_101", "p": 1,
            },
        ),
    ),
    _one_of(
        _BRIGHTNESS, _multiply(0.08, p=1), Transform(name="RandomGamma", arguments={"gamma_limit": [92, 108], "p": 1})
    ),
]  # fmt: skip


def _reflected(name: str, p: float = 1, **arguments: JsonValue) -> Transform:
    """A transform of pixel positions with a reflect-101 border."""
    return Transform(name=name, arguments={**arguments, "border_mode": "BORDER_REFLECT_101", "p": p})


# TGS salt 2018, 15th place, adam9500370. The published list tosses a coin for each operation, and its flip another one.
# Different are
# * the random numbers: there the loader's workers repeated one list of shifts in every epoch;
# * images that aren't square: the window has their shape, there it is square;
# * gray values of a resized window, by one at most: Pillow rounds after each of the two axes.
TGS_15TH = [
    Transform(name="HorizontalFlip", arguments={"p": 0.25}),
    Transform(
        name="Affine",
        arguments={
            "translate_px": {"x": [-20, 20], "y": [-20, 20]}, "border_mode": "BORDER_REFLECT_101", "p": 0.5,
        },
    ),
    Transform(name="CropAndResize", arguments={"area": [0.64, 1], "p": 0.5}),
]  # fmt: skip

# Signate street scenes (AI Edge Contest 2018), 22nd place: nothing but the mirror image.
STREET = [_FLIP]

# SIIM-ACR pneumothorax 2019, 1st place. Pixels are those of the stored image, which the network resizes afterwards. The
# published list was written by albumentations 0.3.1; what its names meant there is kept here:
# * contrast multiplies gray values, about black; brightness adds up to a fifth of the image's mean, not of white;
# * gamma was the power 1 / g, g from 0.8 to 1.2: here powers of the same mean and mean square;
# * elastic deformation came behind an affine one that moved three points by up to 3.6 pixels: here an affine transform
#   whose entries have the same mean squares, in an image of 1024 pixels;
# * optical distortion had a shift of up to half a pixel, which was rounded, always to none.
# Different are
# * the grid: 5 cells of 204 pixels leave 4 of 1024 over. There these show all from the last cell to the border, here
#   all of a sixth cell;
# * the centre of rotation and scale: that of the pixels, there half a pixel beside it; shifts are whole pixels;
# * images that aren't square: optical distortion measures heights by the height, there by the width.
SIIM = [
    _FLIP,
    _one_of(
        Transform(name="RandomBrightnessContrast", arguments={"brightness_limit": 0, "contrast_limit": 0.2, "p": 1}),
        Transform(name="RandomGamma", arguments={"gamma_limit": [81, 122], "p": 1}),
        Transform(
            name="RandomBrightnessContrast",
            arguments={"brightness_limit": 0.2, "contrast_limit": 0, "brightness_by_max": False, "p": 1},
        ),
        p=0.3,
    ),
    _one_of(
        Transform(
            name="Sequential",
            arguments={"p": 1},
            transforms=[
                _reflected("Affine", scale=[0.9925, 1.0075], shear=[-0.43, 0.43], translate_px=[-2, 2]),
                _reflected("ElasticTransform", alpha=120, sigma=6, noise_distribution="uniform"),
            ],
        ),
        _reflected("GridDistortion", num_steps=5, distort_limit=0.3, normalized=False),
        _reflected("OpticalDistortion", distort_limit=2),
        p=0.3,
    ),
    _reflected(
        "Affine", p=0.5, scale=[0.9, 1.1], keep_ratio=True, rotate=[-45, 45], translate_percent=[-0.0625, 0.0625]
    ),
]

NAMED: dict[str, list[Transform]] = {
    "none": [],
    "tgs_bes": TGS_BES,
    "tgs_phalanx": TGS_PHALANX,
    "tgs_5th": TGS_5TH,
    "tgs_15th": TGS_15TH,
    "siim": SIIM,
    "street": STREET,
}
