"""That a network gives the same in another memory format and nearly the same in half precision."""

import torch
from torch import nn


def check_formats(network: nn.Module, pixels: torch.Tensor) -> None:
    """Compare channels last and bf16 with float32 as it is."""
    network.eval()
    with torch.no_grad():
        expected = network(pixels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = network(pixels)
        last = network.to(memory_format=torch.channels_last)(pixels.contiguous(memory_format=torch.channels_last))
    assert half.dtype == torch.bfloat16
    assert (half.float() - expected).abs().max() < 0.05 * (1 + expected.abs().max())
    torch.testing.assert_close(last, expected, atol=1e-4, rtol=1e-4)
