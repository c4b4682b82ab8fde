"""Starts a run or goes on with one: workdir, lock, log, data, tokenizers, then the `Trainer`."""

import logging
import math
from pathlib import Path

import jax

from signvit_jax.checkpoints.data_folder import check_data_of_resumed, with_absolute_data_dir
from signvit_jax.checkpoints.reader import CheckpointReader
from signvit_jax.checkpoints.workdir import Workdir, WorkdirError, WorkdirLock, check_resume
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, to_json, with_ctc_target, with_norm_epsilon
from signvit_jax.runtime.signals import StopRequest
from signvit_jax.runtime.slurm import check_requeue, requeue_after
from signvit_jax.telemetry.goodput import Goodput
from signvit_jax.telemetry.profiler import TracedSteps
from signvit_jax.telemetry.run_log import start_run_log
from signvit_jax.text.tokenizer import Tokenizer
from signvit_jax.training.distillation import Teacher
from signvit_jax.training.origin import check_data_set, write_origin
from signvit_jax.training.run_data import RunData
from signvit_jax.training.trainer import Trainer
from signvit_jax.weights.pretrained import PretrainedBackbone, read_pretrained

log = logging.getLogger(__name__)


def train(
    config: Config,
    path: Path,
    *,
    strict_restore: bool,
    requeue: bool,
    profile: TracedSteps | None,
) -> int:
    """Trains in the workdir at `path`; a second call with the same goes on from its newest good checkpoint. Returns the exit code.

    A damaged newest checkpoint is named and the one before it used; with `strict_restore` it ends the run instead.
    `profile` says which steps to trace, if any. With `requeue` a Slurm job that SIGUSR1 stopped is put back into the queue once all is saved.

    Raises WorkdirError, ConfigError, DatasetError and WeightsError before anything is compiled, and whatever ends a run for good.
    """
    if requeue:
        check_requeue()
    workdir = Workdir.create(path)
    with StopRequest() as stop, workdir.lock() as lock, Goodput() as goodput:
        start_run_log(workdir.run_log)
        if lock.killed:
            log.info("took over the lock of %s, which has ended without releasing it", lock.killed)

        def keep_whole() -> None:
            if not lock.holds():
                _make_again(data, workdir, lock, trainer.teacher)

        with stop.exit_immediately_on_signal():
            earlier = _earlier_config(workdir)
            config = _agree_with_earlier_start(with_absolute_data_dir(config), workdir)
            check_data_of_resumed(config, workdir)
            config, pretrained = _with_pretrained(config, workdir)
            data = RunData(config, *_tokenizers(workdir))
            check_data_set(data, workdir)
            options = {
                "strict_restore": strict_restore,
                "profile": profile,
                "pretrained": pretrained,
                "keep_whole": keep_whole,
                "earlier": earlier,
            }
            trainer = Trainer(data.config, workdir, data, stop, goodput, **options)
            _check_epochs(trainer)
            if jax.process_index() == 0:
                _write_description(data, workdir, trainer.teacher)
        try:
            code = trainer.run()
        finally:
            log.info("%s", goodput.line(trainer.checkpoints.latest_step()))
        if requeue and jax.process_index() == 0:
            requeue_after(trainer.agreement.received)
        return code


def _agree_with_earlier_start(config: Config, workdir: Workdir) -> Config:
    """The config, with what the first start settled; logs what this start changes. Raises ConfigError for what must not change."""
    if earlier := _earlier_config(workdir):
        if config.model.ctc.target == "auto":
            config = with_ctc_target(config, earlier.model.ctc.target)
        if config.model.encoder.norm_epsilon == 0.0:
            config = with_norm_epsilon(config, earlier.model.encoder.norm_epsilon)
        for key, before, now in check_resume(earlier, config):
            if (
                key == "data.data_dir"
                and not Path(before).is_absolute()
                and Path(now).match(before)
            ):
                continue  # an earlier release kept it as it was typed
            log.warning("config.%s is now %r; it was %r", key, now, before)
    elif any(workdir.checkpoints.iterdir()):
        raise WorkdirError(
            f"{workdir.path} has checkpoints but no config.json: not a workdir that this program left; give another --workdir"
        )
    return config


def _earlier_config(workdir: Workdir) -> Config | None:
    """The config of the start before this one."""
    return workdir.read_config() if workdir.config_json.is_file() else None


def _with_pretrained(config: Config, workdir: Workdir) -> tuple[Config, PretrainedBackbone | None]:
    """The weights that a run's very first start begins with, and the config with the epsilon that they were trained with. Raises WeightsError."""
    encoder = config.model.encoder
    if not encoder.pretrained or CheckpointReader(workdir.checkpoints).latest_step() is not None:
        return config, None
    pretrained = read_pretrained(encoder.pretrained)
    return (
        config if encoder.norm_epsilon else with_norm_epsilon(config, pretrained.epsilon)
    ), pretrained


def _tokenizers(workdir: Workdir) -> list[Tokenizer | None]:
    files = (workdir.tokenizer_json, workdir.gloss_tokenizer_json)
    return [workdir.read_tokenizer(file) if file.is_file() else None for file in files]


def _check_epochs(trainer: Trainer) -> None:
    """Raises ConfigError where the run has made more steps already than it is asked for."""
    done = trainer.checkpoints.latest_step() or 0
    if done > trainer.total_steps:
        epochs = done / trainer.steps_per_epoch
        raise ConfigError(
            f"config.training.num_epochs asks for {trainer.num_epochs} epochs, but this workdir has done {epochs:g} (step {done:,}); "
            f"give {math.ceil(epochs)} or more, or another --workdir. Its checkpoints can be used as they are"
        )


def _make_again(
    data: RunData, workdir: Workdir, lock: WorkdirLock, teacher: Teacher | None
) -> None:
    """The folder under the name that the run was given, with all that a later start needs; what was in the old one stays there."""
    was_there = workdir.path.is_dir()
    Workdir.create(workdir.path)
    lock.take()
    if was_there and workdir.config_json.is_file():
        return  # only the lock was deleted
    log.warning(
        "%s is gone, renamed or deleted while the run went on; it is made again, and the run goes on there",
        workdir.path,
    )
    start_run_log(workdir.run_log)
    _write_description(data, workdir, teacher)


def _write_description(data: RunData, workdir: Workdir, teacher: Teacher | None) -> None:
    """All that evaluation, translation and a later start need besides the checkpoints."""
    workdir.write_text(workdir.config_json, to_json(data.config))
    workdir.write_text(workdir.tokenizer_json, data.tokenizer.to_json())
    if data.gloss_tokenizer:
        workdir.write_text(workdir.gloss_tokenizer_json, data.gloss_tokenizer.to_json())
    write_origin(workdir, data, teacher and teacher.identity)
