"""What a job can ask of SLURM while it runs there."""

import logging
import os
import subprocess

LOG = logging.getLogger(__name__)


def queue_again() -> None:
    """In a job of SLURM, have it stopped and queued again under its own number; elsewhere do nothing.

    A training whose time is nearly over calls it once its state is saved. Where the site doesn't allow it, a warning
    says so: the job fails, and the profile's `retries` send another one.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode:
        LOG.warning("SLURM does not queue job %s again: %s", job, done.stderr.strip())
    else:
        LOG.warning("SLURM queues job %s again", job)
