"""Claims of trials by workers on any hosts that share a file system.

A claim is a file `claim.N` that is created exclusively: of several workers one succeeds, also on
file systems without hard links. Its holder renews the time of the file; a claim that was not
renewed has lapsed, and another worker creates claim N + 1. Nobody ever deletes or renames a claim,
so that a worker that was suspended sees the higher number and gives up.

Times are those of the file server: two of its times are compared, never the clock of a host.
"""

import contextlib
import dataclasses
import json
import logging
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from signvit_jax.files.parsed_json import UNREADABLE_JSON

log = logging.getLogger(__name__)

_RENEWALS = 20  # times that a claim is renewed before it would lapse
_CLAIM = re.compile(r"claim\.([1-9]\d*)")


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of a trial. `step`: the last step in the trial's metrics when it was claimed."""

    path: Path
    number: int
    holder: str = ""
    step: int = -1

    @property
    def is_released(self) -> bool:
        return self.path.with_name(f"{self.path.name}.released").exists()

    def release(self) -> None:
        """Let another worker take the trial at once. It counts as no failed attempt."""
        with contextlib.suppress(OSError):
            self.path.with_name(f"{self.path.name}.released").touch()


def server_time(folder: Path) -> float:
    """The time by the file server's clock, in seconds. Raises OSError."""
    path = folder / f".clock.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}"
    path.touch()
    try:
        os.utime(path)  # no times: the server takes its own
        return path.stat().st_mtime
    finally:
        path.unlink(missing_ok=True)


def worker_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def claims_of(trial: Path) -> list[Claim]:
    """The claims of a trial, the newest last."""
    claims = []
    for path in trial.iterdir():
        if match := _CLAIM.fullmatch(path.name):
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                claims.append(
                    Claim(path, int(match[1]), str(content["holder"]), int(content["step"]))
                )
            except UNREADABLE_JSON:  # its worker was killed between creating and writing
                claims.append(Claim(path, int(match[1])))
    return sorted(claims, key=lambda claim: claim.number)


def is_held(claim: Claim, now: float, seconds: float) -> bool:
    """Return True unless the claim was released or has lapsed. `now` is from `server_time`."""
    if claim.is_released:
        return False
    try:
        return now - claim.path.stat().st_mtime < seconds
    except OSError:
        return False


def make_claim(trial: Path, number: int, step: int) -> Claim | None:
    """Make claim `number` of a trial; None if another worker was faster. Raises OSError."""
    path = trial / f"claim.{number}"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return None
    with os.fdopen(descriptor, "w") as file:
        json.dump({"holder": worker_name(), "step": step}, file)
    return Claim(path, number, worker_name(), step)


class Holding:
    """A claim that is renewed in a thread. `lost` becomes True if another worker has taken over."""

    def __init__(self, claim: Claim, seconds: float):
        self.claim = claim
        self.lost = False
        self._seconds = seconds
        self._end = threading.Event()

    @contextlib.contextmanager
    def renewed(self) -> Iterator["Holding"]:
        thread = threading.Thread(target=self._renew, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._end.set()
            thread.join()

    def check(self) -> bool:
        """Return True if nobody has made a later claim."""
        later = self.claim.path.with_name(f"claim.{self.claim.number + 1}")
        self.lost = self.lost or later.exists()
        return not self.lost

    def _renew(self) -> None:
        while not self._end.wait(self._seconds / _RENEWALS):
            try:
                os.utime(self.claim.path)
            except OSError as error:
                log.warning("%s cannot be renewed: %s", self.claim.path, error.strerror)
            if not self.check():
                return
