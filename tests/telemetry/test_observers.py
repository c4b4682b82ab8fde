"""Observers do not end or block a run if its disk fails, and write all records later."""

import errno
import logging
import os
import sys
import threading

import pytest

from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.telemetry import events_file, metric_writer
from signvit_jax.telemetry.metric_writer import MetricsLog
from signvit_jax.telemetry.metrics_file import read_metrics
from signvit_jax.telemetry.observers import Observer, Records
from tests.helpers import tiny_run
from tests.telemetry.test_metric_writer import events, records, rows

DISK_ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EIO]


@pytest.fixture
def workdir(tmp_path):
    return Workdir.create(tmp_path / "run")


class Disk:
    """A disk that fails with the error number `error` while it is set.

    The events file can still get `room` more bytes before it fails.
    """

    def __init__(self):
        self.error = None
        self.room = 0
        self.real_pwrite = os.pwrite
        self.real_open = metric_writer.Path.open

    def check(self):
        if self.error:
            raise OSError(self.error, os.strerror(self.error))

    def pwrite(self, descriptor, content, offset):
        os.fstat(descriptor)  # an error for a descriptor that is closed
        if self.error and self.room:
            content, self.room = content[: self.room], max(self.room - len(content), 0)
            return self.real_pwrite(descriptor, content, offset)
        self.check()
        return self.real_pwrite(descriptor, content, offset)

    def open(self, path, mode="r", *arguments, **options):
        file = self.real_open(path, mode, *arguments, **options)
        if self.error and mode == "r+b":
            return HalfWritten(file, self)
        return file


class HalfWritten:
    """A file that stores the first half of what is written, and then fails."""

    def __init__(self, file, disk):
        self.file, self.disk = file, disk

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def seek(self, *where):
        return self.file.seek(*where)

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        self.disk.check()


@pytest.fixture
def disk(monkeypatch):
    disk = Disk()
    real = metric_writer.write_atomically
    monkeypatch.setattr(
        metric_writer, "write_atomically", lambda path, text: disk.check() or real(path, text)
    )
    monkeypatch.setattr(events_file.os, "pwrite", disk.pwrite)
    monkeypatch.setattr(
        metric_writer.Path, "open", lambda path, *how, **options: disk.open(path, *how, **options)
    )
    return disk


@pytest.mark.parametrize("number", DISK_ERRORS, ids=errno.errorcode.get)
def test_metrics_wait_for_the_disk_and_are_written_later(workdir, disk, caplog, number):
    log = MetricsLog(workdir)
    log.write(1, {"train/loss": 1.0})
    (file,) = workdir.path.glob("events.*")
    before = file.read_bytes()
    disk.error = number
    for step in range(2, 60):  # more than a queue of ten records holds
        disk.room = 7
        log.write(step, {"train/loss": float(step)})
    log.write(59, {"validation/loss": 0.5})  # a new column, and a row that grows
    assert file.read_bytes() == before  # no part of a record is left
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2  # one for the table, one for the events
    assert all(os.strerror(number) in warning for warning in warnings)
    assert read_metrics(workdir.metrics_csv)["train/loss"] == ([1], [1.0])
    disk.error = None
    log.write(60, {"train/loss": 60.0})
    log.close()
    expected = [(step, float(step)) for step in range(1, 61)]
    assert [(int(row["step"]), float(row["train/loss"])) for row in rows(workdir)] == expected
    assert rows(workdir)[58]["validation/loss"] == "0.5"
    losses = [(step, value) for tag, step, value in events(workdir) if tag == "train/loss"]
    assert losses == expected
    assert caplog.text.count("is written again") == 2 and "lacks" not in caplog.text


def test_a_row_that_grew_on_a_full_disk_is_completed_later(workdir, disk):
    log = MetricsLog(workdir)
    log.write(1, {"a": 1.0, "b": 1.0})
    log.write(2, {"a": 2.0})
    disk.error = errno.ENOSPC
    log.write(2, {"b": 4.0})
    assert read_metrics(workdir.metrics_csv)["a"][0][:1] == [1]
    disk.error = None
    log.write(3, {"a": 3.0})
    log.close()
    assert read_metrics(workdir.metrics_csv) == {
        "a": ([1, 2, 3], [1.0, 2.0, 3.0]),
        "b": ([1, 2], [1.0, 4.0]),
    }


def test_a_disk_that_is_full_at_the_start_gets_all_rows_later(workdir, disk):
    first = MetricsLog(workdir)
    for step in (1, 2, 3, 4, 5, 6):
        first.write(step, {"a": 1.0})
    disk.error = errno.ENOSPC
    log = MetricsLog(workdir)
    assert log.rewind(2) == 4
    log.write(3, {"a": 2.0})
    disk.error = None
    log.write(4, {"a": 2.0})
    log.close()
    assert read_metrics(workdir.metrics_csv) == {"a": ([1, 2, 3, 4], [1.0, 1.0, 2.0, 2.0])}
    assert [step for _, step, _ in events(workdir)][-2:] == [3, 4]


def test_a_dropped_longer_row_leaves_nothing_after_a_shorter_one(workdir, disk, monkeypatch):
    monkeypatch.setattr("signvit_jax.telemetry.observers._MAX_WAITING", 1)
    log = MetricsLog(workdir)
    log.write(1, {"a": 1.0, "b": 1.0})
    disk.error = errno.ENOSPC
    log.write(2, {"a": 1.23456789e-11, "b": 1.23456789e-11})
    disk.error = None
    log.write(3, {"a": 1.0, "b": 1.0})
    assert workdir.metrics_csv.read_text() == "step,a,b\n1,1,1\n3,1,1\n"
    log.close()


def test_waiting_records_are_written_on_close(workdir, disk, caplog):
    log = MetricsLog(workdir)
    disk.error = errno.ENOSPC
    log.write(1, {"a": 1.0})
    disk.error = None
    log.close()
    assert read_metrics(workdir.metrics_csv) == {"a": ([1], [1.0])}
    assert [step for _, step, _ in events(workdir)] == [1]
    assert "lacks" not in caplog.text


def test_a_failed_first_record_leaves_no_empty_events_file(workdir, disk, caplog):
    log = MetricsLog(workdir)
    disk.error = errno.ENOSPC
    for room in (0, 3, 20):
        disk.room = room
        log.write(1, {"a": 1.0})
        assert not list(workdir.path.glob("events.*")) and tiny_run.open_below(workdir.path) == []
    assert caplog.text.count("events.* cannot be written (No space left on device)") == 1
    disk.error = None
    log.write(2, {"a": 2.0})
    assert [step for _, step, _ in events(workdir)] == [1, 1, 1, 2]
    log.close()
    assert tiny_run.open_below(workdir.path) == []


def test_records_that_were_never_written_are_counted_on_close(workdir, disk, caplog, monkeypatch):
    monkeypatch.setattr("signvit_jax.telemetry.observers._MAX_WAITING", 4)
    log = MetricsLog(workdir)
    disk.error = errno.ENOSPC
    for step in range(1, 8):
        log.write(step, {"a": 1.0})
    log.close()
    assert "metrics.csv lacks 7 of this run's records" in caplog.text
    assert "events.* lacks 7" in caplog.text


def test_a_table_deleted_during_the_run_is_recreated(workdir):
    log = MetricsLog(workdir)
    log.write(1, {"a": 1.0})
    workdir.metrics_csv.unlink()
    log.write(2, {"a": 2.0})
    log.write(3, {"a": 3.0})
    log.close()
    assert read_metrics(workdir.metrics_csv) == {"a": ([2, 3], [2.0, 3.0])}


def test_others_can_read_the_events_file(workdir):
    before = os.umask(0)
    try:
        log = MetricsLog(workdir)
        log.write(1, {"a": 1.0})
        log.close()
    finally:
        os.umask(before)
    (file,) = workdir.path.glob("events.*")
    assert file.stat().st_mode & 0o777 == 0o644


def test_a_record_written_in_pieces_is_complete(workdir, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(
        events_file.os,
        "pwrite",
        lambda descriptor, content, offset: pwrite(descriptor, content[:5], offset),
    )
    log = MetricsLog(workdir)
    for step in (1, 2):
        log.write(step, {"a": float(step)})
    log.close()
    assert events(workdir) == [("a", 1, 1.0), ("a", 2, 2.0)]


def test_events_need_no_thread(workdir):
    before = threading.active_count()
    log = MetricsLog(workdir)
    for step in range(100):
        log.write(step, {"a": 1.0})
        assert events(workdir)[-1] == ("a", step, 1.0)  # before the call returns
    assert threading.active_count() == before
    log.close()


def test_a_resume_purges_lost_steps_in_tensorboard(workdir):
    from tensorboardX.proto.event_pb2 import SessionLog

    log = MetricsLog(workdir)
    log.rewind(20)
    log.write(21, {"a": 1.0})
    log.close()
    version, start, metrics = records(workdir)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (21, SessionLog.START)
    assert metrics.step == 21 and metrics.summary.value[0].tag == "a"


def test_event_checksums_equal_those_of_tensorboardx(workdir):
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event

    log = MetricsLog(workdir)
    log.write(1, {"a": 1.5})
    log.close()
    (ours,) = workdir.path.glob("events.*")
    content = ours.read_bytes()
    theirs = EventsWriter(str(workdir.path / "other"))
    record_writer = theirs._py_recordio_writer
    record_writer.flush()
    offset = os.path.getsize(record_writer.path)
    length = int.from_bytes(content[:8], "little")
    rest = content[12 + length + 4 :]
    theirs.write_event(Event.FromString(rest[12 : 12 + int.from_bytes(rest[:8], "little")]))
    theirs.close()
    with open(record_writer.path, "rb") as file:
        assert file.read()[offset:] == rest


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("a bug"), MemoryError()],
    ids=["disk", "bug", "memory"],
)
def test_an_observer_survives_any_error_and_reports_it_once(tmp_path, caplog, error):
    observer = Observer(tmp_path / "plot.png")

    def fails():
        raise error

    assert not observer.attempt(fails) and len(caplog.records) == 1  # the first failure is reported
    assert [observer.attempt(fails) for _ in range(2)] == [False] * 2
    reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'plot.png'} cannot be written ({reason}); the run continues without it"
    ]
    assert observer.attempt(lambda: None)
    assert "written again, after 3 attempts that failed" in caplog.text
    assert observer.attempt(lambda: None) and len(caplog.records) == 2
    with pytest.raises(KeyboardInterrupt):
        observer.attempt(lambda: (_ for _ in ()).throw(KeyboardInterrupt()))


def test_records_keep_their_order_and_drop_the_oldest(tmp_path, monkeypatch):
    monkeypatch.setattr("signvit_jax.telemetry.observers._MAX_WAITING", 3)
    written, is_full = [], [False]

    def write(number):
        if is_full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(number)

    records = Records(tmp_path / "file", write)
    for number in range(10):
        is_full[0] = 2 <= number < 8
        records.add(number)
    assert written == [0, 1, 6, 7, 8, 9]


def test_unraisable_exceptions_go_to_the_file(tmp_path, capsys, monkeypatch):
    from signvit_jax.telemetry import run_log

    class Callback:
        def __del__(self):
            raise RuntimeError("event loop is closed")

    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    run_log.start_run_log(tmp_path / "run.log")
    Callback()
    text = (tmp_path / "run.log").read_text()
    assert "Traceback" in text and "event loop is closed" in text
    assert capsys.readouterr().err == ""


def test_a_full_run_log_is_reported_once_and_continues(tmp_path, capsys, monkeypatch):
    from signvit_jax.telemetry import run_log

    run_log.start_run_log(tmp_path / "run.log")
    log = logging.getLogger("signvit_jax.test")
    (file,) = [
        handler for handler in logging.getLogger().handlers if isinstance(handler, run_log._RunLog)
    ]

    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(file, "flush", full)
        for number in range(3):
            log.info("line %d", number)
    log.info("last")
    shown = capsys.readouterr().err
    assert "Traceback" not in shown and "Logging error" not in shown
    assert shown.count("run.log cannot be written (No space left on device)") == 1
    lines = [line.split(" ", 1)[1] for line in shown.splitlines()]
    lines = [line for line in lines if line.startswith(("line", "last"))]
    assert lines == ["line 0", "line 1", "line 2", "last"]
    assert "last" in (tmp_path / "run.log").read_text()
