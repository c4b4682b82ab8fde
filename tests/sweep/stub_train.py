"""A stand-in for `signvit train` that takes milliseconds.

It uses workdirs, signals and exit codes like `signvit train`. Each of its 6 epochs has EPOCH_CLIPS
clips; the error falls towards a minimum that depends on the parameters. A row of metrics.csv is
also a checkpoint: a second start continues after the last row.
"""

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

EPOCHS, EPOCH_CLIPS = 6, 64


def main() -> int:
    flags = dict(argument.removeprefix("--").partition("=")[::2] for argument in sys.argv[1:])
    workdir = Path(flags["workdir"])
    values = {key: text for key, text in flags.items() if key.startswith("config.")}
    rate = float(values.get("config.training.encoder_lr", "1e-3"))
    batch_size = int(values.get("config.training.batch_size", "16"))
    with (workdir / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"error: {workdir} is in use by process 1 on x since y; wait for it")
            return 2
        if rate > 0.5:
            print("error: out of memory: 9 GiB of 8")
            return 5
        if os.environ.get("STUB_BROKEN"):
            print("error: no data set")
            return 2
        return train(workdir, rate, batch_size)


def train(workdir: Path, rate: float, batch_size: int) -> int:
    signals = []  # received
    signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    metrics = workdir / "metrics.csv"
    rows = metrics.read_text().splitlines()[1:] if metrics.exists() else []
    if not metrics.exists():
        metrics.write_text("step,validation/wer\n")
    done = len(rows)
    with (workdir / "starts.jsonl").open("a") as starts:
        starts.write(json.dumps({"from": done, "seed": sys.argv[-1]}) + "\n")
    for epoch in range(done + 1, EPOCHS + 1):
        time.sleep(float(os.environ.get("STUB_SECONDS", "0.02")))
        if signals:
            return 143
        error = abs(rate - 2e-3) * 100 + 1 / epoch
        with metrics.open("a") as file:
            file.write(f"{epoch * EPOCH_CLIPS // batch_size},{error:.6f}\n")
            file.flush()
            os.fsync(file.fileno())
        (workdir / "checkpoints" / str(epoch)).mkdir(parents=True)
        if epoch == 3:  # give the worker time to decide, even on a busy machine
            time.sleep(float(os.environ.get("STUB_PAUSE", "0")))
            end = time.monotonic() + 60
            waits = not done and rate > float(os.environ.get("STUB_WAIT_ABOVE", "inf"))
            while waits and not signals and time.monotonic() < end:
                time.sleep(0.01)
    return 0


if __name__ == "__main__":
    sys.exit(main())
