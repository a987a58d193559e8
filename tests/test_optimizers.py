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

    def parts(self):
        return {"encoder": list(self.encoder.parameters()), "other": list(self.decoder.parameters())}

    def check_parts(self, names):
        assert set(names) <= {"encoder"}


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


def test_parameters_are_in_the_networks_order_whatever_the_groups():
    network = TwoParts()
    for part_lr in ({}, {"encoder": 0.02}):
        groups = optimizers.build(phase(lr=0.1, part_lr=part_lr), network).param_groups
        assert [group["lr"] for group in groups] == [part_lr.get("encoder", 0.1), 0.1]
        found = [parameter for group in groups for parameter in group["params"]]
        assert all(one is other for one, other in zip(found, network.parameters(), strict=True))


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
    network.encoder.requires_grad_(False)
    before = network.encoder.weight.detach().clone()
    step(network, optimizer)
    assert torch.equal(network.encoder.weight, before)
    network.encoder.requires_grad_(True)
    step(network, optimizer)
    assert not torch.equal(network.encoder.weight, before)
