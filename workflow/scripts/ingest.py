"""Verify every raw file, decode it once into the pixel store, and list samples and faults."""

from stagepipe import script
from stagepipe.recipe.parts import IngestPart


def main() -> None:
    work = script.start(__doc__, IngestPart, inputs=["root"], outputs=["samples", "pixels", "faults"])
    from stagepipe.data.ingest import ingest

    outputs = (work.path(name) for name in ("samples", "pixels", "faults"))
    ingest(work.part.dataset, work.path("root"), *outputs, work.provenance, work.threads)


if __name__ == "__main__":
    main()
