"""Requeuing of a Slurm job whose time is nearly over, where the user gave --requeue."""

import logging
import os
import signal
import subprocess

from signvit_jax.config.errors import ConfigError

log = logging.getLogger(__name__)


def check_requeue() -> None:
    """Raise ConfigError outside a Slurm job."""
    if not os.environ.get("SLURM_JOB_ID"):
        raise ConfigError(
            "--requeue was given, but this is not a Slurm job: SLURM_JOB_ID is not set; "
            "leave --requeue out"
        )


def requeue_after(received: int) -> None:
    """Requeue this job if SIGUSR1 stopped the run (`scontrol requeue`).

    `#SBATCH --signal=USR1@120` sends SIGUSR1 120 s before the end of the job's time. After SIGTERM
    (scancel) and SIGINT the job is not requeued. A scontrol that fails is only logged.
    """
    if received != signal.SIGUSR1:
        return
    job = os.environ["SLURM_JOB_ID"]
    command = ["scontrol", "requeue", job]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("job %s could not be requeued: scontrol: %s", job, error)
        return
    if process.returncode:
        log.warning(
            "job %s could not be requeued: scontrol ended with %d: %s",
            job,
            process.returncode,
            process.stderr.strip(),
        )
    else:
        log.info("job %s is requeued", job)
