"""The TGS salt 15th place's network with guided upsampling as published, and as it is here: the same numbers."""

from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.timing import compare
from stagepipe.networks.guided_upsampling import GuidedUpsampling, moved
from stagepipe.networks.salt_15th import Salt15th

BATCH, SIZE = 8, 129


class Plain(GuidedUpsampling):
    """Step by step, as published: resize, convolve, read all channels, project."""

    def forward(self, maps: torch.Tensor, guidance: torch.Tensor) -> torch.Tensor:
        full = F.interpolate(maps, size=guidance.shape[2:], mode="bilinear", align_corners=True)
        resized = self.resized_norm(F.conv2d(full, self.resized.weight, padding=2, dilation=2))
        return self.projection(moved(maps, self.offsets(F.relu(self.guidance(guidance) + resized))))


def networks(device: torch.device) -> tuple[Salt15th, Salt15th]:
    """The published way and ours, with the same weights."""
    torch.manual_seed(0)
    ours, plain = Salt15th().to(device), Salt15th().to(device)
    plain.guided_upsampling = Plain(128, 32, 16).to(device)
    plain.load_state_dict(ours.state_dict())
    return plain, ours


def run(gpu: bool) -> list[dict]:
    device = torch.device("cuda" if gpu else "cpu")
    images = torch.randn(BATCH, 1, SIZE, SIZE, device=device)
    plain, ours = networks(device)

    def waited() -> None:
        if gpu:
            torch.cuda.synchronize()

    def step(network: Salt15th) -> None:
        network.train().zero_grad()
        sum(head.square().mean() for head in network.heads(images).values()).backward()
        waited()

    @torch.inference_mode()
    def predict(network: Salt15th) -> torch.Tensor:
        logits = network.eval()(images)
        waited()
        return logits

    differs = (predict(plain) - predict(ours)).abs().max()
    if differs > 1e-3:
        raise RuntimeError(f"the two ways differ by {differs}")
    note = f"plain: all of guided upsampling at full size; threads: {torch.get_num_threads()}"
    what = f"batch {BATCH} at {SIZE} px"
    return [
        compare(f"salt_15th {name}, {what}", partial(work, plain), partial(work, ours), note, repeats=5)
        for name, work in (("step", step), ("prediction", predict))
    ]


if __name__ == "__main__":
    print(*run(gpu=False), sep="\n")
