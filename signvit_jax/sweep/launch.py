"""Become the training command of a trial, which ends when its worker does.

python launch.py PID_OF_WORKER COMMAND ...

Linux sends the command SIGTERM, upon which it saves and stops, when the worker has died. A worker
that renews its lease in a thread cannot set this itself between fork and exec.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it died before
        sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
