"""Run the benchmarks: `python -m benchmarks` prints a table in Markdown and writes it with the machine's data as JSON.

The file is written anew after every benchmark, with the rows of one that fails as far as it came. Every module runs in
a process of its own, so that none inherits another's memory, threads or warm caches. In all rows a ratio above 1 means
that stagepipe is the faster or smaller one. The last, `profile`, has no rows: it draws where the time of a training
step goes into docs/pictures (`benchmarks.profile`).
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from stagepipe.plan.figures import cpu_name

HERE = Path(__file__).resolve().parent
PROFILE = "profile"
ROW = ("name", "plain", "ours", "unit", "ratio", "note")
MORE = ("details",)
"""what a row may have besides, for the JSON file alone"""
LIBRARIES = (
    "torch", "segmentation-models-pytorch", "albumentations", "opencv-python-headless", "numpy", "pyarrow", "stagepipe",
)  # fmt: skip
CHILD = """
import importlib, json, sys
from pathlib import Path
name, gpu, output = sys.argv[1:]
with Path(output).open("w", encoding="utf-8") as file:
    for row in importlib.import_module(name).run(gpu == "gpu"):
        print(json.dumps(row), file=file, flush=True)
        print(" ", row["name"], row["ratio"], file=sys.stderr, flush=True)
"""


def modules(folder: Path = HERE) -> list[str]:
    """Names of the benchmarks in a folder, without `bench_`, sorted."""
    return sorted(path.stem.removeprefix("bench_") for path in folder.glob("bench_*.py"))


def measure(name: str, gpu: bool, folder: Path = HERE) -> tuple[list[dict], int]:
    """Rows of one benchmark, all those before it failed if it does, and its exit status."""
    if name == PROFILE:
        command = [sys.executable, "-m", "benchmarks.profile", *(["--gpu"] if gpu else [])]
        return [], subprocess.run(command, check=False, cwd=HERE.parent).returncode
    inherited = os.environ.get("PYTHONPATH")
    # As part of the package: on its own path `profile` would stand before Python's module of that name.
    module = f"benchmarks.bench_{name}" if folder == HERE else f"bench_{name}"
    paths = [str(HERE.parent if folder == HERE else folder), *([inherited] if inherited else [])]
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "rows.json"
        command = [sys.executable, "-c", CHILD, module, "gpu" if gpu else "cpu", str(output)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        status = subprocess.run(command, check=False, env=environment).returncode
        lines = output.read_text(encoding="utf-8").splitlines() if output.exists() else []
    rows = [json.loads(line) for line in lines]
    kept = [{"benchmark": name} | {key: row[key] for key in (*ROW, *MORE) if key in row or key in ROW} for row in rows]
    return kept, status


def gpu_name() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def machine(gpu: str | None) -> dict[str, object]:
    """What the numbers hold for."""
    versions = {"python": platform.python_version()} | {name: metadata.version(name) for name in LIBRARIES}
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "gpu": gpu},
        "load": os.getloadavg()[0],
        "versions": versions,
    }


def table(rows: list[dict]) -> str:
    """Markdown."""
    lines = ["| work | plain | ours | unit | ratio | note |", "|---|---:|---:|---|---:|---|"]
    for row in rows:
        plain, ours = (number(row[key]) for key in ("plain", "ours"))
        cells = (row["name"], plain, ours, row["unit"], f"{row['ratio']:.2f}", row["note"])
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def number(value: float) -> str:
    """Three digits, none of the integer part lost."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main(arguments: list[str] | None = None, folder: Path = HERE) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [*modules(folder), *([PROFILE] if folder == HERE else [])]
    parser.add_argument("--gpu", action="store_true", help="measure on the GPU what runs there, at a GPU's sizes")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME",
                        help=f"these benchmarks alone, of {', '.join(names)}")  # fmt: skip
    parser.add_argument("--output", type=Path, default=HERE / "results.json", help="JSON file (default: %(default)s)")
    options = parser.parse_args(arguments)
    gpu = gpu_name()
    if options.gpu and gpu is None:
        parser.error("--gpu: torch sees no CUDA device here; leave it out to measure on the CPU")
    report, failures = machine(gpu if options.gpu else None) | {"rows": []}, []
    for name in options.only or names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows, status = measure(name, options.gpu, folder)
        report["rows"] += rows
        if status:
            failures.append(f"the benchmark {name} ended with status {status}")
        options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(report["rows"]))
    if failures:
        raise SystemExit("; ".join(failures))


if __name__ == "__main__":
    main()
