"""Signals: the first one asks a process to stop, the second one ends it at once."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from signvit_jax.runtime import signals
from signvit_jax.runtime.signals import StopRequest


def wait_for(condition, seconds=100.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGINT, 130)]
)
def test_the_first_signal_is_a_request_with_its_exit_code(number, code, monkeypatch, caplog):
    # On a busy machine the second signal may arrive late. It would then end this process.
    monkeypatch.setattr(signals, "_SAME_REQUEST_S", 600.0)
    with StopRequest() as stop:
        assert not stop.requested and stop.exit_code == 0 and stop.received == 0
        os.kill(os.getpid(), number)
        assert wait_for(lambda: stop.requested)
        assert stop.exit_code == code and stop.received == number
        os.kill(os.getpid(), number)  # counts as the same request, because it follows soon
        time.sleep(0.05)
    assert (
        caplog.text.count(f"{number.name}: stopping and saving; a second signal ends at once") == 1
    )


def open_pipes() -> set[str]:
    """Return the names of the pipes that this process has open."""
    targets = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing itself
            targets.append(os.readlink(link))
    return {target for target in targets if target.startswith("pipe:")}


def test_handlers_are_restored_afterwards():
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    threads = threading.active_count()
    pipes = open_pipes()
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads and open_pipes() == pipes


def test_a_signal_right_before_the_end_is_received():
    for _ in range(20):
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGUSR1)
        assert stop.received == signal.SIGUSR1


@pytest.fixture
def with_a_terminal():
    """The default action on SIGHUP, which is ignored if the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("with_a_terminal")
def test_a_closed_terminal_never_counts_as_a_second_signal():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert wait_for(lambda: stop.requested)
        assert stop.exit_code == 129
        time.sleep(signals._SAME_REQUEST_S + 0.1)
        os.kill(os.getpid(), signal.SIGHUP)  # the shell and the kernel may both send it
        time.sleep(0.1)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert wait_for(lambda: stop.requested)
        time.sleep(signals._SAME_REQUEST_S + 0.1)
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.1)
        assert stop.exit_code == 130


def test_under_nohup_a_closed_terminal_changes_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
            assert not stop.requested and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_no_signal_is_caught_outside_the_main_thread():
    seen = []

    def enter():
        with StopRequest() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [False]


# The script sets the handler of SIGINT, because a shell lets its background processes ignore it.
START = """
import multiprocessing, signal, time
from signvit_jax.runtime.signals import StopRequest
signal.signal(signal.SIGINT, signal.default_int_handler)
if __name__ == '__main__':
  with StopRequest() as stop:
"""


@pytest.fixture
def start():
    """A function that starts `body` inside a StopRequest and waits until it has printed `ready`."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with contextlib.ExitStack() as ends:

        def start(body):
            code = START + textwrap.indent(textwrap.dedent(body), "    ")
            process = ends.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", code],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment,
                )
            )
            ends.callback(process.kill)  # before the stack waits for it
            assert process.stdout.readline() == "ready\n", process.stderr.read()
            return process

        yield start


def request_stop(process, number) -> None:
    """Send the first signal; return when another one no longer counts as the same request."""
    process.send_signal(number)
    assert "stopping and saving" in process.stderr.readline()
    time.sleep(2.5 * signals._SAME_REQUEST_S)


# As in a long compilation by XLA, the main thread runs C code with the interpreter's lock released.
# Until it returns to Python, no Python handler can run.
IN_C = (
    "import hashlib\nprint('ready', flush=True)\nhashlib.pbkdf2_hmac('sha256', b'', b'', 10**8)\n"
)
IN_C_S = 30.0  # the least time that the C code takes


def test_a_second_signal_ends_a_process_whose_main_thread_is_in_c(start):
    process = start(IN_C)
    request_stop(process, signal.SIGINT)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(IN_C_S / 2) == 130


def test_the_first_signal_ends_a_process_with_nothing_to_save(start):
    process = start("with stop.exit_immediately_on_signal():\n" + textwrap.indent(IN_C, "    "))
    process.send_signal(signal.SIGTERM)
    assert process.wait(IN_C_S / 2) == 143


def test_after_an_immediate_exit_section_a_signal_is_a_request_again(start):
    process = start(
        """
        with stop.exit_immediately_on_signal():
            pass
        print("ready", flush=True)
        while not stop.requested: time.sleep(0.01)
        print("saved", flush=True)
        """
    )
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0 and process.stdout.read() == "saved\n"


def test_an_earlier_request_ends_a_process_with_nothing_to_save(start):
    process = start(
        """
        print("ready", flush=True)
        while not stop.requested: time.sleep(0.01)
        with stop.exit_immediately_on_signal(): print("not reached")
        """
    )
    process.send_signal(signal.SIGUSR1)
    assert process.wait(100) == 143 and process.stdout.read() == ""


def test_a_signal_kills_a_reading_process_and_not_its_parent(start):
    process = start(
        """
        fork = multiprocessing.get_context("fork")
        started = fork.Event()
        child = fork.Process(target=lambda: (started.set(), time.sleep(600)))
        child.start()
        assert started.wait(100)
        child.terminate()
        child.join(100)
        time.sleep(0.2)
        print("ready", flush=True)
        print(child.exitcode, stop.requested, flush=True)
        """
    )
    assert process.wait(100) == 0
    assert process.stdout.read() == f"{-signal.SIGTERM} False\n"


def test_a_signal_handled_by_a_reading_process_stays_there(start):
    process = start(
        """
        import os
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        time.sleep(0.2)
        os.kill(child.pid, signal.SIGINT)
        child.join(10)
        time.sleep(0.2)
        print("ready", flush=True)
        print(child.exitcode, stop.requested, flush=True)
        """
    )
    assert process.wait(20) == 0
    assert process.stdout.read() == "1 False\n"


def test_an_immediate_exit_leaves_no_reading_process(start):
    process = start(
        """
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        child.start()
        print("ready", flush=True)
        print(child.pid, flush=True)
        while True: time.sleep(0.1)
        """
    )
    child = int(process.stdout.readline())
    request_stop(process, signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert process.wait(100) == 143
    status = Path(f"/proc/{child}/stat")

    def has_ended() -> bool:
        # A killed child is a zombie ("Z") until its parent, which is now init, waits for it.
        return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z"

    assert wait_for(has_ended)
