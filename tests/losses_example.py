"""Logits and targets for tests of losses, and how two losses are compared."""

import torch

from stagepipe.recipe.model import LOSSES, SIGMOID_LOSSES, SOFTMAX_LOSSES

IGNORE = 255
SINGLE = sorted(set(LOSSES) - SOFTMAX_LOSSES - {"topology"})  # which needs weights: test_topology.py
SEVERAL = sorted(set(LOSSES) - SIGMOID_LOSSES)


def batch(classes=1, soft=False, dtype=torch.float32, size=(3, 9, 7), ignored=False):
    """Logits with gradient and a target that fits them."""
    generator = torch.Generator().manual_seed(classes)
    logits = 2 * torch.randn(size[0], classes, *size[1:], generator=generator, dtype=dtype)
    if classes == 1:
        target = torch.rand(size, generator=generator, dtype=dtype)
        target = target if soft else (target > 0.6).to(dtype)
    else:
        target = torch.randint(0, classes, size, generator=generator)
        if ignored:
            target[:, 1:3] = IGNORE
    return logits.requires_grad_(), target


def value_and_gradient(function, logits, target):
    value = function(logits, target)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def assert_same(ours, theirs, logits, target, tolerance=1e-6):
    for found, expected in zip(
        value_and_gradient(ours, logits, target), value_and_gradient(theirs, logits, target), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
