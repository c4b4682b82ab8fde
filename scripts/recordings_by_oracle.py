"""Print the table of docs/recordings.md on the errors of windows, of joining, and of live output.

A simulated recognizer (tests/helpers/oracle.py) makes errors within the windows; the table has the
errors that cutting into windows and joining them add to these.

    python scripts/recordings_by_oracle.py --recordings=40 --seconds=120
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.helpers import oracle

ERRORS = (0.0, 0.02, 0.05, 0.1, 0.2)
PAUSES = (0.0, 0.3, 0.5, 1.0, 2.0, 4.0)
ROWS = {  # options of `oracle.simulated`; without a vocabulary size the text is Chinese
    "200 words, without pauses": {"vocabulary_size": 200, "pauses": False},
    "20 words, without pauses": {"vocabulary_size": 20, "pauses": False},
    "Chinese, without pauses": {"vocabulary_size": None, "pauses": False},
    "200 words, times off by up to 0.3 s": {
        "vocabulary_size": 200,
        "pauses": False,
        "times_off": 0.3,
    },
    "20 words, times off by up to 0.3 s": {
        "vocabulary_size": 20,
        "pauses": False,
        "times_off": 0.3,
    },
    "200 words, pauses of 0 to 3 s": {"vocabulary_size": 200, "pauses": True},
    "20 words, pauses of 0 to 3 s": {"vocabulary_size": 20, "pauses": True},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recordings", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=120.0)
    flags = parser.parse_args()
    print_heading("errors within windows", [f"{100 * error:.0f} %" for error in ERRORS])
    for name, options in ROWS.items():
        errors = [
            oracle.simulated(flags.recordings, flags.seconds, error, **options) for error in ERRORS
        ]
        print_row(name, [of_recordings for of_recordings, _ in errors])
    print_heading("pause between sentences", [f"{pause:g} s" for pause in PAUSES])
    for name, has_times in {
        "live, times from CTC": True,
        "live, by the votes alone": False,
    }.items():
        print_row(
            name,
            [
                oracle.live_error(flags.recordings, flags.seconds, pause, has_times=has_times)
                for pause in PAUSES
            ],
        )
    return 0


def print_heading(name: str, columns: list[str]) -> None:
    print(f"\n| {name} | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}", flush=True)


def print_row(name: str, values: list[float]) -> None:
    print(f"| {name} | {' | '.join(f'{100 * value:.1f} %' for value in values)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
