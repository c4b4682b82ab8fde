"""Runs through the train command: options of the config, skipped updates, resumed runs."""

import csv
import dataclasses
import itertools
import json
import os
import shutil
import signal
import time
import types

import jax
import numpy as np
import pytest

from signvit_jax.checkpoints.manifest import write_manifest
from signvit_jax.checkpoints.reader import META, CheckpointReader
from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.checkpoints.workdir_lock import lock_workdir
from signvit_jax.commands import train
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, from_json
from signvit_jax.data.dataset import open_dataset
from signvit_jax.inference.trained_model import load_trained
from signvit_jax.optimization.schedules import one_cycle
from signvit_jax.text.tokenizer import learn_gloss_vocabulary
from signvit_jax.training import run_data, train_loop
from signvit_jax.training.hooks import StepHooks
from signvit_jax.training.run import (
    read_tokenizers,
    recreate_workdir,
    write_description,
)
from signvit_jax.training.run import train as train_run
from signvit_jax.training.run_data import RunData
from signvit_jax.training.validation import ValidationPass
from tests.helpers import tiny_run

pytestmark = pytest.mark.usefixtures("light_jax")
TOTAL = tiny_run.STEPS_PER_EPOCH * tiny_run.EPOCHS


@pytest.fixture
def run(trained, tmp_path):
    """Start or resume the run in `workdir` with overrides; return the exit code.

    Overrides that do not change a compiled step cost no compilation.
    """

    def start(**overrides: object) -> int:
        flags = [f"--config.{key.replace('__', '.')}={value}" for key, value in overrides.items()]
        paths = [f"--config={trained.config}", f"--workdir={tmp_path / 'run'}"]
        return tiny_run.command(train.main, *paths, *flags)

    start.workdir = tmp_path / "run"
    start.checkpoints = CheckpointReader(tmp_path / "run" / "checkpoints")
    return start


@pytest.fixture
def last_epoch(run, trained):
    """The same as `run`, for a workdir in which only the last epoch is left to train."""
    shutil.copytree(trained.workdir, run.workdir, ignore=shutil.ignore_patterns(str(TOTAL)))
    return run


def metric_by_step(workdir, name: str) -> dict[int, float]:
    """Return the values of a metric by step."""
    with (workdir / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row[name]}


@pytest.mark.long
def test_patience_ends_the_run_and_the_best_checkpoint_is_kept(run):
    options = {"training__best_metric": "wer", "training__patience": 1}
    assert run(**options) == 0
    wer = metric_by_step(run.workdir, "validation/wer")
    steps = list(wer)
    stopped = next(
        step
        for i, step in enumerate(steps)
        if i > 0 and wer[step] >= min(wer[earlier] for earlier in steps[:i])
    )
    assert max(wer) == run.checkpoints.latest_step() == stopped < TOTAL
    assert "stopping early" in (run.workdir / "run.log").read_text()
    best = min(wer, key=lambda step: (wer[step], -step))
    assert load_trained(run.workdir, "best").step == best
    assert load_trained(run.workdir, "last").step == stopped

    # A second start finds the run finished.
    assert run(**options) == 0
    assert run.checkpoints.latest_step() == stopped
    assert "nothing to do" in (run.workdir / "run.log").read_text()


def rewind_to(workdir, step: int, without: str = "") -> None:
    """Delete the checkpoints after `step`, as if the run was killed right after saving it.

    `without`: a key to remove from the checkpoint's meta data, which earlier releases did not save.
    """
    for folder in list((workdir / "checkpoints").iterdir()):
        if folder.name.isdecimal() and int(folder.name) > step:
            shutil.rmtree(folder)
    if without:
        file = workdir / "checkpoints" / str(step) / "meta" / META
        content = json.loads(file.read_text())
        del content["meta"][without]
        file.write_text(json.dumps(content))
        write_manifest(file.parents[1])


@pytest.mark.long
def test_a_frozen_backbone_thaws_and_resumes_to_the_bit(run):
    """The run resumes before and after the thaw, with the same settings and with other ones."""
    options = {
        "model__encoder__freeze_epochs": 2,
        "training__keep_last_n_checkpoints": 9,
        "training__eval_every_n_epochs": 9,
    }
    assert run(**options) == 0
    first, second, third = (
        run.checkpoints.restore_params(step=step, prefer_ema=False).params for step in (3, 6, 9)
    )
    backbones = [params["encoder"]["backbone"] for params in (first, second, third)]
    jax.tree.map(np.testing.assert_array_equal, backbones[0], backbones[1])
    assert all_differ(backbones[1], backbones[2])
    assert not all_equal(first["decoder"], second["decoder"])
    encoder, backbone = (
        list(metric_by_step(run.workdir, f"train/lr_{group}").values())
        for group in ("encoder", "backbone")
    )
    assert backbone[:6] == [0.0] * 6
    assert backbone[6:] == pytest.approx(encoder[6:])  # the warm-up is shorter than one update

    last = run.checkpoints.restore_params("last").params
    earlier_config = (run.workdir / "config.json").read_text()
    never_frozen = {"model__encoder__freeze_epochs": 0}
    for step, missing_key, changes in (
        (6, "", {}),
        (9, "", {}),
        (9, "thawed_at", {}),
        (9, "", never_frozen),  # changes nothing after the thaw
        (6, "thawed_at", never_frozen),  # thaws at the same step as with freeze_epochs
    ):
        (run.workdir / "config.json").write_text(earlier_config)
        rewind_to(run.workdir, step, missing_key)
        assert run(**options | changes) == 0
        found = run.checkpoints.restore_params("last").params
        jax.tree.map(np.testing.assert_array_equal, found, last)


def all_equal(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


def all_differ(a, b) -> bool:
    return all(not np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.mark.long
def test_more_epochs_after_a_finished_run_log_its_new_rates(last_epoch):
    assert last_epoch() == 0
    log = last_epoch.workdir / "run.log"
    finished = min(metric_by_step(last_epoch.workdir, "train/lr_encoder").values())
    assert last_epoch() == 0
    advice = log.read_text().split("nothing to do")[1]
    assert f"they rise from {finished:.2g} (encoder)" in advice
    assert f"--config.training.schedule_epochs={tiny_run.EPOCHS}" in advice

    kept_cycle = {"training__schedule_epochs": 6, "training__final_lr_ratio": 0.05}
    assert last_epoch(training__num_epochs=7, **kept_cycle) == 0
    rates = list(metric_by_step(last_epoch.workdir, "train/lr_encoder").values())
    assert rates[-3:] == pytest.approx([0.05 * 1e-3] * 3)
    assert (
        "the learning rates continue at 5e-05 (encoder) and 0.0005 (rest); by the earlier "
        "settings, 4e-09" in log.read_text()
    )

    assert last_epoch(training__num_epochs=14) == 0
    message = log.read_text().split("the learning rates continue at ")[-1]
    raised = metric_by_step(last_epoch.workdir, "train/lr_encoder")[22]
    assert raised > 5e-4 and message.startswith(f"{raised:.2g} (encoder)")
    assert "schedule_epochs=6" in message


def test_averaged_weights_are_saved_and_loaded_for_inference(trained):
    checkpoints = CheckpointReader(trained.workdir / "checkpoints")
    plain, averaged = (
        checkpoints.restore_params("last", prefer_ema=average) for average in (False, True)
    )
    assert averaged.averaged and not plain.averaged
    assert not all_equal(plain.params, averaged.params)
    loaded = jax.device_get(load_trained(trained.workdir, "last").params)
    jax.tree.map(np.testing.assert_array_equal, loaded, averaged.params)


def poison(monkeypatch, steps: set[int]) -> list[int]:
    """Make the loss NaN in the given steps, counted from 1 at the start of the process.

    Returns a list to which the clips of these batches are added when the steps are made.
    """
    counter = itertools.count(1)
    clips = []
    put = train_loop.device_batch

    def with_nan(batch, mesh):
        if next(counter) in steps:
            clips.extend(batch["index"].tolist())
            batch = batch | {"weights": batch["weights"] * np.float32("nan")}
        return put(batch, mesh)

    monkeypatch.setattr(train_loop, "device_batch", with_nan)
    return clips


def test_too_many_skipped_updates_end_the_run(run, monkeypatch, capfd):
    clips = poison(monkeypatch, set(range(4, 100)))  # all steps from the second epoch on
    assert run(training__max_nonfinite_steps=2) == 1
    message = capfd.readouterr().err
    assert "2 updates in a row were not finite" in message and "Traceback" not in message
    assert len(clips) == 8
    names = ", ".join(f"clip{number:02d}" for number in clips)
    assert f"The clips of these batches: {names}." in message
    assert "lost since the last checkpoint: 2 steps" in (run.workdir / "run.log").read_text()
    kept = run.checkpoints.restore_params("last")
    assert kept.step == 3
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept.params))


def test_one_non_finite_update_is_skipped_and_counted(last_epoch, monkeypatch):
    poison(monkeypatch, {2})
    assert last_epoch(training__max_nonfinite_steps=2) == 0
    skipped = list(metric_by_step(last_epoch.workdir, "train/nonfinite_steps").values())
    assert skipped[-3:] == [0, 1, 1]
    # The update after the skipped one has the rate that the skipped one would have had.
    rates = list(metric_by_step(last_epoch.workdir, "train/lr_encoder").values())[-3:]
    schedule = one_cycle(1e-3, TOTAL, 0.05)
    expected = [float(schedule(num_updates)) for num_updates in (15, 16, 16)]
    assert rates == pytest.approx(expected, rel=1e-5)
    params = last_epoch.checkpoints.restore_params("last").params
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert np.isfinite(metric_by_step(last_epoch.workdir, "validation/loss")[TOTAL])


def test_a_validation_that_a_signal_stopped_is_done_on_resume(last_epoch, monkeypatch):
    validate = ValidationPass.run

    def with_signal(self, params, epoch):
        os.kill(os.getpid(), signal.SIGTERM)
        while not self._stop.requested:
            time.sleep(0.01)
        return validate(self, params, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(ValidationPass, "run", with_signal)
        assert last_epoch() == 143
    assert last_epoch.checkpoints.latest_step() == TOTAL
    assert TOTAL not in metric_by_step(last_epoch.workdir, "validation/loss")
    assert last_epoch() == 0
    found = metric_by_step(last_epoch.workdir, "validation/loss")[TOTAL]
    assert last_epoch.checkpoints.restore_params("last").metrics["loss"] == pytest.approx(found)
    assert "nothing to do" not in (last_epoch.workdir / "run.log").read_text()


def test_some_training_clips_replace_a_missing_validation_split(trained, monkeypatch, caplog):
    config = load_trained(trained.workdir).config
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, val_split="dev"))
    dataset = open_dataset(config.data.data_dir, config.data.name)
    assert len(RunData(config, dataset).validation) == 12
    assert "on all clips of 'train'" in caplog.text
    assert run_data.STAND_IN_CLIPS == 500
    monkeypatch.setattr(run_data, "STAND_IN_CLIPS", 4)
    few = RunData(config, dataset)
    assert "on 4 of the 12 clips of 'train'" in caplog.text
    assert [entry.id for entry in few.validation.index] == [
        few.train.index[i].id for i in (0, 3, 6, 9)
    ]
    assert len(list(few.validation_batches())) == 1


@pytest.mark.long
def test_a_run_without_a_validation_split_is_warned(last_epoch):
    assert last_epoch(data__val_split="dev") == 0
    log = (last_epoch.workdir / "run.log").read_text()
    assert "no split 'dev'" in log and "'train'" in log
    assert "12 training and 12 validation clips" in log


@pytest.mark.long
def test_a_small_data_set_is_repeated_until_min_steps(last_epoch):
    assert last_epoch(training__num_epochs=1, training__min_steps=TOTAL - 1) == 0
    assert last_epoch.checkpoints.latest_step() == TOTAL  # the last epoch is completed
    assert f"of {TOTAL}" in (last_epoch.workdir / "run.log").read_text()


@pytest.mark.long
def test_a_resumed_run_keeps_the_target_of_auto(last_epoch):
    assert last_epoch(model__ctc__target="auto") == 0
    assert from_json((last_epoch.workdir / "config.json").read_text()).model.ctc.target == "text"
    assert "config.model.ctc.target is now" not in (last_epoch.workdir / "run.log").read_text()


@pytest.mark.parametrize(
    "renamed",
    [
        "run",
        pytest.param("run/checkpoints", marks=pytest.mark.long),
        pytest.param("run/.lock", marks=pytest.mark.long),
    ],
)
def test_a_folder_renamed_during_a_run_is_created_again(
    last_epoch, trained, tmp_path, monkeypatch, capfd, renamed
):
    log_step = StepHooks._log_step

    def rename(self, step, *arguments):
        log_step(self, step, *arguments)
        if step == TOTAL - 1:
            (tmp_path / renamed).rename(tmp_path / "renamed")

    monkeypatch.setattr(StepHooks, "_log_step", rename)
    assert last_epoch() == 0
    only_the_lock = renamed == "run/.lock"
    assert ("is gone, renamed or deleted" in capfd.readouterr().err) != only_the_lock
    assert (tmp_path / "renamed").exists()
    assert (last_epoch.workdir / ".lock").exists()
    assert (last_epoch.workdir / "run.log").exists()
    assert last_epoch.checkpoints.latest_step() == TOTAL
    assert len(last_epoch.checkpoints.steps()) == (3 if only_the_lock else 1)
    # The new folder has everything that using the model needs, and no step is lost.
    found, expected = (
        jax.device_get(load_trained(workdir, "last").params)
        for workdir in (last_epoch.workdir, trained.workdir)
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    monkeypatch.undo()
    assert last_epoch() == 0 and "nothing to do" in capfd.readouterr().err


def described_data(glosses=None) -> types.SimpleNamespace:
    """Return the part of RunData that `write_description` writes into a workdir."""
    return types.SimpleNamespace(
        config=Config(),
        tokenizer=learn_gloss_vocabulary(["A B"]),
        gloss_tokenizer=glosses,
        dataset=types.SimpleNamespace(identity=lambda: {"splits": {}, "settings": None}),
    )


@pytest.mark.parametrize("glosses", [None, learn_gloss_vocabulary(["X Y Z"])])
def test_a_workdir_has_the_gloss_vocabulary_if_there_is_one(tmp_path, glosses):
    workdir = Workdir.create(tmp_path)
    data = described_data(glosses)
    write_description(data, workdir, None)
    assert workdir.read_config() == Config()
    words, labels = read_tokenizers(workdir)
    assert words.tokens == data.tokenizer.tokens
    assert (labels and labels.tokens) == (glosses and glosses.tokens)


@pytest.mark.parametrize("remaining", ["nothing", "an_empty_folder", "all_but_the_lock"])
def test_a_workdir_is_created_again_with_its_description(tmp_path, caplog, remaining):
    workdir = Workdir.create(tmp_path / "run")
    data = described_data()
    write_description(data, workdir, None)
    with lock_workdir(workdir) as lock:
        if remaining == "all_but_the_lock":
            workdir.lock_file.unlink()
        else:
            workdir.path.rename(tmp_path / "renamed")
        if remaining == "an_empty_folder":
            workdir.path.mkdir()
        assert not lock.holds()
        recreate_workdir(data, workdir, lock, None)
        assert lock.holds() and workdir.checkpoints.is_dir()
    assert workdir.read_config() == Config()
    assert workdir.tokenizer_json.exists() and workdir.origin_json.exists()
    created = remaining != "all_but_the_lock"
    assert ("is gone, renamed or deleted" in caplog.text) == created
    assert workdir.run_log.exists() == created


def test_requeue_outside_slurm_is_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ConfigError, match="--requeue was given, but this is not a Slurm job"):
        train_run(Config(), tmp_path / "run", strict_restore=False, requeue=True, profile=None)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def finished(run, trained, monkeypatch):
    """(`run` in a copy of the finished workdir, the signals that `requeue_after` gets)."""
    shutil.copytree(trained.workdir, run.workdir)
    requeued = []
    monkeypatch.setattr("signvit_jax.training.run.requeue_after", requeued.append)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    return run, requeued


def test_a_start_reports_a_lock_that_it_takes_over(finished, capfd):
    run, _ = finished
    assert run() == 0
    assert "took over" not in capfd.readouterr().err
    (run.workdir / ".lock").write_text('{"pid": 1, "host": "node7", "since": "yesterday"}')
    assert run() == 0
    assert (
        "took over the lock of process 1 on node7 since yesterday, which has ended without "
        "releasing it" in capfd.readouterr().err
    )


def test_a_start_reports_changed_settings(finished, capfd):
    run, _ = finished
    assert run() == 0
    assert "is now" not in capfd.readouterr().err
    assert run(inference__beam_size=3) == 0
    assert "config.inference.beam_size is now 3; it was 2" in capfd.readouterr().err


def test_a_job_is_requeued_only_on_request(finished, trained):
    run, requeued = finished
    assert run() == 0 and requeued == []
    flags = [f"--config={trained.config}", f"--workdir={run.workdir}", "--requeue"]
    assert tiny_run.command(train.main, *flags) == 0
    assert requeued == [0]


def test_a_workdir_with_checkpoints_but_no_config_is_refused(run, trained, capfd):
    shutil.copytree(trained.workdir / "checkpoints", run.workdir / "checkpoints")
    assert run() == 2
    assert "no config.json" in capfd.readouterr().err
