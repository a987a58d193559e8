"""Reading the graph of the whole TGS salt 1st place's recipe: from an empty folder, and with nothing to be done.

The plain way is Snakemake on a Snakefile without rules, so what is below a ratio of 1 is what our graph costs.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa

from benchmarks.timing import interleave
from stagepipe import code
from stagepipe.artefacts import Provenance, save_weights, write_table
from stagepipe.workflow import FROZEN, Plan, plan

CHECKOUT = Path(__file__).resolve().parent.parent
RECIPE = [CHECKOUT / "config" / name for name in ("recipes/tgs_salt_1st.yaml", "overlays/synthetic.yaml")]
REPEATS = 3


def snakemake(*arguments: str, folder: Path, snakefile: Path) -> str:
    """Run it to its end and return all it says; RuntimeError with that if it fails."""
    command = [str(Path(sys.executable).with_name("snakemake")), "--cores", "1", *arguments]
    command += ["-s", str(snakefile), "--directory", str(folder)]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("STAGEPIPE_", "SNAKEMAKE_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    environment = kept | {"PATH": path, "PYTHONPATH": str(CHECKOUT / "src")}
    done = subprocess.run(command, env=environment, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout + done.stderr


def ours(folder: Path, *arguments: str) -> str:
    """The recipe in a folder."""
    words = [*arguments, "--configfile", *map(str, RECIPE)]
    return snakemake(*words, folder=folder, snakefile=CHECKOUT / "Snakefile")


def make_up(folder: Path) -> None:
    """Every output of the recipe, as small as it gets, marked as made by today's recipe and code."""
    import torch

    os.environ[FROZEN] = ""
    before = Path.cwd()
    os.chdir(folder)
    try:
        made = plan(RECIPE, {}, CHECKOUT)
    finally:
        os.chdir(before)
        del os.environ[FROZEN]
    table, weights = pa.table({"value": [1]}), {"0": {"value": torch.zeros(1)}}
    for path, (rule, part) in made.parts.items():
        provenance = Provenance(part.fingerprint(), {}, code.fingerprint(made.script(rule)))
        if path.endswith(".parquet"):
            write_table(folder / path, table, provenance)
        else:
            save_weights(folder / path, weights, provenance)
    rest(folder, made)


def rest(folder: Path, made: Plan) -> None:
    """The outputs that are no artefacts: the folder of raw files, and whatever else Snakemake misses."""
    (folder / made.results / "raw").mkdir(parents=True)
    missing = ", ".join(re.findall(r"Missing output files: ([^;\n]+)", ours(folder, "--dry-run")))
    for path in {folder / name for name in missing.split(", ")}:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.name, encoding="utf-8")


def run(gpu: bool) -> list[dict]:
    with tempfile.TemporaryDirectory() as temporary:
        empty, made, bare = (Path(temporary) / name for name in ("empty", "made", "bare"))
        for folder in (empty, made, bare):
            folder.mkdir()
        (bare / "Snakefile").write_text("rule all:\n    input: []\n", encoding="utf-8")
        make_up(made)
        ours(made, "--touch")
        planned, idle = ours(empty, "--dry-run"), ours(made, "--dry-run")
        if "Nothing to be done" not in idle:
            raise RuntimeError(f"the made-up run is not finished: {idle[-2000:]}")
        seconds = interleave(
            {
                "plain": lambda: snakemake("--dry-run", folder=bare, snakefile=bare / "Snakefile"),
                "from an empty folder": lambda: ours(empty, "--dry-run"),
                "with nothing to be done": lambda: ours(made, "--dry-run"),
            },
            REPEATS,
        )
    jobs = max(map(int, re.findall(r"^total +(\d+)", planned, re.M)))
    notes = {
        "from an empty folder": f"{jobs} jobs, synthetic raw data",
        "with nothing to be done": f"{jobs} jobs; made-up outputs, as small as they get, touched: no training ran",
    }
    return [
        {
            "name": f"snakemake --dry-run of TGS 1st {what}",
            "plain": seconds["plain"],
            "ours": seconds[what],
            "unit": "s",
        }
        | {"ratio": seconds["plain"] / seconds[what], "note": f"{note}; plain: a Snakefile without rules"}
        for what, note in notes.items()
    ]


if __name__ == "__main__":
    print(*run(gpu=False), sep="\n")
