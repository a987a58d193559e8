"""Short forms of a recipe written out: the keys that a phase has from `defaults`, from `like` and from its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Tree = dict[str, Any]
OWN = ("name", "init", "init_weights", "init_grown", "member")
"""Keys that a phase does not take from the phase it is like."""


def write_out(tree: Tree) -> tuple[Tree, list[str]]:
    """Give every phase all its keys; also the faults of `defaults` and `like`, one line each.

    Whatever isn't of the expected shape stays as it is: validation by types says what is wrong with it.
    """
    stages = tree.get("stages")
    if not isinstance(stages, list):
        return tree, []
    faults: list[str] = []
    written: list[Any] = []
    for stage in stages:
        if isinstance(stage, dict) and isinstance(stage.get("runs"), dict):
            where = f"stages.{stage.get('name')}.runs"
            runs = {}
            for name, run in stage["runs"].items():
                runs[name] = _write_out_run(run, f"{where}.{name}", (stage.get("name"), name), written, faults)
            written.append(stage | {"runs": runs})
        else:
            written.append(stage)
    return tree | {"stages": written}, faults


def _write_out_run(run: Any, where: str, place: tuple[Any, Any], earlier: list[Any], faults: list[str]) -> Any:
    if not isinstance(run, dict) or not isinstance(run.get("phases"), list):
        return run
    defaults = {} if run.get("defaults") is None else run["defaults"]
    if not isinstance(defaults, dict):
        faults.append(f"{where}.defaults: must be keys and values of a phase (found {defaults!r})")
        defaults = {}
    for key in ("name", "like"):
        if key in defaults:
            faults.append(f"{where}.defaults.{key}: is a phase's own; write it in the phase")
    inherited = {key: value for key, value in defaults.items() if key not in ("name", "like")}
    phases: list[Any] = []
    for phase in run["phases"]:
        phases.append(_inherit(phase, inherited, phases, where, faults) if isinstance(phase, dict) else phase)
    for position, phase in enumerate(phases):
        if isinstance(phase, dict):
            _write_out_origin(phase, position, phases, earlier, place)
            phase.setdefault("member", 1.0 if position == len(phases) - 1 else 0.0)
    rest = {key: value for key, value in run.items() if key != "defaults"}
    return {"network": place[1]} | rest | {"phases": phases}


def _inherit(phase: Tree, defaults: Tree, earlier: Sequence[Any], where: str, faults: list[str]) -> Tree:
    """A phase with the keys of the phase it is like, or of the defaults."""
    base, like = defaults, phase.get("like")
    if like is not None:
        models = [p for p in earlier if isinstance(p, dict) and p.get("name") == like]
        if models:
            base = {key: value for key, value in models[-1].items() if key not in OWN}
        else:
            names = ", ".join(str(p.get("name")) for p in earlier if isinstance(p, dict))
            faults.append(
                f"{where}.phases.{phase.get('name')}.like: there is no earlier phase {like!r} in this run; "
                f"write one of: {names or 'none, this is the first phase'}"
            )
    return base | {key: value for key, value in phase.items() if key != "like"}


def _write_out_origin(
    phase: Tree, position: int, phases: Sequence[Any], earlier: Sequence[Any], place: tuple[Any, Any]
) -> None:
    """Make `init` either `encoder` or `stage/run/phase`, and say which of its weights."""
    run, init = f"{place[0]}/{place[1]}", phase.get("init")
    if init is None:
        before = phases[position - 1]
        named = isinstance(before, dict) and before.get("name")
        phase["init"] = "encoder" if position == 0 else f"{run}/{named}"
    elif isinstance(init, str) and "/" not in init and init != "encoder":
        phase["init"] = f"{run}/{init}"
    if phase.get("init_weights") is None and isinstance(phase["init"], str):
        select = _find_phase(phase["init"], run, phases, earlier).get("select")
        ends = isinstance(select, dict | str) and "end_of_cycle" in select
        phase["init_weights"] = "last" if ends else "best"


def _find_phase(init: str, run: str, phases: Sequence[Any], earlier: Sequence[Any]) -> Tree:
    """The phase `stage/run/phase` of this run or of an earlier, written-out stage; empty if there is none."""
    owner, _, name = init.rpartition("/")
    candidates = list(phases) if owner == run else []
    for stage in earlier:
        runs = stage.get("runs") if isinstance(stage, dict) else None
        for key, other in runs.items() if isinstance(runs, dict) else ():
            if f"{stage.get('name')}/{key}" == owner and isinstance(other, dict):
                candidates += other["phases"] if isinstance(other.get("phases"), list) else []
    return next((p for p in candidates if isinstance(p, dict) and p.get("name") == name), {})
