"""Run the GPU benchmarks, each in its own process; one time limit covers the call.

    python scripts/bench/gpu.py --rows=numerics,reference --minutes=4 --output=runs/gpu.jsonl
    python scripts/bench/gpu.py --merge             # runs/gpu.jsonl into docs/benchmarks/gpu.md

Each result is appended to the file at once, as one line: the row's name, the card, the load of the
machine, and the measurements or the reason of the failure. `--merge` measures nothing.

Exit codes: 0 all rows measured, 1 a row failed or there was no time for it, 2 wrong usage, or
nothing to merge.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gpu_page import NoResultsError, merge
from train_step import BASE, has_torch, run

# Row -> (preset, overrides): the presets without changes, and one with overrides that are a little
# faster according to the plan (docs/benchmarks/plans.md).
CONFIG_ROWS = {
    "dense_vit": ("dense_vit", ()),
    "dense_vit_100m": ("dense_vit_100m", ()),
    "dense_vit_names": (
        "dense_vit",
        ("training.remat=names", "training.gradient_accumulation=4"),
    ),
}


def rows() -> dict[str, dict]:
    """Return the case of each row by name; its key `program` is the script that measures it."""
    ours = {"program": "jax_step.py"}
    plain_torch = {"program": "torch_step.py"}
    of_configs = {
        name: {
            "program": "jax_step.py",
            "config": f"configs/{preset}.py",
            "overrides": overrides,
        }
        for name, (preset, overrides) in CONFIG_ROWS.items()
    }
    return {
        "numerics": {"program": "gpu_numerics.py"},
        "reference": ours,
        **of_configs,
        "encode": ours | {"mode": "encode", "clips": 1, "scan": False},
        "translate": ours | {"mode": "translate", "clips": 1, "scan": False},
        "small_gpu": {
            "program": "gpu_learning.py",
            "config": "configs/small_gpu.py",
            "learning_steps": 200,
        },
        "torch": plain_torch,
        "torch_compiled": plain_torch | {"compile": True},
        "reference_unrolled": ours | {"scan": False},
        "reference_dots": ours | {"remat": "dots"},
        "reference_full": ours | {"remat": "full"},
        "reference_rbg": ours | {"random": "rbg"},
        "reference_threefry": ours | {"random": "threefry"},
        "reference_recompute": ours | {"attention": "recompute"},
        "reference_dropout": ours | {"attention_dropout": 0.2},
    }


DEFAULT_ROWS = ("numerics", "reference", "dense_vit")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--rows",
        default=",".join(DEFAULT_ROWS),
        help=f"names, separated by commas: {', '.join(rows())}; default: {', '.join(DEFAULT_ROWS)}",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=4.0,
        help="time limit of the call; a row that runs then is stopped; default: 4",
    )
    parser.add_argument(
        "--steps", type=int, default=5, help="steps per timing; there are three timings; default: 5"
    )
    parser.add_argument(
        "--size",
        choices=("full", "tiny"),
        default="full",
        help="tiny: to check on a CPU that every row runs",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/gpu.jsonl"),
        help="results are appended here, one line per row",
    )
    parser.add_argument(
        "--torch_python", default=sys.executable, help="a Python with torch and numpy"
    )
    parser.add_argument(
        "--merge",
        action="store_true",
        help="write the results in --output into docs/benchmarks/gpu.md, beside plans and targets",
    )
    args = parser.parse_args()
    if args.merge:
        try:
            print(merge(args.output))
        except (NoResultsError, OSError) as error:
            parser.error(str(error))
        return 0
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
            outcome = measure(case, args.torch_python, folder, end - time.monotonic())
            failed += "failed" in outcome
            load = round(os.getloadavg()[0], 1)
            line = {"row": name, "size": args.size, "card": card, "load": load} | outcome
            with args.output.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
    return min(failed, 1)


def measure(case: dict, torch_python: str, folder: str, seconds: float) -> dict:
    """Return the row's result, or {"failed": reason}."""
    is_torch = case["program"] == "torch_step.py"
    if is_torch and not has_torch(torch_python):
        return {"failed": "no torch in this Python"}
    if seconds < 5:
        return {"failed": "no time left for this row"}
    return run(case, torch_python if is_torch else sys.executable, folder, seconds)


def device_name() -> str:
    """Return the card's name from its driver, or the processor's if there is no card."""
    try:
        query = [
            "nvidia-smi",
            "--query-gpu=name,memory.total,driver_version",
            "--format=csv,noheader",
        ]
        process = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
        return process.stdout.strip().replace("\n", "; ")
    except (OSError, subprocess.SubprocessError):
        models = [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        return f"no GPU; {len(models)} x {models[0] if models else 'CPU'}"


if __name__ == "__main__":
    sys.exit(main())
