"""`signvit sweep`: its actions, its page, and one real trial."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from signvit_jax.config.files import load_config
from signvit_jax.runtime.exit_codes import run_command
from signvit_jax.sweep import command, worker
from signvit_jax.sweep.command import main
from signvit_jax.sweep.leases import server_time
from signvit_jax.sweep.report import render, winning_command
from signvit_jax.sweep.sampling import importance
from signvit_jax.sweep.trial_files import Sweep, best_of
from tests.sweep.test_worker import STUB, table

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
    """A sweep of twelve trials and three seeds; tests read it only."""
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


def test_the_winning_command_gives_the_winning_config(finished):
    best = best_of(finished.settings, table(finished))
    flags = winning_command(finished, best).split()[2:]
    overrides = [
        tuple(flag.removeprefix("--config.").split("=", 1))
        for flag in flags
        if flag.startswith("--config.")
    ]
    config = command.with_absolute_paths(load_config("small", overrides))
    assert config == finished.config_of(best.parameters)
    assert load_config(str(finished.config_file)) == finished.base


def test_the_page_has_everything_and_escapes_names(finished):
    html = finished.page.read_text()
    trials = table(finished)
    assert html == render(finished, trials)
    for heading in ("Best", "Curves", "Importance", "Parameters", "Trials"):
        assert f"<h2>{heading}</h2>" in html
    assert html.count("<polyline") >= len(trials)
    assert "signvit train --config=small" in html and "<script" not in html and "<b>one" not in html
    assert sum(importance(finished, trials).values()) == pytest.approx(1)


def test_a_page_of_a_sweep_that_has_just_begun(tmp_path, finished):
    sweep = Sweep.create(tmp_path, finished.settings, finished.base)
    assert "No trial is complete yet." in render(sweep, [])
    sweep.add_trial(0, "base", {})
    assert "1 running" in render(sweep, sweep.read(server_time(tmp_path)))


def test_the_same_command_continues_and_another_is_refused(finished, capsys, monkeypatch):
    before = table(finished)
    run = ("run", f"--sweep={finished.folder}", *SEARCH)
    assert call(*run, "--trials=12") == 0
    assert [t.number for t in table(finished)] == [t.number for t in before]
    capsys.readouterr()
    assert call(*run, "--search.training.num_epochs=1,2") == 2
    assert "was begun with space " in capsys.readouterr().err
    assert call(*run, "--sampler=random") == 2
    assert "was begun with sampler tpe, not random" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rum"], "no such action; allowed: run, work, status, best; did you mean 'run'?"),
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
def test_wrong_usage(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 2
    assert said in capsys.readouterr().err and list(tmp_path.iterdir()) == []


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
    moved = command.with_absolute_paths(config)
    assert moved.data.data_dir == str(tmp_path / "data")
    assert moved.model.init_from == "hf://org/name"
    assert dataclasses.replace(moved, data=config.data) == config


def test_gpus_are_divided_among_workers(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7")
    assert [command._devices_of(i, 2) for i in range(2)] == ["3,5", "6,7"]
    with pytest.raises(Exception, match="more GPUs than the 4 that are visible"):
        command._devices_of(2, 2)


@pytest.mark.long
@pytest.mark.timeout(900)  # three processes that compile
def test_a_real_trial_of_two_steps(trained, tmp_path, capsys):
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
    assert json.loads((trials[1].folder / "config.json").read_text())["training"][
        "decoder_lr"
    ] == pytest.approx(trials[1].parameters["training.decoder_lr"])
    kept = [trial.number for trial in trials if (trial.folder / "checkpoints").exists()]
    assert kept == [best_of(Sweep.open(sweep).settings, trials).number]
    assert "signvit sweep best" in capsys.readouterr().out
    assert Path(sweep / "sweep.html").stat().st_size > 3000
