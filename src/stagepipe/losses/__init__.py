"""Losses over logits, each a plain function, and their weighted sum. All of them compute in float32.

A network with one channel of logits has a sigmoid and a target of 0..1, which may be soft after resizing; one with
several has a softmax and a target of class indices, and pixels whose target is `ignore_index` have no part in the loss
and get no gradient. Nothing here makes the host wait for the device.
"""

from stagepipe.losses.lovasz import (
    lovasz_hinge,
    lovasz_hinge_elu,
    lovasz_hinge_nonempty,
    lovasz_softmax,
    lovasz_softmax_all,
    lovasz_weights,
)
from stagepipe.losses.overlap import dice, dice_per_image, jaccard, jaccard_log
from stagepipe.losses.per_pixel import bce, cross_entropy, focal
from stagepipe.losses.total import LOSSES, prepare, total_loss

__all__ = [
    "LOSSES",
    "bce",
    "cross_entropy",
    "dice",
    "dice_per_image",
    "focal",
    "jaccard",
    "jaccard_log",
    "lovasz_hinge",
    "lovasz_hinge_elu",
    "lovasz_hinge_nonempty",
    "lovasz_softmax",
    "lovasz_softmax_all",
    "lovasz_weights",
    "prepare",
    "total_loss",
]
