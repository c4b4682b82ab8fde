"""A worker of a sweep: takes trials, trains each in a separate process, and records its end.

Any number of workers may share a sweep, on any hosts with the same file system. They communicate
only through the sweep's folder. A worker that is killed leaves a trial with a checkpoint; after the
lease has lapsed another worker resumes it.
"""

import contextlib
import dataclasses
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from signvit_jax.config.errors import ConfigError
from signvit_jax.runtime.exit_codes import DONE, OUT_OF_MEMORY, USAGE
from signvit_jax.runtime.signals import EXIT_CODES
from signvit_jax.sweep.leases import Claim, Holding, make_claim, server_time
from signvit_jax.sweep.pruning import should_prune
from signvit_jax.sweep.sampling import next_parameters, seeds_verdict
from signvit_jax.sweep.space import Value
from signvit_jax.sweep.trial_files import (
    Sweep,
    SweepError,
    Trial,
    best_of,
    override_flags,
    seeds_of,
)

log = logging.getLogger(__name__)

_LOG = "train.log"  # what the training command of a trial prints
_IN_USE = " is in use by "  # of checkpoints.workdir_lock's error
# A worker gives up after this many failed trials in a row: the machine is at fault.
_MAX_FAILURES = 3
_SECONDS_TO_SAVE = 300.0  # time limit of a run that was asked to save and stop
_POLL_SECONDS, _IDLE_SECONDS = 1.0, 5.0

_LAUNCHER = Path(__file__).with_name("launch.py")

TRAIN = (sys.executable, "-m", "signvit_jax.train")


class _Stopped(Exception):
    """The worker was asked to stop."""


class Worker:
    """One worker. `train`: the command that trains, before its flags.

    `poll_seconds`: between two looks at the metrics of the trial that runs; tests shorten it.
    """

    def __init__(
        self,
        sweep: Sweep,
        train: Sequence[str] = TRAIN,
        poll_seconds: float = _POLL_SECONDS,
        idle_seconds: float = _IDLE_SECONDS,
    ):
        self.sweep = sweep
        self._train = train
        self._poll_seconds = poll_seconds
        self._idle_seconds = idle_seconds
        self._stop_signal = 0
        self._failures = 0

    def run(self) -> int:
        """Work until the sweep is finished or a signal comes; return the exit code.

        Raises SweepError if trials keep failing.
        """
        handlers = {number: signal.signal(number, self._receive) for number in EXIT_CODES}
        try:
            while True:
                if self._stop_signal:
                    raise _Stopped
                if not self._work_once():
                    return DONE
        except _Stopped:
            log.warning("stopped; the trials are kept, and another worker can go on")
            return EXIT_CODES[signal.Signals(self._stop_signal)]
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: object) -> None:
        del frame
        self._stop_signal = number

    def _work_once(self) -> bool:
        """Resume a waiting trial, begin a new one, or wait; False if the sweep is finished."""
        sweep = self.sweep
        now = server_time(sweep.folder)
        trials = sweep.read(now)
        for trial in trials:
            if trial.kind == "base" and trial.state == "failed":
                raise SweepError(
                    f"the config with nothing searched cannot be trained: {trial.reason}\n"
                    f"{trial.folder / _LOG} says more; repair it and give the same "
                    "`signvit sweep run` again"
                )
            if trial.state == "waiting" and self._resume(trial):
                return True
        upcoming = next_trial(sweep, trials, now)
        if upcoming is not None:
            number = max((trial.number for trial in trials), default=-1) + 1
            self._begin(number, *upcoming)
            return True
        if all(trial.is_finished for trial in trials):
            return False
        self._sleep(self._idle_seconds)  # others may be killed, and their trials need a worker
        return True

    def _resume(self, trial: Trial) -> bool:
        """Train a waiting trial, or record that it failed; False if another worker claimed it."""
        if trial.fruitless_attempts >= self.sweep.settings.attempts:
            reason = trial.reason or f"{trial.fruitless_attempts} attempts made no progress"
            self.sweep.write_result(trial, "failed", reason)
            return True
        claim = make_claim(trial.folder, len(trial.claims) + 1, trial.step)
        if claim is None:
            return False
        self._train_trial(dataclasses.replace(trial, claims=(*trial.claims, claim)))
        return True

    def _begin(self, number: int, kind: str, parameters: dict[str, Value]) -> None:
        """Make a trial and train it, unless another worker has made one with this number."""
        claim = self.sweep.add_trial(number, kind, parameters)
        if claim is None:
            return
        size = parameters.get("training.batch_size", self.sweep.base.training.batch_size)
        trial = Trial(
            number,
            kind,
            dict(parameters),
            claim.path.parent,
            "running",
            claims=(claim,),
            batch_size=int(size),
        )
        self._train_trial(trial)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._stop_signal and time.monotonic() < end:
            time.sleep(min(0.1, seconds))

    def _train_trial(self, trial: Trial) -> None:
        sweep = self.sweep
        shown = ", ".join(f"{key}={value}" for key, value in trial.parameters.items())
        claim = trial.claims[-1]
        again = f", attempt {claim.number}, from step {trial.step}" if claim.number > 1 else ""
        log.info("trial %d: %s%s", trial.number, shown or "the config untouched", again)
        try:
            sweep.config_of(trial.parameters)
        except ConfigError as error:
            log.info("trial %d: invalid: %s", trial.number, error)
            sweep.write_result(trial, "invalid", str(error))
            return
        holding = Holding(claim, sweep.settings.lease_seconds)
        with holding.renewed():
            code, pruned = self._follow(trial, holding)
            if not holding.check():
                log.warning("trial %d: another worker has taken it over", trial.number)
                return
            self._record(sweep.with_metrics(trial), code, pruned=pruned)

    def _follow(self, trial: Trial, holding: Holding) -> tuple[int, bool]:
        """Run the training command until it ends or is to be stopped.

        Returns its exit code, and whether the trial was pruned.
        """
        command = [
            *(sys.executable, "-P", str(_LAUNCHER), str(os.getpid())),
            *self._train,
            f"--config={self.sweep.config_file}",
            *override_flags(trial.parameters),
            f"--workdir={trial.folder}",
        ]
        seen, pruned = 0, False
        with (trial.folder / _LOG).open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the terminal is for the worker
            )
            try:
                while True:
                    try:
                        return process.wait(self._poll_seconds), pruned
                    except subprocess.TimeoutExpired:
                        pass
                    if self._stop_signal or holding.lost:
                        return self._end(process), False
                    current = self.sweep.with_metrics(trial)
                    if len(current.curve) > seen:
                        seen = len(current.curve)
                        trials = self.sweep.read(server_time(self.sweep.folder))
                        if should_prune(self.sweep, current, trials):
                            pruned = True
                            return self._end(process), True
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()

    def _end(self, process: "subprocess.Popen[bytes]") -> int:
        """Stop the run, with time to save a checkpoint; return its exit code."""
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_SECONDS_TO_SAVE)
        process.kill()
        return process.wait()

    def _record(self, trial: Trial, code: int, *, pruned: bool) -> None:
        """Record how a trial ended, or leave it to another attempt."""
        sweep, metric = self.sweep, self.sweep.settings.metric
        message = _last_line(trial.folder / _LOG)
        if self._stop_signal and code != DONE:
            trial.claims[-1].release()
            raise _Stopped
        if pruned and code != DONE:
            self._finish(trial, "pruned", f"worse than others after {trial.curve[-1][0]} clips")
        elif code == DONE and trial.value is not None:
            self._failures = 0
            self._finish(trial, "complete", "")
        elif code == DONE:
            self._failed(trial, f"it ended without a finite validation/{metric}")
        elif code == OUT_OF_MEMORY:
            self._finish(trial, "out_of_memory", message)
        elif code == USAGE and _IN_USE in message:
            # The last worker of the trial is gone, but the run that it started has not ended yet.
            trial.claims[-1].release()
            self._sleep(self._idle_seconds)
        elif code == USAGE:
            self._failed(trial, message)
        elif trial.fruitless_attempts >= sweep.settings.attempts:
            self._failed(trial, f"exit code {code}: {message}")
        else:
            log.warning(
                "trial %d: exit code %d: %s; it is tried again", trial.number, code, message
            )
            # Not released: an attempt without progress counts.
            self._lapse(trial.claims[-1])

    def _lapse(self, claim: Claim) -> None:
        """Let a claim lapse at once."""
        with contextlib.suppress(OSError):
            os.utime(claim.path, (0, 0))

    def _failed(self, trial: Trial, reason: str) -> None:
        self._finish(trial, "failed", reason)
        self._failures += 1
        if self._failures >= _MAX_FAILURES:
            raise SweepError(
                f"{_MAX_FAILURES} trials in a row failed, the last with: {reason}\n"
                f"{trial.folder / _LOG} says more; repair it and give the same `signvit sweep run` "
                "again, which tries failed trials once more"
            )

    def _finish(self, trial: Trial, state: str, reason: str) -> None:
        self.sweep.write_result(trial, state, reason)
        value = "" if trial.value is None else f", {self.sweep.settings.metric} {trial.value:.4g}"
        log.info("trial %d: %s%s%s", trial.number, state, value, f" ({reason})" if reason else "")
        if self.sweep.settings.keep == "best":
            delete_checkpoints_of_losers(self.sweep)


def next_trial(
    sweep: Sweep, trials: Sequence[Trial], now: float
) -> tuple[str, dict[str, Value]] | None:
    """The kind and the values of the trial to begin; None if there is none, or none yet.

    The result depends only on the table of trials. If two workers call this at the same time, only
    one of them can make the trial, and the other calls it again.
    """
    settings = sweep.settings
    searched = [trial for trial in trials if trial.kind != "seed"]
    if len(searched) < settings.trials and not _limit_reached(sweep, trials, now):
        number = max((trial.number for trial in trials), default=-1) + 1
        parameters = next_parameters(sweep, trials, number)
        if parameters is not None:
            return ("search" if trials else "base"), dict(parameters)
    if not all(trial.is_finished for trial in searched):
        return None
    best = best_of(settings, trials)
    if best is None or best.kind == "base":
        return None
    first = sweep.base.training.seed
    done = {trial.parameters.get("training.seed") for trial in seeds_of(best, trials)}
    for seed in range(first + 1, first + 1 + settings.seeds):
        if seed not in done:
            return "seed", {**best.parameters, "training.seed": seed}
    return None


def _limit_reached(sweep: Sweep, trials: Sequence[Trial], now: float) -> bool:
    settings = sweep.settings
    if settings.hours:
        try:
            started = (sweep.folder / "started").stat().st_mtime
        except FileNotFoundError:
            started = now
        if now - started > 3600 * settings.hours:
            return True
    if settings.patience:
        finished = [trial for trial in trials if trial.is_finished and trial.kind != "seed"]
        best = best_of(settings, finished)
        if best is not None:
            since = [trial for trial in finished if trial.number > best.number]
            return len(since) >= settings.patience
    return False


def delete_checkpoints_of_losers(sweep: Sweep) -> None:
    """Delete the checkpoints of finished trials that are not the best; all else stays.

    Seeds of the best keep theirs. A trial that is not the best now never becomes the best.
    """
    trials = sweep.read(server_time(sweep.folder))
    best = best_of(sweep.settings, trials)
    kept = {trial.number for trial in seeds_of(best, trials)} | {best.number if best else -1}
    for trial in trials:
        folder = trial.folder / "checkpoints"
        if trial.is_finished and trial.number not in kept and folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)


def _last_line(path: Path) -> str:
    """The last line that begins with `error:`, or else the last one."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - 20_000, 0))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or [""])[-1].removeprefix("error: ")[:500]


def end_message(sweep: Sweep) -> str:
    """What a finished sweep found, in one or two lines."""
    trials = sweep.read(server_time(sweep.folder))
    best = best_of(sweep.settings, trials)
    if best is None:
        return "no trial was completed"
    found = f"best: trial {best.number}, {sweep.settings.metric} {best.value:.4g}"
    verdict = seeds_verdict(sweep.settings, trials)
    return f"{found}\n{verdict}" if verdict else found
