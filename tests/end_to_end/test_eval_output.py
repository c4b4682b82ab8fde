"""Outputs of eval and export: unwritable files, groups of clips, names that look like markup."""

import errno
import json
import shutil

import pytest

from signvit_jax.commands import eval as evaluation
from signvit_jax.commands import export
from signvit_jax.evaluation import evaluate, results
from signvit_jax.exporting.report import report_table
from signvit_jax.reports import evaluation_page
from tests.helpers import tiny_run

pytestmark = pytest.mark.usefixtures("light_jax")


def must_not_decode(*_, **__):
    raise AssertionError("eval decoded before it checked the output")


def run_eval(trained, *flags) -> int:
    """Return the exit code of eval with greedy search."""
    workdir = f"--workdir={trained.workdir}"
    return tiny_run.command(evaluation.main, workdir, "--decode=greedy", *flags)


@pytest.mark.parametrize(
    "output", ["notes.txt/results.json", "taken.json", "taken_page.json", f"{'x' * 250}.json"]
)
def test_an_unwritable_output_is_refused_before_decoding(
    trained, tmp_path, capsys, monkeypatch, output
):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "taken.json").mkdir()
    (tmp_path / "taken_page.html").mkdir()
    monkeypatch.setattr(evaluate, "evaluate", must_not_decode)
    assert run_eval(trained, f"--output={tmp_path / output}") == 2
    shown = capsys.readouterr().err
    assert output.rpartition(".")[0] in shown and "cannot be written" in shown
    assert "Traceback" not in shown
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {
        "notes.txt",
        "taken.json",
        "taken_page.html",
    }


@pytest.mark.parametrize(
    ("module", "name", "lost"),
    [(results, "to_json", "results.json"), (evaluation_page, "render", "results.html")],
)
def test_scores_are_printed_before_a_full_disk_stops_eval(
    trained, tmp_path, capsys, monkeypatch, module, name, lost
):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, name, full)
    assert run_eval(trained, f"--output={tmp_path / 'results.json'}") == 1
    shown = capsys.readouterr()
    assert "BLEU-4" in shown.out and "greedy" in shown.out
    assert f"{tmp_path / lost} could not be written: No space left on device" in shown.err
    assert "Traceback" not in shown.err
    assert {path.name for path in tmp_path.iterdir()} <= {"results.json"}


def test_eval_groups_clips_by_columns_of_the_data_and_of_a_table(trained, tmp_path, capsys):
    output = tmp_path / "results.json"
    assert run_eval(trained, f"--output={output}") == 0
    capsys.readouterr()
    clips = [prediction["id"] for prediction in json.loads(output.read_text())["predictions"]]
    table = tmp_path / "clips.csv"
    rows = [f"{clip}.mp4;{'front' if i else 'side'}" for i, clip in enumerate(clips[1:])]
    table.write_text("uid;camera\n" + "\n".join(rows), encoding="utf-8")
    grouped = ("--by=video_id,camera", f"--table={table}")
    assert run_eval(trained, f"--output={output}", *grouped) == 0
    shown = capsys.readouterr().out
    assert "video_id" in shown and "(none)" in shown and "side" in shown
    groups = [prediction["groups"] for prediction in json.loads(output.read_text())["predictions"]]
    assert [group["camera"] for group in groups[:2]] == ["", "side"]
    assert all(group["video_id"] for group in groups)
    assert "Error by camera" in output.with_suffix(".html").read_text()
    for wrong, message in (
        (["--by=camera"], "--table=clips.csv"),
        (["--by=signer", f"--table={table}"], "--table gives columns to --by"),
        (["--by=place", f"--table={table}"], "no column 'place'"),
    ):
        assert run_eval(trained, f"--output={output}", *wrong) == 2
        assert message in capsys.readouterr().err


def test_eval_works_where_names_look_like_markup(trained, tmp_path, capsys):
    workdir = shutil.copytree(trained.workdir, tmp_path / "wd[" / "foo]")
    data = tmp_path / "data[" / "red]"
    shutil.copytree(trained.data_dir / "video_folder", data / "video_folder")
    version = next(path for path in (data / "video_folder").iterdir() if path.is_dir())
    flags = [
        f"--workdir={workdir}",
        f"--data_dir={tmp_path / 'data['}",
        f"--name=red]/video_folder/{version.name}",
        "--decode=greedy",
    ]
    assert tiny_run.command(evaluation.main, *flags) == 0
    shown = capsys.readouterr()
    assert str(workdir / "eval" / "test.json") in shown.out and "Traceback" not in shown.err
    results = json.loads((workdir / "eval" / "test.json").read_text())
    assert len(results["predictions"]) == tiny_run.CLIPS["test"]


def test_export_works_where_names_look_like_markup(trained, tmp_path, capsys):
    output = tmp_path / "out[" / "foo]"
    flags = [
        f"--workdir={trained.workdir}",
        f"--output={output}",
        "--format=safetensors",
        "--data_dir=/no/such",
    ]
    assert tiny_run.command(export.main, *flags) == 0
    shown = capsys.readouterr()
    assert f"{output}\n" in shown.out and "Traceback" not in shown.err
    report = json.loads((output / "report.json").read_text())
    metrics = {"bleu4": 1.0, "chrf": 1.0, "wer": 1.0, "exact_match": 1.0}
    scores = {
        "split": "[/x]",
        "clips": 1,
        "decoder": "greedy",
        "before": metrics,
        "after": metrics,
    }
    table = report_table(report | {"scores": scores})
    assert any("[/x]" in str(cell) for cell in table.columns[0].cells)
    from rich.console import Console

    Console().print(table)
    assert "[/x]" in capsys.readouterr().out
