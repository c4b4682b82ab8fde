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
def test_the_first_signal_is_a_wish_with_its_exit_code(number, code, monkeypatch, caplog):
    monkeypatch.setattr(
        signals, "_SAME_WISH_S", 600.0
    )  # on a busy machine even "at once" is late, and this process would end
    with StopRequest() as stop:
        assert not stop.requested and stop.exit_code == 0 and stop.received == 0
        os.kill(os.getpid(), number)
        assert wait_for(lambda: stop.requested)
        assert stop.exit_code == code and stop.received == number
        os.kill(os.getpid(), number)  # at once: the same wish, come by another way
        time.sleep(0.05)
    assert (
        caplog.text.count(f"{number.name}: stopping and saving; a second signal ends at once") == 1
    )


def open_pipes() -> set[str]:
    links = [Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    return {
        target
        for link in links
        if link.exists() or link.is_symlink()
        for target in [os.readlink(link)]
        if target.startswith("pipe:")
    }


def test_handlers_are_as_before_afterwards():
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    threads, pipes = threading.active_count(), open_pipes()
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads and open_pipes() == pipes


def test_a_signal_just_before_the_end_is_received():
    for _ in range(20):
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGUSR1)
        assert stop.received == signal.SIGUSR1


@pytest.fixture
def with_a_terminal():
    """Not as under nohup, under which the tests may run."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("with_a_terminal")
def test_a_closed_terminal_is_a_wish_and_never_a_second_one():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert wait_for(lambda: stop.requested)
        assert stop.exit_code == 129
        time.sleep(signals._SAME_WISH_S + 0.1)
        os.kill(
            os.getpid(), signal.SIGHUP
        )  # the shell and the kernel both send it, at whatever distance
        time.sleep(0.1)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert wait_for(lambda: stop.requested)
        time.sleep(signals._SAME_WISH_S + 0.1)
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


def test_outside_the_main_thread_it_is_harmless():
    seen = []

    def enter():
        with StopRequest() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [False]


def start(body):
    """A process that runs the body inside a StopRequest and has said that it is ready."""
    code = "import multiprocessing, signal, time\nfrom signvit_jax.runtime.signals import StopRequest\n"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell starts what runs in the background without it
    code += "if __name__ == '__main__':\n  with StopRequest() as stop:\n" + textwrap.indent(
        textwrap.dedent(body), "    "
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def wish(process, number) -> None:
    """Sends the first signal, and comes back when another is no longer taken for the same one."""
    process.send_signal(number)
    assert "stopping and saving" in process.stderr.readline()
    time.sleep(2 * signals._SAME_WISH_S)


# Like XLA in a long compilation: the main thread is inside C for half a minute and more, the lock released, and no Python handler can run.
IN_C = (
    "import hashlib\nprint('ready', flush=True)\nhashlib.pbkdf2_hmac('sha256', b'', b'', 10**8)\n"
)
IN_C_S = 30.0  # on the quickest machine


def test_the_second_signal_ends_at_once_even_when_the_main_thread_is_in_c():
    process = start(IN_C)
    wish(process, signal.SIGINT)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(IN_C_S / 2) == 130


def test_with_nothing_to_lose_the_first_signal_ends_at_once():
    process = start("with stop.exit_immediately_on_signal():\n" + textwrap.indent(IN_C, "    "))
    process.send_signal(signal.SIGTERM)
    assert process.wait(IN_C_S / 2) == 143


def test_where_there_is_something_to_lose_again_the_first_signal_is_a_wish():
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


def test_a_wish_from_before_ends_the_process_where_there_is_nothing_to_lose():
    process = start(
        "print('ready', flush=True)\nwhile not stop.requested: time.sleep(0.01)\nwith stop.exit_immediately_on_signal(): print('not reached')\n"
    )
    process.send_signal(signal.SIGUSR1)
    assert process.wait(100) == 143 and process.stdout.read() == ""


def test_a_forked_reading_process_dies_of_its_own_signal_and_does_not_stop_its_parent():
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


def test_a_signal_that_a_reading_process_handles_in_python_is_not_its_parents():
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


def test_ending_at_once_leaves_no_reading_process_behind():
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
    wish(process, signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert process.wait(100) == 143
    # A killed child that nobody has waited for is a zombie ("Z") until init takes it.
    status = Path(f"/proc/{child}/stat")
    assert wait_for(
        lambda: not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z"
    )
