"""`signvit sweep`: its actions, its page, and a sweep with real trials."""

import contextlib
import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from sqlalchemy.engine import make_url

from signvit_jax.config.files import load_config
from signvit_jax.config.schema import Config
from signvit_jax.runtime.exit_codes import UsageError, run_command
from signvit_jax.sweep import command, optuna_storage, worker
from signvit_jax.sweep.command import main
from signvit_jax.sweep.leases import server_time
from signvit_jax.sweep.optuna_storage import export_study
from signvit_jax.sweep.report import render, winning_command, winning_flags
from signvit_jax.sweep.sampling import importance
from signvit_jax.sweep.space import Dimension, with_absolute_paths
from signvit_jax.sweep.trial_files import Sweep, Trial, best_of
from signvit_jax.telemetry.metrics_file import read_metrics
from tests.sweep.test_worker import STUB, pruned, table

SEARCH = (
    "--config=small",
    "--config.training.batch_size=16",
    "--search.training.encoder_lr=log:1e-4:1e-2",
    "--search.training.batch_size=16,32",
)


def call(*arguments: object) -> int:
    return run_command(lambda: main([str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Sweep:
    """Return a finished sweep of twelve trials and three seeds. Tests must not change it."""
    folder = tmp_path_factory.mktemp("sweep") / "it's <b>one"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker.Worker.__init__, "__defaults__", (STUB, 0.02, 0.05))
        assert call("run", f"--sweep={folder}", *SEARCH, "--trials=12") == 0
    return Sweep.open(folder)


def test_status_and_best_of_a_finished_sweep(finished, capsys):
    assert call("status", f"--sweep={finished.folder}") == 0
    printed = capsys.readouterr().out
    assert "the config untouched" in printed and printed.count("the best again") == 3
    assert re.search(r"importance: training\.\w+ \d+%, training\.\w+ \d+%", printed)
    assert re.search(r"The gain of \S+ exceeds the spread of the seeds", printed)
    assert call("best", f"--sweep={finished.folder}") == 0
    printed = capsys.readouterr().out
    best = best_of(finished.settings, table(finished))
    assert printed.startswith(f"trial {best.number}: wer ")
    assert printed.splitlines()[-1] == winning_command(finished, best)


def config_of(flags) -> Config:
    """Return the config of a training command with these flags."""
    name = next(flag for flag in flags if flag.startswith("--config=")).removeprefix("--config=")
    overrides = []
    for flag in flags:
        if flag.startswith("--config."):
            key, _, text = flag.removeprefix("--config.").partition("=")
            overrides.append((key, text))
    return with_absolute_paths(load_config(name, overrides))


def test_the_winning_command_gives_the_winning_config(finished):
    best = best_of(finished.settings, table(finished))
    flags = shlex.split(winning_command(finished, best))[2:]
    assert "--config=small" in flags
    assert config_of(flags) == finished.config_of(best.parameters)
    assert load_config(str(finished.config_file)) == finished.base


def test_the_winning_command_does_not_use_a_config_file_that_was_changed(finished, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(finished.config_file.read_text())
    settings = dataclasses.replace(finished.settings, config=str(file), overrides=())
    sweep = dataclasses.replace(finished, settings=settings)
    best = best_of(sweep.settings, table(sweep))
    assert winning_flags(sweep, best)[0] == f"--config={file}"
    file.write_text(file.read_text().replace("get_config", "was_config"))
    for _ in range(2):  # a file without `get_config`, then no file
        flags = winning_flags(sweep, best)
        assert flags[0] == f"--config={finished.config_file}"
        assert config_of(flags) == sweep.config_of(best.parameters)
        file.unlink(missing_ok=True)
    file.write_text(finished.config_file.read_text() + "\n\ndef get_config():\n    return {}\n")
    assert winning_flags(sweep, best)[0] == f"--config={finished.config_file}"


def test_best_retrains_the_winner_or_only_prints_the_command(finished, capfd, monkeypatch):
    executed = []
    monkeypatch.setattr(os, "execv", lambda *command: executed.append(command))
    best = best_of(finished.settings, table(finished))
    flags = ("best", f"--sweep={finished.folder}", "--retrain", "--workdir=runs/w 1")
    assert call(*flags, "--print") == 0 and not executed
    printed = capfd.readouterr().out.splitlines()
    assert printed == [winning_command(finished, best, "runs/w 1")]
    call(*flags)
    ((program, arguments),) = executed
    assert [program, *arguments[1:3]] == [sys.executable, "-m", "signvit_jax.train"]
    assert arguments[3:] == shlex.split(printed[0])[2:]
    assert printed[0] in capfd.readouterr().out  # before the process is replaced


def test_an_exported_optuna_study_has_all_trials(finished, tmp_path, capsys):
    file = tmp_path / "new" / "sweep.db"
    export = ("export", f"--sweep={finished.folder}", f"--storage=sqlite:///{file}")
    assert call(*export) == 0
    assert "15 trials, as the study it's <b>one" in capsys.readouterr().out
    study = optuna.load_study(study_name=finished.folder.name, storage=f"sqlite:///{file}")
    trials = table(finished)
    assert len(study.trials) == len(trials) and study.direction.name == "MINIMIZE"
    for trial, exported in zip(trials, study.trials):
        assert exported.number == trial.number and exported.state.name.lower() == trial.state
        assert exported.user_attrs["kind"] == trial.kind
        parameters = {k: value for k, value in trial.parameters.items() if k != "training.seed"}
        assert exported.params.items() >= parameters.items()
        assert exported.intermediate_values == pytest.approx(
            {clips: value for (clips, _), value in zip(trial.curve, trial.values)}
        )
        assert exported.datetime_start <= exported.datetime_complete
    assert study.best_value == best_of(finished.settings, trials).value
    assert study.metric_names == ["wer"] and [*file.parent.iterdir()] == [file]
    before = file.read_bytes()
    assert call(*export) == 2
    assert "exists and is not overwritten" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_an_exported_study_has_values_outside_the_space_and_all_states(finished, tmp_path):
    narrow = Dimension("training.encoder_lr", low=2e-3, high=1e-2, log=True)
    settings = dataclasses.replace(finished.settings, space=(narrow,))
    sweep = Sweep.create(tmp_path / "sweep", settings, finished.base)
    trials = [
        Trial(0, "base", {}, sweep.folder, "complete", 0.5, curve=((64, 0.5),)),
        Trial(2, "search", {narrow.key: 3e-3}, sweep.folder, "out_of_memory", reason="9 GiB"),
        Trial(3, "search", {narrow.key: 4e-3}, sweep.folder, "waiting"),
    ]
    notes = export_study(sweep, trials, f"sqlite:///{tmp_path}/a.db", "mine")
    assert notes == [
        "trial 0: training.encoder_lr=0.0015 is outside the space; it is a user attribute of the "
        "trial, not a parameter",
        "there is no trial 1; it is shown as failed",
    ]
    exported = optuna.load_study(study_name="mine", storage=f"sqlite:///{tmp_path}/a.db").trials
    assert [trial.state.name for trial in exported] == ["COMPLETE", "FAIL", "FAIL", "WAITING"]
    assert exported[0].params == {} and exported[0].user_attrs[narrow.key] == 0.0015
    assert exported[2].user_attrs["reason"] == "9 GiB" and exported[3].params == {narrow.key: 4e-3}


def test_export_does_not_change_an_existing_study(finished, tmp_path, monkeypatch):
    """The database of a server may have other studies."""
    monkeypatch.setattr(optuna_storage, "_url_of", make_url)
    monkeypatch.setattr(optuna_storage, "_draft_of", contextlib.nullcontext)
    storage = f"sqlite:///{tmp_path}/a.db"
    trials = table(finished)[:2]
    export_study(finished, trials, storage, "one")
    export_study(finished, trials, storage, "two")
    with pytest.raises(UsageError, match="it has a study 'one' already"):
        export_study(finished, trials, storage, "one")
    monkeypatch.setattr(optuna.Study, "add_trials", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_study(finished, trials, storage, "three")
    assert optuna.get_all_study_names(storage) == ["one", "two"]


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("sweep.db", "give the URL of a database, such as sqlite:///sweep.db"),
        ("sqlite://", "give the file, as in sqlite:///sweep.db"),
        ("nodb://me:secret@host/db", "sqlalchemy.dialects:nodb"),
        ("sqlite:////proc/none/a.db", "/proc/none"),
    ],
)
def test_invalid_storages_are_refused(finished, capsys, storage, message):
    assert call("export", f"--sweep={finished.folder}", f"--storage={storage}") in (1, 2)
    shown = capsys.readouterr().err
    assert message in shown and "secret" not in shown and "Traceback" not in shown


def test_resume_finishes_a_pruned_trial(tmp_path, monkeypatch, capsys):
    sweep = pruned(tmp_path / "sweep", monkeypatch, keep="all")
    monkeypatch.setattr(worker.Worker.__init__, "__defaults__", (STUB, 0.02, 0.05))
    assert call("resume", f"--sweep={sweep.folder}", "--trial=1") == 0
    assert [trial.state for trial in table(sweep)] == ["complete", "complete"]
    assert call("resume", f"--sweep={sweep.folder}", "--trial=1") == 2
    assert "trial 1 was not pruned, it is complete" in capsys.readouterr().err


def test_the_page_has_all_sections_and_escapes_names(finished):
    html = finished.page.read_text()
    trials = table(finished)
    assert html == render(finished, trials)
    for heading in ("Best", "Curves", "Importance", "Parameters", "Trials"):
        assert f"<h2>{heading}</h2>" in html
    assert html.count("<polyline") >= len(trials)
    assert "signvit train --config=small" in html and "<script" not in html and "<b>one" not in html
    assert sum(importance(finished, trials).values()) == pytest.approx(1)


def test_the_page_of_a_new_sweep_has_no_results(tmp_path, finished):
    sweep = Sweep.create(tmp_path, finished.settings, finished.base)
    assert "No trial is complete yet." in render(sweep, [])
    sweep.add_trial(0, "base", {})
    assert "1 running" in render(sweep, sweep.read(server_time(tmp_path)))


def test_the_same_command_continues_a_sweep_and_another_is_refused(finished, capsys, monkeypatch):
    before = table(finished)
    run = ("run", f"--sweep={finished.folder}", *SEARCH)
    assert call(*run, "--trials=12") == 0
    assert [trial.number for trial in table(finished)] == [trial.number for trial in before]
    capsys.readouterr()
    assert call(*run, "--search.training.num_epochs=1,2") == 2
    assert "was begun with space " in capsys.readouterr().err
    assert call(*run, "--sampler=random") == 2
    assert "was begun with sampler tpe, not random" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["rum"],
            "no such action; allowed: run, work, status, best, resume, export; did you mean 'run'?",
        ),
        (["status", "--sweep=none"], "is no sweep"),
        (["run", "--sweep=x", "--config=small"], "nothing to search"),
        (["run", "--sweep=x", "--config=small", "--search=a"], "give --search.KEY=VALUES"),
        (
            ["run", "--sweep=x", "--config=small", "--search.training.encoder_l=1:2"],
            "did you mean training.encoder_lr?",
        ),
        (["run", "--sweep=x", "--config=smal", "--search.training.seed=1,2"], "no preset 'smal'"),
    ],
)
def test_wrong_usage(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 2
    assert message in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_refused_combinations_are_reported_before_the_first_trial(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "_work_here", lambda *_: 0)
    heads = "--search.model.decoder.num_heads=2,5"
    assert call("run", f"--sweep={tmp_path / 's'}", "--config=small", heads) == 0
    assert "1 of 2 corners of the space are refused, such as: config.model.decoder.num_heads" in (
        capsys.readouterr().err
    )


def test_paths_of_a_config_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config("small", [("data.data_dir", "data"), ("model.init_from", "hf://org/name")])
    absolute = with_absolute_paths(config)
    assert absolute.data.data_dir == str(tmp_path / "data")
    assert absolute.model.init_from == "hf://org/name"
    assert dataclasses.replace(absolute, data=config.data) == config


def test_gpus_are_divided_among_workers(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7")
    assert [command._devices_of(i, 2) for i in range(2)] == ["3,5", "6,7"]
    with pytest.raises(Exception, match="more GPUs than the 4 that are visible"):
        command._devices_of(2, 2)


@pytest.mark.long
@pytest.mark.timeout(900)  # three processes that compile
def test_a_sweep_with_two_real_trials_of_two_steps(trained, tmp_path, capsys):
    """An epoch of this data is two steps of six clips."""
    sweep = tmp_path / "sweep"
    code = call(
        "run",
        f"--sweep={sweep}",
        f"--config={trained.config}",
        "--config.training.num_epochs=1",
        "--config.training.batch_size=6",
        "--search.training.decoder_lr=1e-3,2e-2",
        "--sampler=grid",
        "--trials=2",
        "--seeds=0",
        "--metric=loss",
    )
    assert code == 0, (sweep / "trials" / "0000" / "train.log").read_text()[-2000:]
    trials = table(Sweep.open(sweep))
    assert [trial.state for trial in trials] == ["complete", "complete"]
    assert [trial.step for trial in trials] == [2, 2]
    assert trials[0].value != trials[1].value
    config = json.loads((trials[1].folder / "config.json").read_text())
    decoder_lr = trials[1].parameters["training.decoder_lr"]
    assert config["training"]["decoder_lr"] == pytest.approx(decoder_lr)
    kept = [trial.number for trial in trials if (trial.folder / "checkpoints").exists()]
    assert kept == [best_of(Sweep.open(sweep).settings, trials).number]
    assert "signvit sweep best" in capsys.readouterr().out
    assert Path(sweep / "sweep.html").stat().st_size > 3000
    # Train the winner again with the command that replaces the process of `best`.
    retrain = [sys.executable, "-m", "signvit_jax", "sweep", "best", "--retrain"]
    retrain += [f"--sweep={sweep}", f"--workdir={tmp_path / 'retrained'}"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(trained.cache)}
    done = subprocess.run(retrain, env=environment, check=False)
    assert done.returncode == 0
    retrained = read_metrics(tmp_path / "retrained" / "metrics.csv")["validation/loss"][1]
    assert min(retrained) == best_of(Sweep.open(sweep).settings, trials).value
