"""The GPU benchmark, without a GPU and without the packages that read data."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "scripts" / "bench"
NO_DATA_PACKAGES = (
    "av",
    "grain",
    "tensorflow_datasets",
    "array_record",
    "pyarrow",
    "tokenizers",
    "sacrebleu",
    "tensorboardX",
    "matplotlib",
    "PIL",
)


@pytest.mark.parametrize(
    "program", ["jax_step", "gpu_numerics", "gpu_learning", "gpu", "train_step"]
)
def test_the_gpu_benchmark_needs_no_data_packages(program):
    blocked = (
        f"import sys; sys.modules.update(dict.fromkeys({NO_DATA_PACKAGES!r})); "
        f"sys.path.insert(0, {str(BENCH)!r}); import {program}"
    )
    done = subprocess.run(
        [sys.executable, "-c", blocked], capture_output=True, text=True, cwd=BENCH.parents[1]
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.long
@pytest.mark.parametrize("changes", [{}, {"mode": "encode", "clips": 1, "scan": False}])
def test_a_row_runs_without_data_packages(changes):
    run_row = (
        f"import sys; sys.modules.update(dict.fromkeys({NO_DATA_PACKAGES!r})); "
        f"sys.path.insert(0, {str(BENCH)!r}); import json, jax_step, train_step; "
        f"case = train_step.BASE | {changes!r} | dict(size='tiny', steps=1, clips=2, frames=4); "
        "sys.argv[1:] = [json.dumps(case)]; jax_step.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", run_row], capture_output=True, text=True, cwd=BENCH.parents[1]
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["seconds"] > 0


def gpu(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(BENCH / "gpu.py"), *flags],
        capture_output=True,
        text=True,
        cwd=BENCH.parents[1],
    )


def test_a_row_that_was_not_measured_fails_with_the_reason(tmp_path):
    output = tmp_path / "new" / "gpu.jsonl"
    done = gpu("--size=tiny", "--rows=reference,encode", "--minutes=0", f"--output={output}")
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert done.returncode == 1
    assert [(row["row"], row["failed"]) for row in rows] == [
        (name, "no time left for this row") for name in ("reference", "encode")
    ]
    assert all(row["card"] for row in rows)


def test_an_unknown_row_is_refused_with_a_list_of_rows():
    done = gpu("--rows=reference,densevit")
    assert done.returncode == 2 and "densevit" in done.stderr and "dense_vit_100m" in done.stderr


@pytest.mark.long
def test_each_of_our_rows_runs_at_tiny_size(tmp_path):
    rows = "numerics,reference,reference_rbg,dense_vit,dense_vit_100m,encode,small_gpu"
    done = gpu(
        "--size=tiny",
        "--steps=1",
        "--minutes=4",
        f"--rows={rows}",
        f"--output={tmp_path / 'gpu.jsonl'}",
    )
    assert done.returncode == 0, done.stdout
