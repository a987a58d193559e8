import copy

import pytest
import torch
from torch import nn

from stagepipe import optimizers
from stagepipe.recipe.model import Phase


class TwoParts(nn.Module):
    """An encoder and a decoder of one weight each: the parts a network has, without the network."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(1, 1)
        self.decoder = nn.Linear(1, 1)

    def encoder_parameters(self):
        return list(self.encoder.parameters())

    def other_parameters(self):
        return list(self.decoder.parameters())


def phase(**keys) -> Phase:
    return Phase.model_validate({"name": "a", "loss": "bce", "epochs": 1, **keys})


def step(network: TwoParts, optimizer: torch.optim.Optimizer) -> None:
    network.decoder(network.encoder(torch.ones(4, 1))).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize(
    ("spec", "plain"),
    [
        ({"sgd": {"momentum": 0.9, "weight_decay": 1e-4}}, lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=1e-4)),
        ({"sgd": {"momentum": 0.9, "nesterov": True}}, lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True)),
        ({"adam": {"betas": [0.8, 0.99]}}, lambda p: torch.optim.Adam(p, 0.1, (0.8, 0.99))),
        ("adamw", lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.01)),
        ("rmsprop", lambda p: torch.optim.RMSprop(p, 0.1, alpha=0.9)),
    ],
)
def test_steps_are_those_of_torch(spec, plain):
    torch.manual_seed(0)
    network = TwoParts()
    twin = copy.deepcopy(network)
    ours, theirs = optimizers.build(phase(optimizer=spec, lr=0.1), network), plain(twin.parameters())
    for _ in range(5):
        step(network, ours)
        step(twin, theirs)
    for one, other in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_groups_cover_all_parameters_and_scale_the_encoder():
    network = TwoParts()
    optimizer = optimizers.build(phase(lr=0.1, encoder_lr=0.02), network)
    encoder, other = optimizer.param_groups
    assert encoder["lr"] == pytest.approx(0.02)
    assert encoder["lr_ratio"] == pytest.approx(0.2)
    assert (other["lr"], other["lr_ratio"]) == (0.1, 1.0)
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in network.parameters()}
    assert [group["lr_ratio"] for group in optimizers.build(phase(), network).param_groups] == [1.0, 1.0]


def test_weight_decay_reaches_every_parameter():
    network = TwoParts()
    optimizer = optimizers.build(phase(optimizer={"sgd": {"weight_decay": 0.5}}, lr=0.1), network)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for old, new in zip(before, network.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old * 0.95)


def test_a_frozen_encoder_neither_moves_nor_decays():
    network = TwoParts()
    optimizer = optimizers.build(phase(optimizer={"sgd": {"weight_decay": 0.5}}, lr=0.1), network)
    for parameter in network.encoder_parameters():
        parameter.requires_grad_(False)
    before = network.encoder.weight.detach().clone()
    step(network, optimizer)
    assert torch.equal(network.encoder.weight, before)
    for parameter in network.encoder_parameters():
        parameter.requires_grad_(True)
    step(network, optimizer)
    assert not torch.equal(network.encoder.weight, before)
