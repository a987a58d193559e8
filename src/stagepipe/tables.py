"""Schemas of the Parquet tables that jobs hand to one another."""

import pyarrow as pa

SAMPLES = pa.schema(
    [
        ("sample_id", pa.string()),
        ("split", pa.string()),  # train or test
        ("image_path", pa.string()),  # relative to the root of the raw data
        ("mask_path", pa.string()),  # null: no mask file
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("channels", pa.int32()),
        ("image_offset", pa.int64()),  # bytes into the pixel store
        ("mask_offset", pa.int64()),  # null: no mask
        ("image_crc32", pa.uint32()),
        ("mask_crc32", pa.uint32()),
        ("black", pa.bool_()),  # the image has one single value
        ("empty", pa.bool_()),  # the mask has no foreground; null: no mask
        ("coverage", pa.list_(pa.float32())),  # share of pixels per class; null: no mask
    ]
)
"""One row per image, sorted by split and sample_id; the format's own metadata columns follow."""

FOLDS = pa.schema([("sample_id", pa.string()), ("fold", pa.int32()), ("always_train", pa.bool_())])

FAULTS = pa.schema([("sample_id", pa.string()), ("path", pa.string()), ("fault", pa.string()), ("detail", pa.string())])

PROBABILITIES = pa.schema(
    [
        ("sample_id", pa.string()),
        ("classes", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("probabilities", pa.large_binary()),  # round(255 p) as uint8, C order [classes, height, width]
    ]
)

PSEUDOLABELS = pa.schema(
    [
        ("sample_id", pa.string()),
        ("confidence", pa.float32()),
        ("source", pa.string()),  # the stage whose ensemble made the mask
        ("folds", pa.list_(pa.int32())),  # folds that may train on this row
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("lengths", pa.list_(pa.int32())),  # row-major runs of the index mask
        ("values", pa.list_(pa.uint8())),
    ]
)

HISTORY = pa.schema(
    [
        ("stage", pa.string()),
        ("run", pa.string()),
        ("phase", pa.string()),
        ("fold", pa.string()),
        ("cycle", pa.int32()),
        ("epoch", pa.int32()),  # counted from 0 over all cycles
        ("lr", pa.float64()),
        ("loss", pa.float64()),
        ("score", pa.float64()),
        ("seconds", pa.float64()),
        ("images", pa.int64()),
        ("waited", pa.float64()),  # seconds of these that the training waited for its loader
    ]
)

CASES = pa.schema(
    [
        ("stage", pa.string()),
        ("run", pa.string()),
        ("fold", pa.int32()),
        ("split", pa.string()),
        ("sample_id", pa.string()),
        ("mean_precision", pa.float64()),  # null for several classes
        ("dice", pa.float64()),
        ("iou", pa.float64()),
        ("truth_iou", pa.float64()),  # null for a single class, and for a truth without an evaluated class
        ("coverage", pa.float32()),  # foreground share of the truth
        ("predicted", pa.float32()),  # foreground share of the prediction
    ]
)
"""Per-image scores of out-of-fold predictions."""

CONFUSION = pa.schema(
    [
        ("stage", pa.string()),
        ("run", pa.string()),
        ("fold", pa.int32()),
        ("truth", pa.string()),  # name of a class; of a single class the other one is `background`
        ("predicted", pa.string()),
        ("pixels", pa.int64()),
    ]
)
"""Pixels of out-of-fold predictions by true and predicted class, ignored ones left out: a row per pair of classes."""

THRESHOLDS = pa.schema([("threshold", pa.float64()), ("score", pa.float64())])

TRIPLETS = pa.schema([("top", pa.float64()), ("area", pa.int64()), ("bottom", pa.float64()), ("score", pa.float64())])
"""Scores of triplets, in the order they are written in the recipe."""

MOSAICS = pa.schema(
    [
        ("mosaic", pa.int32()),  # 0 is the largest
        ("row", pa.int32()),
        ("column", pa.int32()),
        ("sample_id", pa.string()),
    ]
)
"""Where each tile of a mosaic lies, sorted by mosaic, row and column."""

JIGSAW = pa.schema(
    [
        ("sample_id", pa.string()),
        ("split", pa.string()),  # test; or train: then no label of its own fold had a part in the mask
        ("fold", pa.int32()),  # null for test
        ("rule", pa.string()),
        ("applied", pa.bool_()),  # false: the rule is switched off, or another one comes before it on this tile
        ("source", pa.string()),  # the labelled tile that the mask follows from
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("lengths", pa.list_(pa.int32())),  # row-major runs of the mask
        ("values", pa.list_(pa.uint8())),
    ]
)
"""Masks that follow from labelled neighbours in a mosaic, by every rule, sorted by sample_id and rule."""

JIGSAW_EFFECTS = pa.schema(
    [
        ("sample_id", pa.string()),
        ("fold", pa.int32()),
        ("rule", pa.string()),
        ("applied", pa.bool_()),
        ("before", pa.float64()),  # score of the predicted mask, by the metric of the submission's threshold
        ("after", pa.float64()),  # score of the mask that the rule puts in its place
    ]
)
"""What the jigsaw rules do, or would do, to out-of-fold predictions, a row per mask of JIGSAW."""
