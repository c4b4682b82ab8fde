"""What only watches a run neither ends nor blocks it, whatever the disk says; and nothing is lost that there is room for later."""

import errno
import logging
import os
import sys
import threading

import pytest

from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.telemetry import events_file, metric_writer
from signvit_jax.telemetry.metric_writer import MetricsLog, read_metrics
from signvit_jax.telemetry.observers import Observer, Records
from tests.helpers import tiny_run
from tests.telemetry.test_metric_writer import events, rows

REFUSALS = [errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EIO]


@pytest.fixture
def workdir(tmp_path):
    return Workdir.create(tmp_path / "run")


class Disk:
    """Refuses what is written to it while `error` is set, after as many bytes as it still has room for."""

    def __init__(self):
        self.error, self.room = None, 0
        self.real_pwrite, self.real_open = os.pwrite, metric_writer.Path.open

    def take(self):
        if self.error:
            raise OSError(self.error, os.strerror(self.error))

    def pwrite(self, descriptor, content, offset):
        if self.error and self.room:
            content, self.room = content[: self.room], max(self.room - len(content), 0)
            return self.real_pwrite(descriptor, content, offset)
        self.take()
        return self.real_pwrite(descriptor, content, offset)

    def open(self, path, mode="r", *arguments, **options):
        file = self.real_open(path, mode, *arguments, **options)
        if self.error and mode == "r+b":
            return Full(file, self)
        return file


class Full:
    """A file that takes the first half of what is written, and then no more."""

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
        self.disk.take()


@pytest.fixture
def disk(monkeypatch):
    disk = Disk()
    real = metric_writer.write_atomically
    monkeypatch.setattr(
        metric_writer, "write_atomically", lambda path, text: disk.take() or real(path, text)
    )
    monkeypatch.setattr(events_file.os, "pwrite", disk.pwrite)
    monkeypatch.setattr(
        metric_writer.Path, "open", lambda path, *how, **options: disk.open(path, *how, **options)
    )
    return disk


@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
def test_figures_wait_while_the_disk_takes_none_and_follow_when_it_does(
    workdir, disk, caplog, number
):
    log = MetricsLog(workdir)
    log.write(1, {"train/loss": 1.0})
    (file,) = workdir.path.glob("events.*")
    before = file.read_bytes()
    disk.error = number
    for step in range(2, 60):  # more than any queue of ten holds
        disk.room = 7
        log.write(step, {"train/loss": float(step)})
    log.write(59, {"validation/loss": 0.5})  # a column more, and a row that grows
    assert file.read_bytes() == before  # no part of a record is left for a reader to stumble over
    refusals = [record.getMessage() for record in caplog.records]
    assert len(refusals) == 2 and all(
        os.strerror(number) in said for said in refusals
    )  # once for the table, once for the events
    assert read_metrics(workdir.metrics_csv)["train/loss"] == ([1], [1.0])
    disk.error = None
    log.write(60, {"train/loss": 60.0})
    log.close()
    assert [float(row["train/loss"]) for row in rows(workdir)] == [
        float(step) for step in range(1, 61)
    ]
    assert rows(workdir)[58]["validation/loss"] == "0.5"
    assert [(step, value) for tag, step, value in events(workdir) if tag == "train/loss"] == [
        (step, float(step)) for step in range(1, 61)
    ]
    assert caplog.text.count("is written again") == 2 and "lacks" not in caplog.text


def test_a_row_that_grew_on_a_full_disk_is_whole_again_with_the_next(workdir, disk):
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


def test_a_disk_that_is_full_from_the_start_gets_all_that_came_before_there_was_room(workdir, disk):
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


def test_of_a_longer_row_that_was_given_up_nothing_is_left_behind_a_shorter_one(
    workdir, disk, monkeypatch
):
    monkeypatch.setattr("signvit_jax.telemetry.observers._WAITING", 1)
    log = MetricsLog(workdir)
    log.write(1, {"a": 1.0, "b": 1.0})
    disk.error = errno.ENOSPC
    log.write(2, {"a": 1.23456789e-11, "b": 1.23456789e-11})
    disk.error = None
    log.write(3, {"a": 1.0, "b": 1.0})
    assert workdir.metrics_csv.read_text() == "step,a,b\n1,1,1\n3,1,1\n"
    log.close()


def test_what_finds_room_only_at_the_end_is_written_then(workdir, disk, caplog):
    log = MetricsLog(workdir)
    disk.error = errno.ENOSPC
    log.write(1, {"a": 1.0})
    disk.error = None
    log.close()
    assert read_metrics(workdir.metrics_csv) == {"a": ([1], [1.0])} and [
        step for _, step, _ in events(workdir)
    ] == [1]
    assert "lacks" not in caplog.text


def test_where_there_is_no_room_for_a_first_record_no_empty_file_is_left(workdir, disk, caplog):
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


def test_what_never_found_room_is_counted_at_the_end(workdir, disk, caplog, monkeypatch):
    monkeypatch.setattr("signvit_jax.telemetry.observers._WAITING", 4)
    log = MetricsLog(workdir)
    disk.error = errno.ENOSPC
    for step in range(1, 8):
        log.write(step, {"a": 1.0})
    log.close()
    assert (
        "metrics.csv lacks 7 of this run's records" in caplog.text
        and "events.* lacks 7" in caplog.text
    )


def test_a_table_that_was_deleted_in_mid_run_is_begun_again(workdir):
    log = MetricsLog(workdir)
    log.write(1, {"a": 1.0})
    workdir.metrics_csv.unlink()
    log.write(2, {"a": 2.0})
    log.write(3, {"a": 3.0})
    log.close()
    assert read_metrics(workdir.metrics_csv) == {"a": ([2, 3], [2.0, 3.0])}


def test_events_are_for_reading_by_others_and_no_program(workdir):
    before = os.umask(0)
    try:
        log = MetricsLog(workdir)
        log.write(1, {"a": 1.0})
        log.close()
    finally:
        os.umask(before)
    (file,) = workdir.path.glob("events.*")
    assert file.stat().st_mode & 0o777 == 0o644


def test_a_record_that_the_kernel_takes_in_parts_is_whole(workdir, monkeypatch):
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


def test_events_need_no_thread_and_no_queue(workdir):
    before = threading.active_count()
    log = MetricsLog(workdir)
    for step in range(100):
        log.write(step, {"a": 1.0})
        assert events(workdir)[-1] == ("a", step, 1.0)  # it is there before the call returns
    assert threading.active_count() == before
    log.close()


def test_a_later_start_takes_back_what_was_lost_in_tensorboard_too(workdir):
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    log = MetricsLog(workdir)
    log.rewind(20)
    log.write(21, {"a": 1.0})
    log.close()
    (file,) = workdir.path.glob("events.*")
    content, found = file.read_bytes(), []
    while content:
        length = int.from_bytes(content[:8], "little")
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[12 + length + 4 :]
    assert found[0].file_version == "brain.Event:2"
    assert (found[1].step, found[1].session_log.status) == (21, SessionLog.START)
    assert found[2].step == 21 and found[2].summary.value[0].tag == "a"


def test_events_are_records_that_another_reader_takes(workdir):
    """Their checksums by tensorboardX's own writer."""
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event

    log = MetricsLog(workdir)
    log.write(1, {"a": 1.5})
    log.close()
    (ours,) = workdir.path.glob("events.*")
    content = ours.read_bytes()
    theirs = EventsWriter(str(workdir.path / "other"))
    start = theirs._py_recordio_writer
    start.flush()
    offset = os.path.getsize(start.path)
    length = int.from_bytes(content[:8], "little")
    rest = content[12 + length + 4 :]
    theirs.write_event(Event.FromString(rest[12 : 12 + int.from_bytes(rest[:8], "little")]))
    theirs.close()
    with open(start.path, "rb") as file:
        assert file.read()[offset:] == rest


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("a bug"), MemoryError()],
    ids=["disk", "bug", "memory"],
)
def test_an_observer_stands_anything_says_it_once_and_says_when_it_is_over(tmp_path, caplog, error):
    observer = Observer(tmp_path / "plot.png")

    def fails():
        raise error

    assert not observer.attempt(fails) and len(caplog.records) == 1  # at the first
    assert [observer.attempt(fails) for _ in range(2)] == [False] * 2
    reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'plot.png'} cannot be written ({reason}); the run goes on without it"
    ]
    assert observer.attempt(lambda: None)
    assert "written again, after 3 attempts that failed" in caplog.text
    assert observer.attempt(lambda: None) and len(caplog.records) == 2
    with pytest.raises(KeyboardInterrupt):
        observer.attempt(lambda: (_ for _ in ()).throw(KeyboardInterrupt()))


def test_records_keep_their_order_and_the_newest_of_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr("signvit_jax.telemetry.observers._WAITING", 3)
    written, full = [], [False]

    def write(number):
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(number)

    records = Records(tmp_path / "file", write)
    for number in range(10):
        full[0] = 2 <= number < 8
        records.add(number)
    assert written == [0, 1, 6, 7, 8, 9]


def test_what_a_library_raises_where_nobody_can_catch_it_is_for_the_file(
    tmp_path, capsys, monkeypatch
):
    from signvit_jax.telemetry import run_log

    class Callback:
        def __del__(self):
            raise RuntimeError("event loop is closed")

    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    run_log.start_run_log(tmp_path / "run.log")
    Callback()
    assert (
        "Traceback" in (tmp_path / "run.log").read_text()
        and "event loop is closed" in (tmp_path / "run.log").read_text()
    )
    assert capsys.readouterr().err == ""


def test_a_run_log_that_takes_no_more_is_named_once_and_goes_on_later(
    tmp_path, capsys, monkeypatch
):
    from signvit_jax.telemetry import run_log

    run_log.start_run_log(tmp_path / "run.log")
    log = logging.getLogger("signvit_jax.test")
    (file,) = [
        handler for handler in logging.getLogger().handlers if isinstance(handler, run_log._RunLog)
    ]
    with monkeypatch.context() as patch:
        patch.setattr(
            file,
            "flush",
            lambda: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")),
        )
        for number in range(3):
            log.info("line %d", number)
    log.info("last")
    said = capsys.readouterr().err
    assert "Traceback" not in said and "Logging error" not in said
    assert said.count("run.log cannot be written (No space left on device)") == 1
    assert [
        line.split(" ", 1)[1] for line in said.splitlines() if "line" in line or "last" in line
    ] == ["line 0", "line 1", "line 2", "last"]
    assert "last" in (tmp_path / "run.log").read_text()
