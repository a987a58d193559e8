"""Mosaics of tiles cut from one picture, and masks that follow from labelled neighbours in them.

`mosaics.find` puts tiles together by their borders, `mosaics.read` takes published mosaics from CSV or JSON,
`rules.replacements` lists the masks that follow; `mosaics.write_mosaics`, `tables.write_replacements` and
`tables.effect_rows` are what the workflow's jobs run.
"""
