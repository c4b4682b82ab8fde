"""Tests of the output of eval and export: unwritable files, groups, names that look like markup."""

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


def fail_if_decoding(*_, **__):
    raise AssertionError("eval decoded before it checked the output")


def run_eval(trained, *flags) -> int:
    """Return the exit code of eval with greedy search."""
    workdir = f"--workdir={trained.workdir}"
    return tiny_run.command(evaluation.main, workdir, "--decode=greedy", *flags)


# A path below a file, a folder, a path whose page (.html) is a folder, and a name that is too long.
@pytest.mark.parametrize(
    "output", ["notes.txt/results.json", "taken.json", "taken_page.json", f"{'x' * 250}.json"]
)
def test_an_unwritable_output_is_refused_before_decoding(
    trained, tmp_path, capsys, monkeypatch, output
):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "taken.json").mkdir()
    (tmp_path / "taken_page.html").mkdir()
    monkeypatch.setattr(evaluate, "evaluate", fail_if_decoding)
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
    ("module", "writer", "lost_file"),
    [(results, "to_json", "results.json"), (evaluation_page, "render", "results.html")],
)
def test_scores_are_printed_before_a_full_disk_stops_eval(
    trained, tmp_path, capsys, monkeypatch, module, writer, lost_file
):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, writer, fail)
    assert run_eval(trained, f"--output={tmp_path / 'results.json'}") == 1
    shown = capsys.readouterr()
    assert "BLEU-4" in shown.out and "greedy" in shown.out
    assert f"{tmp_path / lost_file} could not be written: No space left on device" in shown.err
    assert "Traceback" not in shown.err
    # No part of a file is left. Where the page is lost, the results are already there.
    assert {path.name for path in tmp_path.iterdir()} == {"results.json"} - {lost_file}


@pytest.fixture
def camera_table(trained, tmp_path, capsys):
    """A table with the camera of each test clip but the first, and a results file at `output`."""
    output = tmp_path / "results.json"
    assert run_eval(trained, f"--output={output}") == 0
    capsys.readouterr()
    clips = [prediction["id"] for prediction in json.loads(output.read_text())["predictions"]]
    table = tmp_path / "clips.csv"
    rows = [f"{clip}.mp4;{'front' if i else 'side'}" for i, clip in enumerate(clips[1:])]
    table.write_text("uid;camera\n" + "\n".join(rows), encoding="utf-8")
    return table


def test_eval_groups_clips_by_columns_of_the_data_and_of_a_table(
    trained, tmp_path, capsys, camera_table
):
    output = tmp_path / "results.json"
    grouped = ("--by=video_id,camera", f"--table={camera_table}")
    assert run_eval(trained, f"--output={output}", *grouped) == 0
    shown = capsys.readouterr().out
    assert "video_id" in shown and "side" in shown
    assert "(none)" in shown  # the group of the clip that is not in the table
    groups = [prediction["groups"] for prediction in json.loads(output.read_text())["predictions"]]
    assert [group["camera"] for group in groups[:2]] == ["", "side"]
    assert all(group["video_id"] for group in groups)
    assert "Error by camera" in output.with_suffix(".html").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--by=camera"], "--table=clips.csv"),
        (["--by=signer", "--table=clips.csv"], "--table gives columns to --by"),
        (["--by=place", "--table=clips.csv"], "no column 'place'"),
    ],
)
def test_columns_that_do_not_fit_the_table_are_refused(
    trained, tmp_path, capsys, monkeypatch, flags, message
):
    (tmp_path / "clips.csv").write_text("uid;camera\nclip.mp4;front\n")
    monkeypatch.chdir(tmp_path)
    assert run_eval(trained, f"--output={tmp_path / 'results.json'}", *flags) == 2
    assert message in capsys.readouterr().err


def test_eval_works_where_names_look_like_markup(trained, tmp_path, capsys):
    # Rich, which prints the tables, takes "[foo]" for a style and "[/foo]" for its end.
    workdir = shutil.copytree(trained.workdir, tmp_path / "wd[" / "foo]")
    data = tmp_path / "data[" / "red]"
    shutil.copytree(trained.data_dir / "video_folder", data / "video_folder")
    (version,) = (path for path in (data / "video_folder").iterdir() if path.is_dir())
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
        "--data_dir=/no/such",  # an export without scores
    ]
    assert tiny_run.command(export.main, *flags) == 0
    shown = capsys.readouterr()
    assert f"{output}\n" in shown.out and "Traceback" not in shown.err


def test_the_table_of_an_export_shows_a_split_that_looks_like_markup(capsys):
    report = {
        "format": "onnx",
        "quantize": "none",
        "checkpoint_step": 1,
        "size": {"parameters": 10, "float32_bytes": 40, "export_bytes": 40},
        "difference": {},
        "latency": {"frames": 8, "decoder": "greedy", "device": "cpu", "before": 1.0, "after": 1.0},
    }
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
