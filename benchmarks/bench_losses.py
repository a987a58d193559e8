"""Lovasz losses, forward and backward, beside the loop over images of segmentation_models_pytorch."""

import segmentation_models_pytorch as smp
import torch

from benchmarks.timing import compare
from stagepipe import losses


def step(loss, logits, target):
    def run() -> None:
        logits.grad = None
        loss(logits, target).backward()
        if logits.is_cuda:
            torch.cuda.synchronize()

    return run


def row(name, classes, batch, size, device):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, classes, size, size, generator=generator).to(device).requires_grad_()
    if classes == 1:
        target = (torch.rand(batch, size, size, generator=generator) < 0.3).float().to(device)
        ours, mode = losses.lovasz_hinge, "binary"
    else:
        target = torch.randint(0, classes, (batch, size, size), generator=generator).to(device)
        ours, mode = losses.lovasz_softmax, "multiclass"
    theirs = smp.losses.LovaszLoss(mode=mode, per_image=True)
    torch.testing.assert_close(ours(logits, target), theirs(logits, target), rtol=1e-4, atol=1e-5)
    label = f"{name} {batch} x {size}^2" + (f", {classes} classes" if classes > 1 else "")
    note = f"{device}, {torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name()
    return compare(label, step(theirs, logits, target), step(ours, logits, target), note)


def run(gpu: bool) -> list[dict]:
    device = "cuda" if gpu else "cpu"
    return [
        row("Lovasz hinge", 1, 32, 128, device),
        row("Lovasz hinge", 1, 8, 512, device),
        row("Lovasz-softmax", 12, 4, 256, device),
    ]
