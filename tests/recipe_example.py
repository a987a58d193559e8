"""A small recipe with every kind of phase, as plain data to be changed by tests."""

from typing import Any

import yaml

from stagepipe.recipe.load import validate
from stagepipe.recipe.model import Recipe

TEXT = """
name: example
dataset: {format: tgs, root: data/tgs, classes: [salt]}
folds: {count: 3, stratify: [coverage, depth]}
networks:
  small: {encoder: resnet18, weights: imagenet, resize: 80, pad: {to: 96}}
  large: {encoder: resnet34, weights: imagenet, resize: [101, 101], pad: {to: [128, 128], mode: edge}}
stages:
  - name: stage1
    runs:
      small:
        defaults: {batch: 8, optimizer: adamw, augment: tgs_bes, loss: {bce: 1, dice: {weight: 0.5}}}
        phases:
          - {name: warm, lr: 1.0e-3, epochs: 2}
          - {name: tuned, loss: lovasz_hinge, schedule: cosine, epochs: 4}
      large:
        phases:
          - {name: only, loss: bce, epochs: 3, select: {top: {k: 2}}}
    ensemble: {small: 1, large: 2}
  - name: stage2
    pseudolabels: {stage: stage1, minimum_confidence: 0.8}
    runs:
      first:
        network: small
        defaults: {loss: bce, epochs: 2}
        phases:
          - {name: pretrain, data: pseudolabels, folds: shared, epochs: 5}
          - {name: cycles, cycles: 3, select: end_of_cycle, member: 1}
          - {name: again, like: cycles, init: stage1/small/tuned, lr: 5.0e-4}
submission:
  blend: {stage1: 0.25, stage2/first: 0.75}
  threshold: {value: null}
  postprocess: [{minimum_size: {pixels: 10}}]
"""


def tree() -> dict[str, Any]:
    """The recipe as YAML gives it."""
    return yaml.safe_load(TEXT)


def at(data: Any, key: str) -> Any:
    """What stands at a key like `stages.stage1.runs.small.phases.warm`; items of lists by their name."""
    for part in key.split(".") if key else []:
        data = next(item for item in data if item["name"] == part) if isinstance(data, list) else data[part]
    return data


def changed(key: str, values: dict[Any, Any] | None = None, **more: Any) -> dict[str, Any]:
    """The recipe's data with some values at a key."""
    data = tree()
    at(data, key).update((values or {}) | more)
    return data


def recipe(key: str = "", **values: Any) -> Recipe:
    """The recipe with some values at a key."""
    return validate(changed(key, values), "example.yaml")
