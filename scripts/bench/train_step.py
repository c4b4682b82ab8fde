"""Measure training of the reference's model, ours and plain PyTorch: time, MFU, memory.

The calls below run all rows that fit into the time, the most important first; one group of rows
(main, reference, encode, long, options); or all rows in a tiny size, as a check on a CPU:

    python scripts/bench/train_step.py --minutes=8.5
    python scripts/bench/train_step.py --minutes=8.5 --only=options
    python scripts/bench/train_step.py --size=tiny --torch_python=torch_environment/bin/python

Every row has its own process, so that rows share no memory or threads. The rows of the group
`main` take turns, `--rounds` times. Results are medians.

Needs jax, flax, optax, chex and jaxtyping. With torch in the same Python, or in `--torch_python`,
torch's rows run too: the same sizes, batch and loss with `torch.nn.TransformerEncoderLayer` under
bf16 autocast and fused AdamW, eager and compiled.

Rows of the group `main` have no dropout on the attention weights, so that both sides can use their
fused kernels; rows of `reference` have it, as the reference system does. Memory is the peak that
the device reports. CPUs report none: there our memory is XLA's plan and torch's is the peak of the
process, which are not comparable.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
BASE = {
    "clips": 16,
    "frames": 16,
    "attention": "auto",
    "attention_dropout": 0.0,
    "random": "hash",
    "scan": True,
    "remat": "names",
    "chunk": 0,
}


def cases() -> list[dict]:
    """Return the cases, the most important first; each is `BASE` with changes."""

    def ours(group: str, name: str, **changes) -> dict:
        return BASE | {"group": group, "name": f"ours, {name}", "program": "jax_step.py"} | changes

    def torch(group: str, name: str, **changes) -> dict:
        return (
            BASE
            | {
                "group": group,
                "name": f"torch, {name}",
                "program": "torch_step.py",
                "compile": name.startswith("compiled"),
            }
            | changes
        )

    return [
        ours("main", "fused attention, scan"),
        torch("main", "eager"),
        torch("main", "compiled"),
        ours("encode", "one clip encoded", mode="encode", clips=1, scan=False),
        torch("encode", "one clip encoded", mode="encode", clips=1),
        ours("options", "fused attention, scan, remat dots", remat="dots"),
        ours("reference", "attention dropout, recomputed", attention_dropout=0.2),
        torch("reference", "eager, attention dropout", attention_dropout=0.2),
        ours("long", "16 x 64, remat dots", frames=64, remat="dots"),
        ours("long", "16 x 64, 128 frames per chunk", frames=64, chunk=128),
        torch("reference", "compiled, attention dropout", attention_dropout=0.2),
        ours("options", "fused attention, unrolled", scan=False),
        ours("options", "rbg dropout", random="rbg"),
        ours("options", "fused attention, scan, remat full", remat="full"),
        ours("options", "recomputed attention, scan", attention="recompute"),
        ours("options", "xla attention, scan", attention="xla"),
        ours("options", "threefry dropout", random="threefry"),
        ours("options", "64 frames per chunk", chunk=64),
        ours("options", "bf16 moments", adam_moments="bfloat16"),
        ours("long", "16 x 64, remat full", frames=64, remat="full"),
        torch("long", "16 x 64, eager", frames=64),
    ]


def has_torch(python: str) -> bool:
    return subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0


def run(case: dict, python: str, folder: str, seconds: float | None = None) -> dict:
    """Return what a case's program prints, or {"failed": reason}; it is stopped after `seconds`."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": f"{folder}/jax",
        "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
    }
    path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | cache | {"PYTHONPATH": path}
    command = [python, str(HERE / case["program"]), json.dumps(case)]
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"stopped: not done within the {seconds:.0f} s that were left"}
    lines = process.stdout.strip().splitlines()
    if process.returncode or not lines:
        errors = [line for line in process.stderr.strip().splitlines() if line.strip()]
        memory = [
            line
            for line in errors
            if "out of memory" in line.lower() or "RESOURCE_EXHAUSTED" in line
        ]
        return {"failed": (memory or errors or ["ended without a message"])[-1].strip()[:120]}
    return json.loads(lines[-1])


def row(case: dict, results: list[dict], reference: dict | None) -> str:
    """Return a line of the table; `reference` has the operations, which are the same for torch."""
    shape = f"{case['clips']} x {case['frames']}"
    good = [result for result in results if "failed" not in result]
    if not good:
        return f"| {case['name']} | {shape} | {results[0]['failed']} | | | | |"
    seconds = statistics.median(result["seconds"] for result in good)
    memory = max(result["peak_bytes"] for result in good)
    peak, flops = (reference or {}).get("peak_flops"), (reference or {}).get("flops")
    mfu = f"{flops / seconds / peak:.1%}" if peak and flops else "–"
    frames = case["clips"] * case["frames"] / seconds
    compiling = good[0]["compile_seconds"]
    return (
        f"| {case['name']} | {shape} | {seconds * 1e3:.1f} | {frames:.0f} | {mfu} "
        f"| {memory / 2**30:.2f} | {compiling:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument(
        "--only",
        default="",
        help="groups, separated by commas: main, reference, encode, long, options",
    )
    parser.add_argument("--rounds", type=int, default=2, help="turns of each row of the group main")
    parser.add_argument(
        "--steps", type=int, default=10, help="steps per timing; each turn has three timings"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=8.5,
        help="no row starts after this time",
    )
    parser.add_argument(
        "--torch_python", default=sys.executable, help="a Python with torch and numpy"
    )
    args = parser.parse_args()

    groups = (
        args.only.split(",") if args.only else ["main", "encode", "reference", "long", "options"]
    )
    chosen = [
        case | {"size": args.size, "steps": args.steps}
        for case in cases()
        if case["group"] in groups
    ]
    main_rows = [case for case in chosen if case["group"] == "main"]
    turns = main_rows * args.rounds + [case for case in chosen if case["group"] != "main"]
    results: dict[str, list[dict]] = {}
    last = time.monotonic() + 60 * args.minutes
    torch_is_here = has_torch(args.torch_python)
    with tempfile.TemporaryDirectory() as folder:
        for case in turns:
            is_torch = case["program"] == "torch_step.py"
            if time.monotonic() > last or (is_torch and not torch_is_here):
                continue
            start = time.monotonic()
            result = run(case, args.torch_python if is_torch else sys.executable, folder)
            results.setdefault(case["name"], []).append(result)
            print(
                f"{time.monotonic() - start:5.0f} s  {case['name']}: {json.dumps(result)}",
                flush=True,
            )

    ours = {}  # (clips, frames, mode) -> our result, which has the operations
    for case in chosen:
        first = results.get(case["name"], [{}])[0]
        if "flops" in first:
            ours[case["clips"], case["frames"], case.get("mode")] = first
    all_results = [result for of_case in results.values() for result in of_case]
    about = next((result["about"] for result in all_results if "about" in result), "")
    print(f"\n{about}; load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print(
        "| | clips x frames | ms a step | frames/s | MFU | peak GiB | compiling s |\n"
        "|---|---|---|---|---|---|---|"
    )
    for case in chosen:
        if case["name"] in results:
            reference = ours.get((case["clips"], case["frames"], case.get("mode")))
            print(row(case, results[case["name"]], reference))
    if left := [case["name"] for case in chosen if case["name"] not in results]:
        print(f"\nnot run{'' if torch_is_here else ' (no torch here)'}: {'; '.join(left)}")


if __name__ == "__main__":
    main()
