"""What `stagepipe check` finds in the networks of a recipe: each fault in its place, all of them at once."""

import pytest
import yaml

from stagepipe.preflight import Examined, examine
from stagepipe.recipe.load import validate

RECIPE = """
name: tiny
dataset: {format: synthetic, classes: [salt], synthetic: {train: 8, test: 2, size: 96}}
folds: {count: 2}
networks:
  divisible: {architecture: unetplusplus, encoder: resnet18, arguments: {decoder_channels: [8, 8, 8, 8, 8]}}
  wide:
    architecture: street_wide_unet
    encoder: null
    arguments: {filters: 1, channels: [[8, 8], [8, 8], [8, 8], [8, 8]]}
stages:
- name: s
  runs:
    r:
      network: divisible
      phases: [{name: p, loss: bce, epochs: 1}]
    w:
      network: wide
      phases: [{name: p, loss: bce, epochs: 1}]
submission: {blend: {s: 1}}
"""
PHASE = "stages.s.runs.r.phases.p"

Keys = dict[str, object] | None


def examined(network: Keys = None, phase: Keys = None, **run: object) -> Examined:
    """The recipe with some keys of the second network, and of the first run and its phase."""
    data = yaml.safe_load(RECIPE)
    first = data["stages"][0]["runs"]["r"]
    data["networks"]["wide"] |= network or {}
    first["phases"][0] |= phase or {}
    first |= run
    return examine(validate(data, "tiny.yaml"))


def faults(network: Keys = None, phase: Keys = None, **run: object) -> list[str]:
    return examined(network, phase, **run).faults


def test_networks_with_and_without_an_encoder_are_sound():
    assert faults() == []
    assert not [note for note in examined().notes if "no run uses it" in note]
    assert faults(phase={"crop": {"size": 64}, "part_lr": {"encoder": 1e-4}}, predict={"windows": {"size": 64}}) == []


@pytest.mark.parametrize(
    ("network", "fault"),
    [
        (
            {"encoder": "resnet18"},
            "networks.wide.encoder: street_wide_unet has its own (found resnet18); write `encoder: ",
        ),
        (
            {"weights": "imagenet"},
            "networks.wide.weights: the encoder of street_wide_unet has no imagenet weights; write ",
        ),
        (
            {"architecture": "street_unet"},
            "networks.wide.encoder: street_unet needs one; write, for example, `encoder: ",
        ),
    ],
)
def test_an_encoder_that_doesnt_fit_the_architecture(network, fault):
    (found,) = faults(network)
    assert found.startswith(fault)


def test_what_a_phase_and_a_run_want_of_their_network():
    wanted = {"crop": {"size": [64, 50]}, "part_lr": {"guided": 1e-4}, "deep_supervision": {"auxiliary": "bce"}}
    found = faults(phase=wanted, predict={"windows": {"size": 80}})
    takes = "UnetPlusPlus takes heights and widths divisible by 32"
    assert found == [
        f"{PHASE}.deep_supervision.auxiliary: UnetPlusPlus has no such head as it is made (heads: none); leave it out, "
        "or write `architecture: salt_15th`",
        f"{PHASE}.part_lr.guided: UnetPlusPlus has no such part as it is made; write one of encoder, and `lr` for all "
        "others",
        f"{PHASE}: {takes}, phase.crop is 64 x 50; write `size: [64, 64]`",
        f"stages.s.runs.r: {takes}, predict.windows is 80 x 80; write `size: [96, 96]`",
    ]


def test_a_loss_whose_weights_lie_elsewhere_is_noted_and_not_fetched(monkeypatch):
    monkeypatch.delenv("STAGEPIPE_WEIGHTS", raising=False)
    found = examined(phase={"loss": {"bce": 1, "topology": 0.05}})
    assert found.faults == []
    assert f"{PHASE}.loss.topology: weights of vgg19, which the first training downloads" in found.notes


def test_a_network_that_no_run_uses_is_noted():
    data = yaml.safe_load(RECIPE)
    data["stages"][0]["runs"]["w"]["network"] = "divisible"
    found = examine(validate(data, "tiny.yaml"))
    assert found.faults == []
    assert "networks.wide: no run uses it" in found.notes


def test_a_local_file_without_a_checksum_is_a_fault(monkeypatch, tmp_path):
    (tmp_path / "vgg19.safetensors").write_bytes(b"")
    monkeypatch.setenv("STAGEPIPE_WEIGHTS", str(tmp_path))
    (fault,) = faults(phase={"loss": {"topology": 1}})
    assert fault.startswith(f"{PHASE}.") and "vgg19.safetensors has no checksum beside it" in fault
