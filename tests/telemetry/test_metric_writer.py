"""metrics.csv, TensorBoard events, the plot and run.log."""

import csv
import io
import logging
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.telemetry.metric_writer import MetricsLog
from signvit_jax.telemetry.metrics_file import read_metrics, read_rows
from signvit_jax.telemetry.plots import plot_metrics


@pytest.fixture
def workdir(tmp_path):
    return Workdir.create(tmp_path / "run")


def rows(workdir):
    with workdir.metrics_csv.open(newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_of_one_step_share_a_row(workdir):
    log = MetricsLog(workdir)
    log.write(10, {"train/loss": 2.0})
    log.write(20, {"train/loss": 1.5})
    log.write(20, {"validation/loss": 1.75})
    log.write(20, {"validation/wer": 1.0})
    log.write(30, {"train/loss": 1.25})
    log.close()
    assert rows(workdir) == [
        {"step": "10", "train/loss": "2", "validation/loss": "", "validation/wer": ""},
        {"step": "20", "train/loss": "1.5", "validation/loss": "1.75", "validation/wer": "1"},
        {"step": "30", "train/loss": "1.25", "validation/loss": "", "validation/wer": ""},
    ]


def test_a_row_can_grow_again_after_a_new_column(workdir):
    log = MetricsLog(workdir)
    log.write(1, {"a": 1.0, "b": 1.0})
    log.write(2, {"a": 2.0})
    log.write(2, {"c": 2.0})
    log.write(2, {"b": 2.0})
    log.close()
    assert workdir.metrics_csv.read_text() == "step,a,b,c\n1,1,1,\n2,2,2,2\n"


def test_a_row_is_in_the_file_before_the_call_returns(workdir):
    log = MetricsLog(workdir)
    for step in range(1, 30):
        log.write(step, {"train/loss": step / 7})
        losses = [float(row["train/loss"]) for row in rows(workdir)]
        assert losses == pytest.approx([n / 7 for n in range(1, step + 1)])
        if step % 5 == 0:
            log.write(step, {"validation/loss": float(step)})
            assert rows(workdir)[-1]["validation/loss"] == str(step)
    log.close()


def test_each_step_has_one_row_after_a_resume(workdir):
    first = MetricsLog(workdir)
    for step in (10, 20, 30):
        first.write(step, {"train/loss": 1.0})
    first.write(30, {"validation/loss": 1.0})
    resumed = MetricsLog(workdir)  # without closing the first, as after a kill
    assert resumed.rewind(20) == 10
    assert read_metrics(workdir.metrics_csv)["train/loss"][0] == [10, 20]  # before the next write
    for step in (30, 40):
        resumed.write(step, {"train/loss": 2.0})
    resumed.close()
    assert read_metrics(workdir.metrics_csv) == {
        "train/loss": ([10, 20, 30, 40], [1.0, 1.0, 2.0, 2.0]),
        "validation/loss": ([], []),
    }


def test_a_row_truncated_by_a_crash_is_dropped(workdir):
    log = MetricsLog(workdir)
    for step in (1, 2, 3):
        log.write(step, {"a": step * 1.5, "b": 1.0})
    log.close()
    complete = workdir.metrics_csv.read_bytes()
    for length in range(complete.rindex(b"3,") + 1, len(complete)):
        workdir.metrics_csv.write_bytes(complete[:length])
        assert read_metrics(workdir.metrics_csv)["a"] == ([1, 2], [1.5, 3.0])
        log = MetricsLog(workdir)
        log.write(3, {"a": 4.5, "b": 1.0})
        log.close()
        assert workdir.metrics_csv.read_bytes() == complete


def test_a_kill_while_writing_loses_no_earlier_row(workdir):
    code = """
import sys
from signvit_jax.telemetry.metric_writer import MetricsLog
from signvit_jax.checkpoints.workdir import Workdir
log = MetricsLog(Workdir.create(sys.argv[1]))
for step in range(1, 10**9):
    log.write(step, {"train/loss": step})
    print(step, flush=True)
"""
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "JAX_PLATFORMS": "cpu",
    }
    with subprocess.Popen(
        [sys.executable, "-c", code, str(workdir.path)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as writer:
        written = [int(writer.stdout.readline()) for _ in range(200)]
        writer.send_signal(signal.SIGKILL)
    steps, values = read_metrics(workdir.metrics_csv)["train/loss"]
    assert steps[:200] == written and values == steps


def test_a_foreign_metrics_csv_is_renamed(workdir):
    workdir.metrics_csv.write_text("my,own,notes\n")
    log = MetricsLog(workdir)
    log.write(1, {"a": 1.0})
    log.close()
    assert workdir.metrics_csv.with_name("metrics.csv.foreign").read_text() == "my,own,notes\n"
    assert read_metrics(workdir.metrics_csv) == {"a": ([1], [1.0])}


@pytest.mark.parametrize("text", ["my,own\n1,2\n", "loss,step\n1,2\n", "step,a,a\n1,2,3\n", ""])
def test_a_table_with_other_columns_is_read_as_empty(workdir, text):
    workdir.metrics_csv.write_text(text)
    assert read_rows(workdir.metrics_csv) == (["step"], [])


def test_appending_a_row_reads_no_earlier_rows(workdir, monkeypatch):
    log = MetricsLog(workdir)
    log.write(1, {"a": 1.0})
    monkeypatch.setattr("signvit_jax.telemetry.metric_writer.read_rows", None)
    log.write(2, {"a": 2.0})
    log.close()
    assert workdir.metrics_csv.read_text() == "step,a\n1,1\n2,2\n"


def test_non_finite_metrics_are_kept_in_the_csv(workdir):
    log = MetricsLog(workdir)
    log.write(1, {"loss": float("nan"), "norm": float("inf")})
    log.write(2, {"loss": 1.0, "norm": 1.0})
    log.close()
    series = read_metrics(workdir.metrics_csv)
    assert math.isnan(series["loss"][1][0]) and series["norm"][1] == [math.inf, 1.0]


def test_a_full_disk_is_reported_once(workdir, monkeypatch, caplog):
    log = MetricsLog(workdir)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("signvit_jax.telemetry.metric_writer.write_atomically", full)
    for step in (1, 2):
        log.write(step, {"a": 1.0})
    assert caplog.text.count("No space left") == 1
    log.close()


def records(workdir):
    """Return all events, from records of (length u64, crc, payload, crc)."""
    records = []
    for path in sorted(workdir.path.glob("events.*")):
        content = path.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            records.append(Event.FromString(content[12 : 12 + length]))
            content = content[12 + length + 4 :]
    return records


def events(workdir):
    """Return (tag, step, value) of all numbers in events."""
    return [
        (value.tag, event.step, value.simple_value)
        for event in records(workdir)
        for value in event.summary.value
    ]


def test_tensorboard_gets_the_same_metrics(workdir):
    log = MetricsLog(workdir)
    log.write(1, {"train/loss": 2.0, "train/ctc": float("nan")})
    log.write(2, {"train/loss": 1.0})
    log.close()
    assert events(workdir) == [("train/loss", 1, 2.0), ("train/loss", 2, 1.0)]


def test_tensorboard_gets_texts_and_images(workdir):
    log = MetricsLog(workdir)
    log.show(3, {"samples": "| a |\n|---|\n| 雨 |", "clip": Image.new("RGB", (6, 4), "red")})
    log.close()
    (event,) = (event for event in records(workdir) if event.summary.value)
    text, image = event.summary.value
    assert text.metadata.plugin_data.plugin_name == "text" and event.step == 3
    assert text.tensor.string_val[0].decode().endswith("| 雨 |")
    assert (image.image.width, image.image.height) == (6, 4)
    assert image.image.colorspace == 3  # RGB, by TensorFlow's Summary.Image
    shown = Image.open(io.BytesIO(image.image.encoded_image_string))
    assert shown.getpixel((5, 3)) == (255, 0, 0)
    assert not workdir.metrics_csv.exists()


def test_only_process_0_writes(workdir, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    log = MetricsLog(workdir)
    log.write(1, {"a": 1.0})
    assert log.rewind(0) == 0
    log.close()
    assert not workdir.metrics_csv.exists() and not events(workdir)


def test_the_plot_has_a_quality_panel_only_with_scores(workdir):
    plot_metrics(workdir.metrics_csv, workdir.metrics_png)
    assert not workdir.metrics_png.exists()  # nothing to draw yet
    log = MetricsLog(workdir)
    log.write(1, {"train/loss": float("nan"), "train/lr_encoder": 1e-5})
    log.write(2, {"train/loss": 0.0, "train/lr_encoder": 1e-5})
    plot_metrics(workdir.metrics_csv, workdir.metrics_png)
    with Image.open(workdir.metrics_png) as image:
        two_panels = image.size
    for step in range(3, 200):
        log.write(step, {"train/loss": 1 / step})
    log.write(200, {"validation/loss": 0.5, "validation/wer": 0.3})
    log.close()
    plot_metrics(workdir.metrics_csv, workdir.metrics_png)
    image = Image.open(workdir.metrics_png)
    assert image.size[1] > two_panels[1]
    assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 50
    assert [path.name for path in workdir.path.glob(".*.tmp")] == []


@pytest.mark.parametrize(
    ("metric", "step", "panel", "height"),
    [("loss", 10, 0, 1.0), ("wer", 20, 1, 40.0), ("chrf", 20, 1, 30.0)],
)
def test_a_star_marks_the_best_checkpoint_on_its_metric(
    workdir, monkeypatch, metric, step, panel, height
):
    log = MetricsLog(workdir)
    for number, loss, wer, chrf in ((10, 1.0, 0.6, 20.0), (20, 1.2, 0.4, 30.0)):
        scores = {"loss": loss, "wer": wer, "chrf": chrf, "bleu4": 0.0}
        log.write(number, {f"validation/{name}": score for name, score in scores.items()})
        log.write(number, {"train/loss": 2.0})
    log.close()
    figures = []
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, path, **_: (figures.append(figure), path.touch())
    )
    plot_metrics(workdir.metrics_csv, workdir.metrics_png, metric, step)
    plot_metrics(workdir.metrics_csv, workdir.metrics_png, metric, None)  # no checkpoint yet
    with_best, without_best = map(stars, figures)
    ((axis, star),) = with_best
    assert axis == panel
    assert star.get_xdata().tolist() == [step]
    assert star.get_ydata().tolist() == [pytest.approx(height)]
    assert f"at step {step}" in star.get_label()
    assert without_best == []


def stars(figure):
    """Return (number of the axis, line) of all stars in a figure."""
    return [
        (number, line)
        for number, axis in enumerate(figure.axes)
        for line in axis.lines
        if line.get_marker() == "*"
    ]


RUN_LOG = """
import logging, sys
from pathlib import Path
from signvit_jax.telemetry.run_log import start_run_log
start_run_log(Path(sys.argv[1]))
start_run_log(Path(sys.argv[1]))
logging.getLogger("signvit_jax.training").info("epoch 1 [bold]")
logging.getLogger("absl").error("a library's traceback")
logging.getLogger("absl").info("chatter")
"""


def test_a_pipe_gets_plain_lines_of_our_messages_only(workdir):
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", RUN_LOG, str(workdir.run_log)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=250)
    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert line.endswith(" epoch 1 [bold]") and "\x1b" not in line
    text = workdir.run_log.read_text()
    assert text.count("epoch 1") == 1 and "a library's traceback" in text and "chatter" not in text


def test_a_log_that_cannot_be_opened_is_reported(tmp_path, capsys):
    from signvit_jax.telemetry import run_log

    before = logging.getLogger().level
    try:
        run_log.start_run_log(tmp_path / "nothing" / "run.log")
        assert "keeps no log" in capsys.readouterr().err
    finally:
        for handler in [h for h in logging.getLogger().handlers if getattr(h, "of_run_log", False)]:
            logging.getLogger().removeHandler(handler)
        logging.getLogger().setLevel(before)
