"""What a run does by its config: early stopping, frozen epochs, averaged weights, updates that are not finite, a missing split."""

import csv
import dataclasses
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
from signvit_jax.commands import train
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import (
    Config,
    from_json,
    from_mapping,
    to_json,
    with_ctc_target,
    with_norm_epsilon,
)
from signvit_jax.inference.trained_model import load_trained
from signvit_jax.optimization.optimizer import one_cycle
from signvit_jax.text.tokenizer import learn_gloss_vocabulary
from signvit_jax.training import run_data, trainer
from signvit_jax.training.run import (
    _agree_with_earlier_start,
    _make_again,
    _tokenizers,
    _with_pretrained,
    _write_description,
)
from signvit_jax.training.run import train as train_run
from signvit_jax.training.run_data import RunData
from tests.helpers import tiny_run

pytestmark = pytest.mark.usefixtures("light_jax")
TOTAL = tiny_run.STEPS_PER_EPOCH * tiny_run.EPOCHS


@pytest.fixture
def run(trained, tmp_path):
    """Starts or resumes the run in `workdir` with overrides; returns the exit code. Those not baked into a compiled step cost no compilation."""

    def start(**overrides: object) -> int:
        flags = [f"--config.{key.replace('__', '.')}={value}" for key, value in overrides.items()]
        return tiny_run.command(
            train.main, f"--config={trained.config}", f"--workdir={tmp_path / 'run'}", *flags
        )

    start.workdir = tmp_path / "run"
    start.checkpoints = CheckpointReader(tmp_path / "run" / "checkpoints")
    return start


@pytest.fixture
def last_epoch(run, trained):
    """The same, of a run whose last epoch is still to come."""
    shutil.copytree(trained.workdir, run.workdir, ignore=shutil.ignore_patterns(str(TOTAL)))
    return run


def figures(workdir, name: str) -> dict[int, float]:
    """Step -> figure, where there is one."""
    with (workdir / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row[name]}


@pytest.mark.long
def test_patience_ends_the_run_and_the_best_checkpoint_is_that_of_the_metric(run, trained):
    options = {"training__best_metric": "wer", "training__patience": 1}
    assert run(**options) == 0
    wer = figures(run.workdir, "validation/wer")
    stopped = next(
        step
        for step in wer
        if step > 3 and wer[step] >= min(wer[earlier] for earlier in wer if earlier < step)
    )
    assert max(wer) == run.checkpoints.latest_step() == stopped < TOTAL
    assert "stopping early" in (run.workdir / "run.log").read_text()
    best = min(wer, key=lambda step: (wer[step], -step))
    assert load_trained(run.workdir, "best").step == best
    assert load_trained(run.workdir, "last").step == stopped

    # Started again it is as finished as a run of all epochs is.
    assert run(**options) == 0
    assert run.checkpoints.latest_step() == stopped
    assert "nothing to do" in (run.workdir / "run.log").read_text()


def go_back_to(workdir, step: int, without_note: str = "") -> None:
    """As if the run had been killed right after that checkpoint; `without_note`: written by a release that noted no such thing."""
    for later in (
        folder
        for folder in (workdir / "checkpoints").iterdir()
        if folder.name.isdecimal() and int(folder.name) > step
    ):
        shutil.rmtree(later)
    if without_note:
        file = workdir / "checkpoints" / str(step) / "meta" / META
        notes = json.loads(file.read_text())
        del notes["meta"][without_note]
        file.write_text(json.dumps(notes))
        write_manifest(file.parents[1])


@pytest.mark.long
def test_a_frozen_backbone_stays_as_it_is_then_moves_and_a_run_resumed_on_either_side_of_the_thaw_is_the_same_to_the_bit(
    run,
):
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
    assert all(
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(backbones[1]), jax.tree.leaves(backbones[2]))
    )
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(first["decoder"]), jax.tree.leaves(second["decoder"]))
    )
    encoder, backbone = (
        list(figures(run.workdir, f"train/lr_{group}").values())
        for group in ("encoder", "backbone")
    )
    assert backbone[:6] == [0.0] * 6 and backbone[6:] == pytest.approx(
        encoder[6:]
    )  # a warm-up of less than one update

    last, earlier_config = (
        run.checkpoints.restore_params("last").params,
        (run.workdir / "config.json").read_text(),
    )
    for step, forgotten, changes in (
        (6, "", {}),
        (9, "", {}),
        (9, "thawed_at", {}),
        (9, "", {"model__encoder__freeze_epochs": 0}),  # past the thaw that changes nothing
        (
            6,
            "thawed_at",
            {"model__encoder__freeze_epochs": 0},
        ),  # thaws where it would have thawed anyway
    ):
        (run.workdir / "config.json").write_text(earlier_config)
        go_back_to(run.workdir, step, forgotten)
        assert run(**options | changes) == 0
        jax.tree.map(
            np.testing.assert_array_equal, run.checkpoints.restore_params("last").params, last
        )


@pytest.mark.long
def test_more_epochs_on_a_finished_run_say_what_becomes_of_the_rates_and_can_leave_them_where_they_are(
    last_epoch,
):
    assert last_epoch() == 0
    log = last_epoch.workdir / "run.log"
    finished = min(figures(last_epoch.workdir, "train/lr_encoder").values())
    assert last_epoch() == 0
    advice = log.read_text().split("nothing to do")[1]
    assert f"they rise from {finished:.2g} (encoder)" in advice
    assert f"--config.training.schedule_epochs={tiny_run.EPOCHS}" in advice

    assert (
        last_epoch(
            training__num_epochs=7, training__schedule_epochs=6, training__final_lr_ratio=0.05
        )
        == 0
    )
    rates = list(figures(last_epoch.workdir, "train/lr_encoder").values())
    assert rates[-3:] == pytest.approx([0.05 * 1e-3] * 3)
    assert (
        "the learning rates go on at 5e-05 (encoder) and 0.0005 (rest); by the earlier settings, 4e-09"
        in log.read_text()
    )

    assert last_epoch(training__num_epochs=14) == 0
    said = log.read_text().split("the learning rates go on at ")[-1]
    raised = figures(last_epoch.workdir, "train/lr_encoder")[22]
    assert (
        raised > 5e-4 and said.startswith(f"{raised:.2g} (encoder)") and "schedule_epochs=6" in said
    )


def test_averaged_weights_are_kept_beside_the_others_and_are_what_is_evaluated(trained):
    checkpoints = CheckpointReader(trained.workdir / "checkpoints")
    plain, averaged = (
        checkpoints.restore_params("last", prefer_ema=average) for average in (False, True)
    )
    assert averaged.averaged and not plain.averaged
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(plain.params), jax.tree.leaves(averaged.params))
    )
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.device_get(load_trained(trained.workdir, "last").params),
        averaged.params,
    )


def poison(monkeypatch, steps: set[int]) -> list[int]:
    """Makes the losses of these steps, counted from 1, NaN; returns the numbers of the clips in them, filled as they come."""
    counted, clips = iter(range(1, 10**6)), []

    def with_nan(batch):
        part = {name: value for name, value in batch.items() if name != "index"}
        if next(counted) not in steps:
            return part
        clips.extend(batch["index"].tolist())
        return part | {"weights": part["weights"] * np.float32("nan")}

    monkeypatch.setattr(trainer.Trainer, "_device_part", staticmethod(with_nan))
    return clips


def test_too_many_updates_in_a_row_that_are_not_finite_end_the_run_name_the_clips_and_leave_a_good_checkpoint(
    run, monkeypatch, capfd
):
    clips = poison(
        monkeypatch, set(range(5, 100))
    )  # the fifth batch is the first of epoch 2: three of training and one of validation are before it
    assert run(training__max_nonfinite_steps=2) == 1
    said = capfd.readouterr().err
    assert "2 updates in a row were not finite" in said and "Traceback" not in said
    assert (
        len(clips) == 8
        and f"The clips of these batches: {', '.join(f'clip{number:02d}' for number in clips)}."
        in said
    )
    assert "lost since the last checkpoint: 2 steps" in (run.workdir / "run.log").read_text()
    kept = run.checkpoints.restore_params("last")
    assert kept.step == 3
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept.params))


def test_one_update_that_is_not_finite_is_left_out_and_counted(last_epoch, monkeypatch):
    poison(monkeypatch, {2})
    assert last_epoch(training__max_nonfinite_steps=2) == 0
    assert list(figures(last_epoch.workdir, "train/nonfinite_steps").values())[-3:] == [0, 1, 1]
    # The update after the one that was left out has the rate that this would have had.
    rates, schedule = (
        list(figures(last_epoch.workdir, "train/lr_encoder").values())[-3:],
        one_cycle(1e-3, TOTAL, 0.05),
    )
    assert rates == pytest.approx([float(schedule(made)) for made in (15, 16, 16)], rel=1e-5)
    assert all(
        np.isfinite(leaf).all()
        for leaf in jax.tree.leaves(last_epoch.checkpoints.restore_params("last").params)
    )
    assert np.isfinite(figures(last_epoch.workdir, "validation/loss")[TOTAL])


def test_an_evaluation_that_a_signal_cut_short_is_made_up_for_at_the_next_start(
    last_epoch, monkeypatch
):
    evaluate = trainer.Trainer._evaluate

    def with_signal(self, params, epoch):
        os.kill(os.getpid(), signal.SIGTERM)
        while not self.stop.requested:
            time.sleep(0.01)
        return evaluate(self, params, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_evaluate", with_signal)
        assert last_epoch() == 143
    assert last_epoch.checkpoints.latest_step() == TOTAL
    assert TOTAL not in figures(last_epoch.workdir, "validation/loss")
    assert last_epoch() == 0
    found = figures(last_epoch.workdir, "validation/loss")[TOTAL]
    assert last_epoch.checkpoints.restore_params("last").metrics["loss"] == pytest.approx(found)
    assert "nothing to do" not in (last_epoch.workdir / "run.log").read_text()


def test_at_most_a_few_hundred_training_clips_stand_in_for_a_validation_split(
    trained, monkeypatch, caplog
):
    config = load_trained(trained.workdir).config
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, val_split="dev"))
    assert len(RunData(config).validation) == 12 and "on all clips of 'train'" in caplog.text
    assert run_data.STAND_IN_CLIPS == 500
    monkeypatch.setattr(run_data, "STAND_IN_CLIPS", 4)
    few = RunData(config)
    assert "on 4 of the 12 clips of 'train'" in caplog.text
    assert [entry.id for entry in few.validation.index] == [
        few.train.index[i].id for i in (0, 3, 6, 9)
    ]
    assert len(list(few.validation_batches())) == 1


@pytest.mark.long
def test_without_a_validation_split_training_clips_take_its_place_and_that_is_said(last_epoch):
    assert last_epoch(data__val_split="dev") == 0
    log = (last_epoch.workdir / "run.log").read_text()
    assert "no split 'dev'" in log and "'train'" in log
    assert "12 training and 12 validation clips" in log


@pytest.mark.long
def test_a_small_data_set_is_gone_through_until_there_are_min_steps_updates(last_epoch):
    assert last_epoch(training__num_epochs=1, training__min_steps=TOTAL - 1) == 0  # whole epochs
    assert last_epoch.checkpoints.latest_step() == TOTAL
    assert f"of {TOTAL}" in (last_epoch.workdir / "run.log").read_text()


@pytest.mark.long
def test_a_resumed_run_keeps_the_ctc_target_that_auto_found_at_the_first_start(last_epoch):
    assert last_epoch(model__ctc__target="auto") == 0
    assert from_json((last_epoch.workdir / "config.json").read_text()).model.ctc.target == "text"
    assert "config.model.ctc.target is now" not in (last_epoch.workdir / "run.log").read_text()


@pytest.mark.parametrize("found", ["gloss", "text"])
def test_what_auto_found_holds_even_where_the_data_would_give_another_target_now(tmp_path, found):
    workdir = Workdir.create(tmp_path)
    workdir.write_text(workdir.config_json, to_json(with_ctc_target(Config(), found)))
    assert (
        _agree_with_earlier_start(with_ctc_target(Config(), "auto"), workdir).model.ctc.target
        == found
    )
    other = "text" if found == "gloss" else "gloss"
    with pytest.raises(
        ConfigError, match=f"config.model.ctc.target: '{found}' in the workdir, '{other}' now"
    ):
        _agree_with_earlier_start(with_ctc_target(Config(), other), workdir)


@pytest.mark.parametrize("renamed", ["run", "run/checkpoints", "run/.lock"])
def test_what_was_renamed_in_mid_run_is_made_again_and_no_step_is_lost(
    last_epoch, trained, tmp_path, monkeypatch, capfd, renamed
):
    log_step = trainer.Trainer._log_step

    def rename(self, step, *arguments):
        log_step(self, step, *arguments)
        if step == TOTAL - 1:
            (tmp_path / renamed).rename(tmp_path / "renamed")

    monkeypatch.setattr(trainer.Trainer, "_log_step", rename)
    assert last_epoch() == 0
    assert ("is gone, renamed or deleted while the run went on" in capfd.readouterr().err) == (
        renamed != "run/.lock"
    )
    assert (tmp_path / "renamed").exists()
    assert (last_epoch.workdir / ".lock").exists()
    assert (last_epoch.workdir / "run.log").exists()
    assert last_epoch.checkpoints.latest_step() == TOTAL
    assert len(last_epoch.checkpoints.steps()) == (1 if renamed != "run/.lock" else 3)
    found = load_trained(last_epoch.workdir, "last")  # with all that is needed to use it
    expected = load_trained(trained.workdir, "last")
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(found.params), jax.device_get(expected.params)
    )
    monkeypatch.undo()
    assert last_epoch() == 0 and "nothing to do" in capfd.readouterr().err


@pytest.mark.parametrize("glosses", [False, True])
def test_a_workdir_has_the_vocabulary_of_glosses_where_there_is_one(tmp_path, glosses):
    workdir = Workdir.create(tmp_path)
    words, labels = learn_gloss_vocabulary(["A B"]), learn_gloss_vocabulary(["X Y Z"])
    dataset = types.SimpleNamespace(identity=lambda: {"splits": {}, "settings": None})
    data = types.SimpleNamespace(
        config=Config(),
        tokenizer=words,
        gloss_tokenizer=labels if glosses else None,
        dataset=dataset,
    )
    _write_description(data, workdir, None)
    assert (
        workdir.read_config() == Config()
        and workdir.read_tokenizer(workdir.tokenizer_json).tokens == words.tokens
    )
    assert [found and found.tokens for found in _tokenizers(workdir)] == [
        words.tokens,
        labels.tokens if glosses else None,
    ]


@pytest.mark.parametrize("left", ["nothing", "an_empty_folder", "all_but_the_lock"])
def test_a_workdir_is_made_again_with_what_a_later_start_needs(tmp_path, caplog, left):
    workdir = Workdir.create(tmp_path / "run")
    dataset = types.SimpleNamespace(identity=lambda: {"splits": {}, "settings": None})
    data = types.SimpleNamespace(
        config=Config(),
        tokenizer=learn_gloss_vocabulary(["A"]),
        gloss_tokenizer=None,
        dataset=dataset,
    )
    _write_description(data, workdir, None)
    with workdir.lock() as lock:
        if left == "all_but_the_lock":
            workdir.lock_file.unlink()
        else:
            workdir.path.rename(tmp_path / "renamed")
        if left == "an_empty_folder":
            workdir.path.mkdir()
        assert not lock.holds()
        _make_again(data, workdir, lock, None)
        assert lock.holds() and workdir.checkpoints.is_dir()
    assert (
        workdir.read_config() == Config()
        and workdir.tokenizer_json.exists()
        and workdir.origin_json.exists()
    )
    assert (
        ("is gone, renamed or deleted" in caplog.text)
        == workdir.run_log.exists()
        == (left != "all_but_the_lock")
    )


def test_pretrained_weights_are_read_at_the_very_first_start_only(tmp_path, trained, monkeypatch):
    backbone = types.SimpleNamespace(epsilon=1e-6)
    monkeypatch.setattr("signvit_jax.training.run.read_pretrained", lambda path: backbone)
    config = from_mapping({"model": {"encoder": {"pretrained": "weights.npz"}}})
    assert _with_pretrained(config, Workdir(tmp_path)) == (
        with_norm_epsilon(config, 1e-6),
        backbone,
    )
    assert _with_pretrained(with_norm_epsilon(config, 1e-5), Workdir(tmp_path)) == (
        with_norm_epsilon(config, 1e-5),
        backbone,
    )
    assert _with_pretrained(config, Workdir(trained.workdir)) == (config, None)
    assert _with_pretrained(Config(), Workdir(tmp_path)) == (Config(), None)


def test_the_epsilon_that_a_backbone_was_trained_with_holds_on_a_resume(tmp_path):
    workdir = Workdir.create(tmp_path)
    workdir.write_text(workdir.config_json, to_json(with_norm_epsilon(Config(), 1e-6)))
    assert Config().model.encoder.norm_epsilon == 0.0
    assert _agree_with_earlier_start(Config(), workdir).model.encoder.norm_epsilon == 1e-6
    with pytest.raises(ConfigError, match=r"norm_epsilon: 1e-06 in the workdir, 1e-05 now"):
        _agree_with_earlier_start(with_norm_epsilon(Config(), 1e-5), workdir)


def test_a_start_says_whose_lock_it_took_over_and_what_it_changes_and_puts_back_a_job_only_if_asked(
    run, trained, monkeypatch, capfd
):
    shutil.copytree(trained.workdir, run.workdir)
    asked = []
    monkeypatch.setattr("signvit_jax.training.run.requeue_after", asked.append)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert run() == 0
    said = capfd.readouterr().err
    assert "took over" not in said and "is now" not in said and asked == []
    (run.workdir / ".lock").write_text('{"pid": 1, "host": "node7", "since": "yesterday"}')
    assert (
        tiny_run.command(
            train.main,
            f"--config={trained.config}",
            f"--workdir={run.workdir}",
            "--requeue",
            "--config.inference.beam_size=3",
        )
        == 0
    )
    said = capfd.readouterr().err
    assert (
        "took over the lock of process 1 on node7 since yesterday, which has ended without releasing it"
        in said
    )
    assert "config.inference.beam_size is now 3; it was 2" in said and asked == [0]


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("data", False),
        ("a/data", False),
        ("other", True),
        ("/b/data", True),
        ("/a/../a/data", True),
    ],
)
def test_a_data_dir_kept_as_it_was_typed_is_no_change(tmp_path, caplog, before, said):
    workdir = Workdir.create(tmp_path)
    workdir.write_text(workdir.config_json, to_json(from_mapping({"data": {"data_dir": before}})))
    _agree_with_earlier_start(from_mapping({"data": {"data_dir": "/a/data"}}), workdir)
    assert (f"config.data.data_dir is now '/a/data'; it was '{before}'" in caplog.text) == said


def test_outside_slurm_a_run_to_be_requeued_does_not_start(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ConfigError, match="--requeue was given, but this is no Slurm job"):
        train_run(Config(), tmp_path / "run", strict_restore=False, requeue=True, profile=None)
    assert not (tmp_path / "run").exists()


def test_checkpoints_without_a_config_are_not_taken_for_a_run(run, trained, capfd):
    shutil.copytree(trained.workdir / "checkpoints", run.workdir / "checkpoints")
    assert run() == 2
    assert "no config.json" in capfd.readouterr().err
