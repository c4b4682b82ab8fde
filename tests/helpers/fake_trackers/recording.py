"""Shared code of the stand-ins for trackers: each call becomes a line of $FAKE_TRACKER_CALLS."""

import json
import os
import signal


def record(tracker: str, call: str, **given: object) -> None:
    """Record a call; raise ConnectionError if $FAKE_TRACKER_RAISES names the tracker.

    If $FAKE_TRACKER_SIGTERM names it, its first call of `log` sends SIGTERM, as `scancel` does.
    """
    with open(os.environ["FAKE_TRACKER_CALLS"], "a") as file:
        file.write(json.dumps({"tracker": tracker, "call": call} | given) + "\n")
    if tracker == os.environ.get("FAKE_TRACKER_RAISES"):
        raise ConnectionError("no network")
    if call == "log" and os.environ.get("FAKE_TRACKER_SIGTERM") == tracker:
        del os.environ["FAKE_TRACKER_SIGTERM"]
        os.kill(os.getpid(), signal.SIGTERM)


class Run:
    """The run that `wandb.init` and `trackio.init` return."""

    def __init__(self, tracker: str, name: str):
        self._tracker, self.id, self.summary = tracker, name, {}

    def log(self, values: dict[str, float], step: int) -> None:
        record(self._tracker, "log", step=step, values=values)

    def finish(self, exit_code: int = 0) -> None:
        record(self._tracker, "finish", status=exit_code, summary=self.summary)
