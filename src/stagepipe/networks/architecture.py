"""What the builder has to know of an architecture of our own."""

from torch import nn


class Architecture(nn.Module):
    """Base of our own architectures, made with the words of smp's: encoder_name, encoder_weights, in_channels, classes.

    Parameters below `encoder.` are those that can be frozen; the pretrained ones are among them.
    """

    encoder: nn.Module
    encoder_names: frozenset[str] = frozenset()
    """encoders that the architecture takes; none: it has one of its own, and `encoder` of the network is null"""
    requires_divisible_input_shape = True
    divisor: int
    """what heights and widths of the input must be multiples of"""
    head_names: tuple[str, ...] = ()
    """outputs of `heads` beside the logits"""
    part_names: tuple[str, ...] = ()
    """modules beside the encoder that may have a learning rate of their own"""
    unused_encoder_weights: frozenset[str] = frozenset()
    """parameters of the encoder that the network replaces; a weights file holds them nevertheless"""
