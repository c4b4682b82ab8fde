"""Settings of all tests (CPU, shared compiled programs), and a finished run that tests read."""

import dataclasses
import fcntl
import logging
import os
import signal
from pathlib import Path

import hypothesis
import pytest

# Examples have no deadline, because their times depend on the load of the machine.
hypothesis.settings.register_profile(
    "any_machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any_machine")

pytest_plugins = ["tests.helpers.long_slice"]

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# XLA's optimizations would take longer than all computations of the tests.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


@dataclasses.dataclass(frozen=True)
class TinyRun:
    """A finished run. A test that writes to its workdir copies the workdir first."""

    source: Path  # clips.csv and videos/
    data_dir: Path
    config: Path
    workdir: Path
    cache: Path  # of compiled programs

    def video(self, number: int) -> Path:
        return self.source / "videos" / f"clip{number:02d}.mp4"


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items):
    """Group the tests of each file, and all tests that use the finished run.

    xdist runs a group in one process, so that programs are compiled and models trained only once.
    """
    for item in items:
        if "trained" in item.fixturenames and "server" not in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("trained"))
        elif "server" not in item.fixturenames and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.name))


@pytest.fixture(autouse=True)
def _no_run_log_left_behind():
    """Remove the log handlers of a command: the standard error that they use ends with the test."""
    yield
    root = logging.getLogger()
    for handler in list(root.handlers):
        if getattr(handler, "of_run_log", False):
            root.removeHandler(handler)
            handler.close()


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> TinyRun:
    """A tiny data set, and a model that the train command trained on it.

    The first process of xdist creates both, and the others wait for it.
    """
    from signvit_jax.commands import train
    from tests.helpers import tiny_run

    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tiny_run"
    root.mkdir(exist_ok=True)
    run = TinyRun(
        root / "source", root / "data", root / "tiny_config.py", root / "workdir", root / "cache"
    )
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "done").exists():
            _build(run)
            tiny_run.write_config(run.config, run.data_dir)
            with tiny_run.light_jax(run.cache):
                assert (
                    tiny_run.command(
                        train.main, f"--config={run.config}", f"--workdir={run.workdir}"
                    )
                    == 0
                )
            (root / "done").touch()
    return run


def _build(run: TinyRun) -> None:
    """Draw the clips and build the data set; restore the SIGTERM handler, which build replaces."""
    from tests.helpers import tiny_run
    from tfds_builders import build

    tiny_run.draw_clips(run.source)
    options = [
        f"--csv={run.source / 'clips.csv'}",
        f"--videos={run.source / 'videos'}",
        "--workers=1",
    ]
    sigterm_handler = signal.getsignal(signal.SIGTERM)
    try:
        assert build.main(["video_folder", f"--data_dir={run.data_dir}", *options]) == 0
    finally:
        signal.signal(signal.SIGTERM, sigterm_handler)


@pytest.fixture
def light_jax(trained):
    """JAX settings of the trained run, whose compiled programs are reused."""
    from tests.helpers import tiny_run

    with tiny_run.light_jax(trained.cache):
        yield
