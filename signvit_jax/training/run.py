"""Start a run or resume one: workdir, lock, log, config and data, then the train loop."""

import dataclasses
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import jax

from signvit_jax.checkpoints.best import best_rule
from signvit_jax.checkpoints.store import CheckpointStore
from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.checkpoints.workdir_lock import WorkdirLock, lock_workdir
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, flatten, to_json, without_local_paths
from signvit_jax.doctor.at_start import log_start
from signvit_jax.runtime.consensus import StopConsensus
from signvit_jax.runtime.signals import StopRequest
from signvit_jax.runtime.slurm import check_requeue, requeue_after
from signvit_jax.telemetry.goodput import Goodput
from signvit_jax.telemetry.metric_writer import MetricsLog
from signvit_jax.telemetry.profiler import TracedSteps
from signvit_jax.telemetry.run_log import start_run_log
from signvit_jax.telemetry.trackers import open_trackers
from signvit_jax.text.tokenizer import Tokenizer
from signvit_jax.training.distillation import Teacher
from signvit_jax.training.hooks import StepHooks
from signvit_jax.training.origin import check_data_set, recorded_teacher, write_origin
from signvit_jax.training.resolve_config import ResolvedConfig, resolve_config
from signvit_jax.training.run_data import RunData
from signvit_jax.training.save_and_restore import RunCheckpoints, was_ever_frozen
from signvit_jax.training.step_programs import StepPrograms
from signvit_jax.training.train_loop import TrainingRun, train_loop
from signvit_jax.training.validation import ValidationPass

log = logging.getLogger(__name__)


def train(
    config: Config,
    path: Path,
    *,
    strict_restore: bool,
    requeue: bool,
    profile: TracedSteps | None,
    teacher: str | None = None,
    trackers: Sequence[str] = (),
) -> int:
    """Train in the workdir at `path`, or resume its run; return the exit code.

    A damaged newest checkpoint is reported and the one before it is used; with `strict_restore` it
    ends the run instead. `profile`: the steps to trace, if any. `teacher`: the workdir of a teacher
    to learn from, in place of the config's. `trackers`: names of `telemetry.trackers`. With
    `requeue` a Slurm job that SIGUSR1 stopped is requeued once everything is saved.

    Raises WorkdirError, ConfigError, DatasetError and WeightsError before anything is compiled, and
    later the errors of data, checkpoints and steps.
    """
    if requeue:
        check_requeue()
    workdir = Workdir.create(path)
    with StopRequest() as stop, lock_workdir(workdir) as lock, Goodput() as goodput:
        start_run_log(workdir.run_log)
        log_start(config, workdir.path)
        if lock.killed:
            log.info("took over the lock of %s, which has ended without releasing it", lock.killed)

        with stop.exit_immediately_on_signal():  # there is nothing to save yet
            resolved = resolve_config(config, workdir, teacher)
            data = RunData(resolved.config, resolved.dataset, *read_tokenizers(workdir))
            check_data_set(data, workdir)
            run = _build(
                resolved, data, workdir, lock, stop, goodput, strict_restore, profile, trackers
            )
            _check_epochs(run)
            if jax.process_index() == 0:
                write_description(data, workdir, run.programs.teacher)
        store = run.checkpoints.store
        try:
            with run.programs.explained_oom():
                code = train_loop(run)
        finally:
            log.info("%s", goodput.line(store.latest_step()))
        if requeue and jax.process_index() == 0:
            requeue_after(run.consensus.received)
        return code


def _build(
    resolved: ResolvedConfig,
    data: RunData,
    workdir: Workdir,
    lock: WorkdirLock,
    stop: StopRequest,
    goodput: Goodput,
    strict_restore: bool,
    profile: TracedSteps | None,
    trackers: Sequence[str],
) -> TrainingRun:
    training = resolved.config.training
    consensus = StopConsensus(stop)
    batches = data.train_batches()
    store = CheckpointStore(
        workdir.checkpoints,
        training.keep_last_n_checkpoints,
        strict=strict_restore,
        **best_rule(training.best_metric),
    )
    thaws = was_ever_frozen(resolved, store)
    programs = StepPrograms(data, batches, recorded_teacher(workdir), thaws=thaws)

    def recreate_if_lost() -> None:
        if not lock.holds():
            recreate_workdir(data, workdir, lock, programs.teacher)

    checkpoints = RunCheckpoints(
        store, resolved, programs, batches, goodput, consensus, recreate_if_lost
    )
    settings = flatten(dataclasses.asdict(without_local_paths(resolved.config)))
    metrics = MetricsLog(
        workdir,
        lambda: open_trackers(trackers, workdir.path.resolve().name, workdir.path, settings),
    )

    def make_hooks(steps_done: int) -> StepHooks:
        return StepHooks(
            data,
            batches,
            programs,
            checkpoints,
            metrics,
            goodput,
            workdir,
            steps_done=steps_done,
            profile=profile,
        )

    return TrainingRun(
        resolved=resolved,
        data=data,
        batches=batches,
        programs=programs,
        checkpoints=checkpoints,
        validation=ValidationPass(data, programs, consensus, stop, workdir),
        metrics=metrics,
        goodput=goodput,
        stop=stop,
        consensus=consensus,
        make_hooks=make_hooks,
    )


def _check_epochs(run: TrainingRun) -> None:
    """Raise ConfigError if the run has made more steps than it is asked for."""
    done = run.checkpoints.store.latest_step() or 0
    if done > run.batches.total_steps:
        epochs = done / run.batches.steps_per_epoch
        raise ConfigError(
            f"config.training.num_epochs asks for {run.data.num_epochs} epochs, but this workdir "
            f"has done {epochs:g} (step {done:,}); give {math.ceil(epochs)} or more, or another "
            "--workdir. Its checkpoints can be used as they are"
        )


def read_tokenizers(workdir: Workdir) -> list[Tokenizer | None]:
    """Return the tokenizers of texts and of glosses that an earlier start left, None for each."""
    files = (workdir.tokenizer_json, workdir.gloss_tokenizer_json)
    return [workdir.read_tokenizer(file) if file.is_file() else None for file in files]


def write_description(data: RunData, workdir: Workdir, teacher: Teacher | None) -> None:
    """Write everything but checkpoints that evaluation, translation and a later start need."""
    workdir.write_text(workdir.config_json, to_json(data.config))
    workdir.write_text(workdir.tokenizer_json, data.tokenizer.to_json())
    if data.gloss_tokenizer:
        workdir.write_text(workdir.gloss_tokenizer_json, data.gloss_tokenizer.to_json())
    write_origin(workdir, data, teacher and teacher.identity)


def recreate_workdir(
    data: RunData, workdir: Workdir, lock: WorkdirLock, teacher: Teacher | None
) -> None:
    """Create the workdir again under its name, with everything that a later start needs.

    For a workdir, or its lock, that was renamed or deleted; the content of the old folder stays
    there.
    """
    was_there = workdir.path.is_dir()
    Workdir.create(workdir.path)
    lock.take()
    if was_there and workdir.config_json.is_file():
        return  # only the lock was deleted
    log.warning(
        "%s is gone, renamed or deleted during the run; it is created again, and the run continues "
        "there",
        workdir.path,
    )
    start_run_log(workdir.run_log)
    write_description(data, workdir, teacher)
