"""Requeuing of a Slurm job shortly before its time limit, if the user gave --requeue."""

import logging
import os
import signal
import subprocess

from signvit_jax.config.errors import ConfigError

log = logging.getLogger(__name__)


def check_requeue() -> None:
    """Raise ConfigError if this process is not part of a Slurm job: --requeue needs one."""
    if not os.environ.get("SLURM_JOB_ID"):
        raise ConfigError(
            "--requeue was given, but this is not a Slurm job: SLURM_JOB_ID is not set; "
            "leave --requeue out"
        )


def requeue_after(signal_number: int) -> None:
    """Requeue this job by `scontrol requeue` if the signal that stopped the run is SIGUSR1.

    With `#SBATCH --signal=USR1@120` Slurm sends SIGUSR1 120 s before the job's time limit. After
    SIGTERM (scancel) or SIGINT the job is not requeued. If scontrol fails, only a warning is
    logged.
    """
    if signal_number != signal.SIGUSR1:
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
