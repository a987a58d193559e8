"""Mosaics of tiles cut from one picture, and masks that follow from labelled neighbours in them."""
