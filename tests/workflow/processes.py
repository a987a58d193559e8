"""Start a run of Snakemake, wait until it is at some point, kill it with all it has started."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from project import Project


def start(project: "Project", *arguments: str, output: IO[bytes], **environment: str) -> subprocess.Popen[bytes]:
    """Run snakemake in a session of its own, as a terminal does; what it says goes to `output`."""
    return subprocess.Popen(
        project.command(*arguments),
        cwd=project.folder,
        env=project.environment(**environment),
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def run_job(project: "Project", command: str) -> subprocess.CompletedProcess[str]:
    """Run one job's command to its end, as Snakemake does."""
    return subprocess.run(
        ["bash", "-c", command],
        cwd=project.folder,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def children(process: int) -> list[int]:
    """The process and all that it and its children have started, whatever group or session they are in."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has ended meanwhile
                continue
    found = [process]
    for parent in found:
        found += [child for child, above in parents.items() if above == parent]
    return found


def kill(processes: list[int]) -> None:
    for process in processes:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue


def kill_tree(process: subprocess.Popen[bytes]) -> list[str]:
    """SIGKILL a process and all below it, none of which gets to notice; returns what they were, as command lines."""
    # A parent that is stopped can't start another child while its children are listed.
    stopped: list[int] = []
    while new := [found for found in children(process.pid) if found not in stopped]:
        for found in new:
            try:
                os.kill(found, signal.SIGSTOP)
            except ProcessLookupError:
                continue
        stopped += new
    commands = [command_line(found) for found in stopped]
    kill(stopped)
    process.wait()
    return commands


def command_line(process: int) -> str:
    """The words of a running process; empty if it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def wait_for(log: Path, text: str, process: subprocess.Popen[bytes]) -> None:
    while not (log.exists() and text in log.read_text(encoding="utf-8")):
        assert process.poll() is None, "it ended too early"
        time.sleep(0.005)
