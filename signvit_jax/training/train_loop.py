"""A run from its initial state to its last step: evaluate, save, next batch, step, hooks."""

import contextlib
import dataclasses
import errno
import logging
from collections.abc import Callable, Iterator

import jax
from jaxtyping import PyTree

from signvit_jax.checkpoints.best import BestSoFar
from signvit_jax.config.schema import TrainingConfig
from signvit_jax.data.dataset import DatasetError
from signvit_jax.data.pipeline import Batch, BatchIterator
from signvit_jax.errors.base import SignVitError
from signvit_jax.optimization.learning_rates import LearningRates
from signvit_jax.optimization.train_state import TrainState
from signvit_jax.runtime.consensus import StopConsensus
from signvit_jax.runtime.exit_codes import FAILED, is_out_of_memory
from signvit_jax.runtime.signals import StopRequest
from signvit_jax.telemetry.goodput import Goodput
from signvit_jax.telemetry.metric_writer import MetricsLog
from signvit_jax.telemetry.trackers import RunEnd
from signvit_jax.training.hooks import StepHooks
from signvit_jax.training.resolve_config import ResolvedConfig
from signvit_jax.training.run_data import RunData, num_epochs
from signvit_jax.training.save_and_restore import (
    RunCheckpoints,
    fresh_state,
    with_converted_weights,
    with_pretrained_backbone,
    with_source_model,
)
from signvit_jax.training.step_programs import StepPrograms, device_batch
from signvit_jax.training.validation import PLATEAU_STEPS, PlateauNotice, ValidationPass

log = logging.getLogger(__name__)


class ProcessLostError(SignVitError, RuntimeError):
    """Another process of the run has ended; this one cannot continue without it."""

    exit_code = FAILED


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """The parts of a run, as `run.py` builds them."""

    resolved: ResolvedConfig
    data: RunData
    batches: BatchIterator
    programs: StepPrograms
    checkpoints: RunCheckpoints
    validation: ValidationPass
    metrics: MetricsLog
    goodput: Goodput
    stop: StopRequest  # the signals of this process
    consensus: StopConsensus  # the signals of all processes
    make_hooks: Callable[[int], StepHooks]  # by the number of steps that are done


def train_loop(run: TrainingRun) -> int:
    """Train to the last step, or until a signal stops the run; return the exit code.

    It is 0, or that of the signal. Raises the errors of data, checkpoints and steps.
    """
    training, data, batches = run.resolved.config.training, run.data, run.batches
    programs, checkpoints, validation = run.programs, run.checkpoints, run.validation
    consensus, goodput = run.consensus, run.goodput
    steps_per_epoch, total_steps = batches.steps_per_epoch, batches.total_steps
    num_workers = run.resolved.config.data.num_workers

    # Initial state: the first of these that exists. There is nothing to save yet, so a signal ends
    # the process at once.
    with run.stop.exit_immediately_on_signal():
        latest, validated = checkpoints.store.latest_step(), False
        if latest is not None and not checkpoints.store.is_converted(latest):
            # 1. The run's own newest undamaged checkpoint, with its data position.
            state, validated = checkpoints.restore()
            goodput.steps_replayed = run.metrics.rewind(int(state.step))
        elif latest is not None:
            # 2. A model that `signvit convert` wrote.
            state = with_converted_weights(fresh_state(programs), checkpoints.store, programs)
            _log_not_used(run)
        elif run.resolved.source is not None:
            # 3. A model trained on this or another data set.
            state = with_source_model(fresh_state(programs), run.resolved.source, data, programs)
        elif run.resolved.pretrained is not None:
            # 4. A pretrained backbone.
            state = with_pretrained_backbone(
                fresh_state(programs), run.resolved.pretrained, programs
            )
        else:
            # 5. Random parameters.
            state = fresh_state(programs)

    # What is left to do. A signal during a validation leaves a checkpoint without its metrics: that
    # validation is still pending.
    first_step = step = int(state.step)
    epoch, step_of_epoch = divmod(step, steps_per_epoch)
    ends_epoch = step > 0 and step_of_epoch == 0
    eval_pending = ends_epoch and not validated and _eval_is_due(epoch, data.num_epochs, training)
    finished = validated and _patience_is_over(checkpoints.best, epoch, training)
    _log_start(run, state, finished=finished, eval_pending=eval_pending)

    plateau = PlateauNotice(min(PLATEAU_STEPS, total_steps))
    hooks = run.make_hooks(first_step)
    with (
        _saves_finished(run),
        contextlib.closing(batches),
        _metrics_closed(run),
        hooks,
    ):
        while not consensus.stopping:
            epoch, step_of_epoch = divmod(step, steps_per_epoch)
            ends_epoch = step_of_epoch == 0 and (step > first_step or eval_pending)

            # Evaluate, at the end of an epoch.
            metrics = None
            if ends_epoch and _eval_is_due(epoch, data.num_epochs, training):
                hooks.show(step, f"epoch {epoch}/{data.num_epochs}, validation")
                if not validation.is_compiled and checkpoints.saved_step != step:
                    # A signal while the first validation compiles ends the process at once.
                    checkpoints.save(state, wait=True)
                with goodput.time_as("eval"):
                    metrics = validation.run(_evaluated_params(state), epoch)
                if metrics is None or consensus.stopping:
                    break
                hooks.log_validation(step, metrics, validation.samples)
                plateau.check(step, validation.blank_share)
                checkpoints.best.update(metrics[training.best_metric], epoch)

            # Save, at the end of an epoch. Between two steps the state and the position of
            # `batches` agree.
            if ends_epoch:
                best = checkpoints.best
                finished = metrics is not None and _patience_is_over(best, epoch, training)
                last = epoch == data.num_epochs or finished
                if last or epoch % training.save_every_n_epochs == 0:
                    checkpoints.save(state, metrics)
                    if metrics is not None and best.epoch == epoch:
                        with goodput.time_as("eval"):
                            validation.keep_calibration(
                                _evaluated_params(state), step, is_last=last
                            )
                hooks.plot()
                if finished:
                    _log_early_stop(best, training)
            if step == total_steps or finished or consensus.stopping:
                break

            if step == first_step:
                # Compile all programs of the run now, so that no step has to wait for one.
                hooks.show(step, "compiling")
                with run.stop.exit_immediately_on_signal():
                    programs.compile(first_step)
                hooks.start_clock()

            with goodput.time_as("step"):
                # The guard refuses implicit transfers between host and devices: each would make
                # one wait for the other.
                with _transfer_guard():
                    hooks.before(step + 1)
                    # Until the first step is done there is nothing to save.
                    with _exit_on_signal(run.stop, step == first_step):
                        # Next batch.
                        with hooks.waiting_for_data():
                            batch = _next_batch(batches, num_workers)
                        # Step.
                        state, report = programs.step(
                            state,
                            device_batch(batch, programs.mesh),
                            frozen_backbone=programs.is_frozen(step),
                        )
                    step += 1
                    # Hooks.
                    hooks.after(step, batch, report)
                # Save, every `save_every_n_minutes`.
                consensus.poll(checkpoints.save_is_due())
                if consensus.save_is_due:
                    checkpoints.save(state)

        if consensus.stopping and checkpoints.saved_step != step:
            checkpoints.save(state)
    hooks.plot(at_once=True)
    return consensus.exit_code


def _evaluated_params(state: TrainState) -> PyTree:
    """Return the averaged parameters, or the parameters of a run that keeps no average."""
    return state.params if state.ema is None else state.ema


@contextlib.contextmanager
def _metrics_closed(run: TrainingRun) -> Iterator[None]:
    """Close the metrics at the end, with the outcome and the best validation for trackers."""
    outcome = "failed"
    try:
        yield
        outcome = "stopped" if run.consensus.exit_code else "finished"
    finally:
        best = run.checkpoints.best
        summary = {}
        if best.value is not None:
            summary = {f"best/{best.metric}": best.value, "best/epoch": float(best.epoch)}
        run.metrics.close(RunEnd(outcome, summary))


def _transfer_guard() -> contextlib.AbstractContextManager[None]:
    """Refuse implicit transfers, but not with several processes: a global batch needs some."""
    if jax.process_count() > 1:
        return contextlib.nullcontext()
    return jax.transfer_guard("disallow")


def _eval_is_due(epoch: int, num_epochs: int, training: TrainingConfig) -> bool:
    return epoch % training.eval_every_n_epochs == 0 or epoch == num_epochs


def _patience_is_over(best: BestSoFar, epoch: int, training: TrainingConfig) -> bool:
    """Return True if the run stops early, after the validation of `epoch`."""
    patience = training.patience
    return patience > 0 and best.value is not None and epoch - best.since >= patience


def _next_batch(batches: BatchIterator, num_workers: int) -> Batch:
    """Return the next batch.

    Raises DatasetError with the clip that cannot be read, or if /dev/shm is too small for the
    batches of the reading processes.
    """
    try:
        return next(batches)
    except OSError as error:
        if error.errno != errno.ENOSPC or not num_workers:
            raise
        raise DatasetError(
            f"/dev/shm is too small for {num_workers} reading processes; enlarge it (docker: "
            "--shm-size), or set config.data.num_workers=0 to read in threads"
        ) from error


@contextlib.contextmanager
def _exit_on_signal(stop: StopRequest, enabled: bool) -> Iterator[None]:
    """If `enabled`, a signal within this context ends the process at once, without saving."""
    with stop.exit_immediately_on_signal() if enabled else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _saves_finished(run: TrainingRun) -> Iterator[None]:
    """Wait at the end for a save that is in flight, also when the run fails.

    Raises ProcessLostError if another process of the run has ended: a save that it took part in
    cannot finish.
    """
    store = run.checkpoints.store
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or is_out_of_memory(error):
            raise
        store.abandon()
        raise ProcessLostError(
            f"process {jax.process_index()} of {jax.process_count()} cannot continue: another one "
            "has ended; its own messages say why. Start all of them again on the same workdir: "
            "they resume from its newest checkpoint "
            f"({str(error).strip().splitlines()[0]})"
        ) from error
    finally:
        with run.goodput.time_as("save"):
            store.close()


def _log_start(run: TrainingRun, state: TrainState, *, finished: bool, eval_pending: bool) -> None:
    """Log the size of the run, and what this start does that a user may not expect."""
    data, batches, rates = run.data, run.batches, run.programs.rates
    step = int(state.step)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(run.programs.saved_state.params))
    log.info(
        "%s parameters; %s training and %s validation clips; %s tokens; %d x %s; %s steps per "
        "epoch, at step %s of %s",
        f"{parameters:,}",
        f"{len(data.train):,}",
        f"{len(data.validation):,}",
        f"{data.tokenizer.vocab_size:,}",
        jax.device_count(),
        jax.devices()[0].device_kind,
        f"{batches.steps_per_epoch:,}",
        f"{step:,}",
        f"{batches.total_steps:,}",
    )
    updates, earlier = step - int(state.nonfinite_total), run.resolved.earlier
    if step >= batches.total_steps and not eval_pending:
        log.info(
            "nothing to do: all %d epochs are done; %s",
            data.num_epochs,
            rates.how_to_extend(updates),
        )
    elif finished:
        log.info(
            "nothing to do: the run stopped early; to resume it, raise --config.training.patience"
        )
    elif step and earlier:
        epochs = num_epochs(earlier.training, len(data.train))
        before = LearningRates(earlier.training, epochs, batches.steps_per_epoch)
        if change := rates.change_from(before, updates):
            log.warning("%s", change)


def _log_not_used(run: TrainingRun) -> None:
    """Warn that initial weights of the config are not used in a workdir with converted weights."""
    model = run.resolved.config.model
    for key, path in (
        ("model.init_from", model.init_from),
        ("model.encoder.pretrained", model.encoder.pretrained),
    ):
        if path:
            log.warning(
                "config.%s is %r, and is not used: this workdir has converted weights of its own",
                key,
                path,
            )


def _log_early_stop(best: BestSoFar, training: TrainingConfig) -> None:
    log.info(
        "stopping early: no better validation %s than %.4g (epoch %d) for %d epochs",
        best.metric,
        best.value,
        best.since,
        training.patience,
    )
