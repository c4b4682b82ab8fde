"""The rows of gpu.sh: each a process of its own with a time limit, its result written to a file at once.

    python scripts/bench/gpu.py --rows=numerics,reference --minutes=4 --output=runs/gpu.jsonl

A line of the file is a row: its name, the card, the load of the machine, and what was measured or why it failed.
Exit codes: 0 all rows measured, 1 a row failed or there was no time for it, 2 wrong usage.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from train_step import BASE, has_torch, run

# dense_vit as shipped keeps more than an 80 GB card has; recomputing whole blocks fits (docs/speed.md).
CONFIG_ROWS = {
    "dense_vit": ("training.remat=full",),
    "dense_vit_100m": ("training.remat=full",),
    "dense_vit_accumulated": ("training.gradient_accumulation=4",),
}


def rows() -> dict[str, dict]:
    """Every row by name: the program that measures it and the case that it is given."""
    main = {"remat": "dots", "program": "jax_step.py"}
    torch = {"program": "torch_step.py"}
    configs = {
        name: {
            "program": "jax_step.py",
            "config": f"configs/{name.removesuffix('_accumulated')}.py",
            "overrides": overrides,
        }
        for name, overrides in CONFIG_ROWS.items()
    }
    return {
        "numerics": {"program": "gpu_numerics.py"},
        "reference": main,
        **configs,
        "encode": {"program": "jax_step.py", "mode": "encode", "clips": 1, "scan": False},
        "small_gpu": {
            "program": "gpu_learning.py",
            "config": "configs/small_gpu.py",
            "learning_steps": 200,
        },
        "torch": torch,
        "torch_compiled": torch | {"compile": True},
        "reference_full": main | {"remat": "full"},
        "reference_threefry": main | {"random": "threefry"},
        "reference_recompute": main | {"attention": "recompute"},
        "reference_dropout": main | {"attention_dropout": 0.2},
    }


FIRST_CALL = ("numerics", "reference", "dense_vit")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows",
        default=",".join(FIRST_CALL),
        help=f"names, with commas between: {', '.join(rows())} ({', '.join(FIRST_CALL)})",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=4.0,
        help="the whole call takes no longer; a row that runs then is stopped (4)",
    )
    parser.add_argument(
        "--steps", type=int, default=5, help="steps that are timed, three times (5)"
    )
    parser.add_argument(
        "--size",
        choices=("full", "tiny"),
        default="full",
        help="tiny: on a CPU, to see that every row runs",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/gpu.jsonl"),
        help="results are appended here, one line a row",
    )
    parser.add_argument(
        "--torch_python", default=sys.executable, help="a Python that has torch and numpy"
    )
    args = parser.parse_args()
    known, chosen = rows(), args.rows.split(",")
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"no row {unknown[0]!r}; allowed: {', '.join(known)}")

    args.output.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        card = device_name()
        for name in chosen:
            case = BASE | known[name] | {"name": name, "size": args.size, "steps": args.steps}
            found = measured(case, args.torch_python, folder, end - time.monotonic())
            failed += "failed" in found
            line = {
                "row": name,
                "size": args.size,
                "card": card,
                "load": round(os.getloadavg()[0], 1),
            } | found
            with args.output.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
    return min(failed, 1)


def measured(case: dict, torch_python: str, folder: str, seconds: float) -> dict:
    """The row's result, or {"failed": why}."""
    is_torch = case["program"] == "torch_step.py"
    if is_torch and not has_torch(torch_python):
        return {"failed": "no torch in this Python"}
    if seconds < 5:
        return {"failed": "no time left for this row"}
    return run(case, torch_python if is_torch else sys.executable, folder, seconds)


def device_name() -> str:
    """The card as its driver names it, the processor where there is no card."""
    try:
        query = [
            "nvidia-smi",
            "--query-gpu=name,memory.total,driver_version",
            "--format=csv,noheader",
        ]
        return (
            subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
            .stdout.strip()
            .replace("\n", "; ")
        )
    except (OSError, subprocess.SubprocessError):
        models = [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        return f"no GPU; {len(models)} x {models[0] if models else 'CPU'}"


if __name__ == "__main__":
    sys.exit(main())
