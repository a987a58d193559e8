"""Training of one phase on one fold: `loop` is the training loop, the others are what it is made of."""

from stagepipe.training.loop import Trainer, TrainInputs, TrainOutputs, train

__all__ = ["TrainInputs", "TrainOutputs", "Trainer", "train"]
