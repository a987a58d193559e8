"""How a job starts: its process imports nothing heavy that its work doesn't need, and compiles nothing twice."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

from stagepipe import compile_cache, launch
from stagepipe.artefacts import save_weights
from stagepipe.networks import build
from stagepipe.probabilities import ProbabilityWriter
from stagepipe.recipe.averages import EnsemblePart
from stagepipe.recipe.model import Dataset, Folds, Runtime, Submission, Synthetic
from stagepipe.recipe.parts import FoldsPart, IngestPart, MemberPart, PredictPart, SynthesisePart
from stagepipe.recipe.submission_parts import BinarisePart

SCRIPTS = Path(__file__).resolve().parents[1] / "workflow" / "scripts"
HEAVY = {
    "PIL", "albumentations", "cv2", "huggingface_hub", "matplotlib", "pandas", "pycocotools", "pydicom", "pygments",
    "scipy", "segmentation_models_pytorch", "skimage", "sklearn", "snakemake", "timm", "torch", "torchvision",
    "transformers",
}  # fmt: skip
NETWORKS = {"PIL", "cv2", "huggingface_hub", "segmentation_models_pytorch", "timm", "torch", "torchvision"}
"""timm brings the hub of Hugging Face; a network is timm's, torchvision's or that of segmentation_models_pytorch."""
AUGMENTATION = {"albumentations", "scipy"}
MAY = {
    "apply_jigsaw": set(),
    "binarise": set(),
    "collect_scores": {"pandas"},
    "ensemble": set(),
    "find_mosaics": set(),
    "ingest": {"PIL", "cv2"},
    "predict": NETWORKS,
    "report": {"pandas"},
    "score": set(),
    "score_jigsaw": set(),
    "search_blend": set(),
    "select_pseudolabels": {"pandas"},
    "split_folds": set(),
    "submit": set(),
    "synthesise": {"PIL", "cv2", "pydicom"},
    "train": NETWORKS | AUGMENTATION,
}
"""Heavy modules that a script may load: by all of its import statements, and where it compiles by its work too"""
TILES = {"PIL", "cv2"}
"""what making tiles up takes, which are no films"""
STRATIFIED = {"pandas", "scipy", "sklearn"}
"""what folds of equal shares take"""
COMPILING = ("predict", "train")
IMPORT = """
import json, os, sys
import stagepipe.script
for script, statements in json.loads(sys.argv[1]).items():
    if not os.fork():
        exec(statements, {})
        print(script, *sys.modules, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, script
"""
RUN = """
import gc, os, runpy, sys
os._exit = lambda status: None  # there is more to say
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print("imported", *sys.modules)
print("kept", os.environ.get("TORCHINDUCTOR_CACHE_DIR"))
print("collector", gc.isenabled(), gc.get_freeze_count() > 0)
"""
COMPILE = """
import json, sys
import torch
from torch._dynamo.utils import counters
from stagepipe.runtime import Machine
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU())
forward = Machine(torch.device("cpu"), bf16=False, compile=True, workers=0).compiled(network.forward)
side = int(sys.argv[1])
image = torch.linspace(-1, 1, side * side).view(1, 1, side, side)
result = forward(image)
result.sum().backward()
torch.testing.assert_close(result, network(image))
print(json.dumps({name.removeprefix("fxgraph_cache_"): count for name, count in counters["inductor"].items()}))
"""


def imports(script):
    """The script's own import statements, those within its functions too."""
    tree = ast.parse((SCRIPTS / f"{script}.py").read_text(encoding="utf-8"))
    return "\n".join(ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))


def process(code, *arguments, **changes):
    """Standard output of a Python process; `changes` of its environment."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | changes
    environment = {name: value for name, value in environment.items() if value is not None}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(script, part, **files):
    """Do a job in a process of its own; returns the heavy modules that it ended with."""
    arguments = [SCRIPTS / f"{script}.py", "--part", part.text(), "--runtime", '{"device":"cpu","workers":0}']
    for name, paths in files.items():
        arguments += [f"--{name.replace('_', '-')}", *(paths if isinstance(paths, list) else [paths])]
    said = dict(line.split(" ", 1) for line in process(RUN, *arguments).splitlines())
    # torch takes a folder of its own as soon as torchvision is imported, so ours must be named before.
    assert said["kept"] == str(compile_cache.kept() if script in COMPILING else None)
    assert said["collector"] == f"True {script in COMPILING}"
    return HEAVY & set(said["imported"].split())


def test_every_script_is_here():
    assert {path.stem for path in SCRIPTS.glob("*.py")} == set(MAY)


@pytest.fixture(scope="module")
def imported():
    """Modules that are there after a script's import statements, by script."""
    statements = {script: imports(script) for script in sorted(set(MAY) - set(COMPILING))}
    lines = process(IMPORT, json.dumps(statements)).splitlines()
    return {script: set(modules) for script, *modules in map(str.split, lines)}


@pytest.mark.parametrize("script", sorted(set(MAY) - set(COMPILING)))
def test_a_script_imports_nothing_heavy_that_it_has_no_use_for(script, imported):
    assert "stagepipe.script" in imported[script]
    assert HEAVY & imported[script] <= MAY[script]


# ------------------------------------------------------------------------------------------------------------ real jobs


def test_jobs_from_raw_files_to_folds_import_what_they_use(tmp_path):
    raw, samples, faults, folds = (
        tmp_path / name for name in ("raw", "samples.parquet", "faults.parquet", "f.parquet")
    )
    part = SynthesisePart(synthetic=Synthetic(train=8, test=2, size=32))
    assert run("synthesise", part, raw=raw, manifest=tmp_path / "manifest") <= TILES
    part = IngestPart(dataset=Dataset(format="tgs", root=str(raw)))
    found = run("ingest", part, root=raw, samples=samples, pixels=tmp_path / "pixels.bin", faults=faults)
    assert found <= MAY["ingest"]
    part = FoldsPart(folds=Folds(count=2, stratify=["coverage"], bins=2))
    assert run("split_folds", part, samples=samples, faults=faults, folds=folds) <= MAY["split_folds"] | STRATIFIED
    assert folds.exists()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.survey(tmp_path_factory.mktemp("data"), train=8, test=2)


@pytest.fixture
def sources(data):
    return {"samples": data.samples, "pixels": data.pixels, "folds": data.folds}


def test_a_training_imports_what_it_uses(data, sources, tmp_path):
    weights = tmp_path / "weights.safetensors"
    outputs = {"weights": weights, "history": tmp_path / "history.parquet", "state": tmp_path / "state"}
    found = run("train", tiny.part(epochs=1), **sources, **outputs)
    assert {"torch"} <= found <= MAY["train"]
    assert weights.exists()


def test_a_prediction_imports_what_it_uses(data, sources, tmp_path):
    of_network, weights, table = tiny.network(), tmp_path / "weights.safetensors", tmp_path / "out_of_fold.parquet"
    save_weights(weights, {"0": build(of_network, 1, 1, None, None, pretrained=False).module.state_dict()})
    part = PredictPart(
        stage="stage", run="run", fold="0", classes=["salt"], stored_channels=1, network=of_network,
        members=[MemberPart(phase="phase", member="0", weight=1)],
    )  # fmt: skip
    found = run("predict", part, **sources, weights=weights, out_of_fold=table, test=tmp_path / "test.parquet")
    assert {"torch"} <= found <= MAY["predict"]
    assert table.exists()


def test_jobs_from_tables_to_a_threshold_import_what_they_use(data, sources, tmp_path):
    tables, mean = [tmp_path / f"{number}.parquet" for number in range(2)], tmp_path / "mean.parquet"
    for number, path in enumerate(tables):
        with ProbabilityWriter(path) as writer:
            for sample_id in sorted(data.fold_of()):
                writer.add_quantised(sample_id, np.full((1, 32, 32), 100 + number, np.uint8))
    part = EnsemblePart(runs=[{"weight": 1}, {"weight": 1}], split="train")
    assert run("ensemble", part, tables=tables, table=mean) <= MAY["ensemble"]
    part = BinarisePart(submission=Submission(blend={"stage": 1.0}), classes=["salt"])
    outputs = {name: tmp_path / f"{name}.parquet" for name in ("thresholds", "cases", "confusion")}
    found = run("binarise", part, **sources, table=mean, **outputs, threshold=tmp_path / "threshold.json")
    assert found <= MAY["binarise"]
    assert outputs["cases"].exists()


def test_the_end_of_a_process_comes_at_once_with_all_that_it_said():
    work = "import atexit; from stagepipe import script; atexit.register(print, 'taken apart'); print('done')"
    assert process(f"{work}; script.end()") == "done\n"


# ------------------------------------------------------------------------------------------------- what compiling keeps


@pytest.fixture(autouse=True)
def unset(monkeypatch, tmp_path):
    """No folder for compiled kernels is named, and that of the user's cache is one of the test."""
    monkeypatch.setenv(compile_cache.VARIABLE, "before")
    monkeypatch.delenv(compile_cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_what_is_compiled_is_kept_for_this_user_and_processor_alone(unset):
    compile_cache.share(Runtime())
    folder = Path(os.environ[compile_cache.VARIABLE])
    assert folder.parent == unset / "cache" / "stagepipe" / "compiled"
    assert folder.stat().st_mode & 0o077 == 0
    (unset / "cpuinfo").write_text("processor: 0\nflags : sse2 avx512f\ncpu MHz : 1\n\nprocessor: 1\nflags : other\n")
    (unset / "same").write_text("processor: 0\nflags : sse2 avx512f\ncpu MHz : 2\n\nprocessor: 1\nflags : another\n")
    (unset / "other").write_text("processor: 0\nflags : sse2\ncpu MHz : 1\n")
    one, same, other = (compile_cache.kept(unset / name) for name in ("cpuinfo", "same", "other"))
    assert one == same != other


def test_a_folder_that_others_could_write_is_closed_to_them(unset):
    compile_cache.kept().mkdir(parents=True)
    compile_cache.kept().chmod(0o777)
    compile_cache.share(Runtime())
    assert compile_cache.kept().stat().st_mode & 0o777 == 0o700


def test_all_processes_of_one_training_know_the_folder(unset):
    compile_cache.share(Runtime())
    known = f"import os; raise SystemExit(os.environ['{compile_cache.VARIABLE}'] != {str(compile_cache.kept())!r})"
    assert launch.run([sys.executable, "-c", known], 2) == 0


def test_without_a_cache_folder_in_the_environment_it_lies_below_home(unset, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(unset))
    assert compile_cache.kept().parent == unset / ".cache" / "stagepipe" / "compiled"


def test_a_folder_that_the_user_names_stays(unset, monkeypatch):
    monkeypatch.setenv(compile_cache.VARIABLE, "elsewhere")
    compile_cache.share(Runtime())
    assert os.environ[compile_cache.VARIABLE] == "elsewhere"
    assert not (unset / "cache").exists()


def test_where_nothing_is_compiled_no_folder_is_made(unset):
    compile_cache.share(Runtime(compile=False))
    assert compile_cache.VARIABLE not in os.environ
    assert not (unset / "cache").exists()


def test_a_folder_that_cannot_be_made_is_told_of_and_torch_keeps_its_own(unset, caplog):
    (unset / "cache").write_text("a file in its place", encoding="utf-8")
    with caplog.at_level("INFO"):
        compile_cache.share(Runtime())
    assert compile_cache.VARIABLE not in os.environ
    assert "compiled kernels stay on this node" in caplog.text and compile_cache.VARIABLE in caplog.text


def test_a_file_system_without_locks_is_told_of(unset, caplog, monkeypatch):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(compile_cache.fcntl, "flock", flock)
    with caplog.at_level("INFO"):
        compile_cache.share(Runtime())
    assert compile_cache.VARIABLE not in os.environ
    assert "Function not implemented" in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="on a CPU torch compiles by g++, which is not here")
def test_a_second_process_compiles_nothing_and_another_shape_does(unset):
    kept = {compile_cache.VARIABLE: str(compile_cache.kept())}
    first, second, other = (json.loads(process(COMPILE, side, **kept)) for side in (16, 16, 24))
    assert first["miss"] == other["miss"] > 0 and not {"hit"} & (first.keys() | other.keys())
    assert second["hit"] == first["miss"] and "miss" not in second
