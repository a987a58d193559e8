"""Figures of named devices that `--device` takes: what a machine that isn't at hand would need.

An entry is either derived from published times (docs/plan.md has the derivations) or measured: what
`stagepipe plan RECIPE --measure --json` prints on the device as `figures`. `train_tflops` and `predict_tflops` are
enough, with `start` (seconds), `versions`, and the day of the measurement in `source`. Their FLOPs are those of
`networks.Cost`: three forward passes for a training pass, and no count of the backward pass.
"""

from stagepipe.plan.figures import Figures, Start

STORED = {
    # 38 networks, plain and flipped, over 18,000 tiles: 18,000 x 2 x (20 x 11.0 + 18 x 41.2) GFLOP in 3.5 hours. All of
    # tgs_salt_1st without resnet34_resize128, which isn't among what was published: 3.68 x 10^18 FLOP of training and
    # validation in what that prediction rate leaves of 16 days, where no training stops early.
    "GTX 1080 Ti": Figures(
        device="NVIDIA GeForce GTX 1080 Ti",
        source="derived from the times that TGS salt 2018, 1st place, published (float32)",
        # Starts of trainings and predictions are in the days; other jobs start on some core of 2.5 GHz.
        start=Start(other=1.2),
        train_tflops=2.78,
        predict_tflops=2.75,
    ),
}
