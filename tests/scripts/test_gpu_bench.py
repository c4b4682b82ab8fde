"""Tests of the GPU benchmark, without a GPU and without the packages that read data."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.scripts import load_script
from tests.scripts.test_make_hardware import ALL_ROWS

BENCH = Path(__file__).parents[2] / "scripts" / "bench"
gpu_page = load_script("bench/gpu_page")
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
    "program", ["jax_step", "gpu_numerics", "gpu_learning", "gpu", "gpu_page", "train_step"]
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


ONE_CLIP = [{"mode": mode, "clips": 1, "scan": False} for mode in ("encode", "translate")]


@pytest.mark.long
@pytest.mark.parametrize("changes", [{}, *ONE_CLIP])
def test_a_row_runs_without_data_packages(changes):
    run_row = (
        f"import sys; sys.modules.update(dict.fromkeys({NO_DATA_PACKAGES!r})); "
        f"sys.path.insert(0, {str(BENCH)!r}); import json, jax_step, train_step; "
        f"case = train_step.BASE | {changes!r} | dict(size='tiny', steps=1, frames=4); "
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


CARD = "NVIDIA H100 80GB HBM3, 81559 MiB, 550.54.15"
TIMED = {"mfu": 0.5, "peak_bytes": 30 * 2**30, "about": "1 x H100, jax 0.11.2"}
RESULTS = [
    {"row": "reference", "size": "full", "card": CARD, "load": 1.0, "failed": "no time left"},
    {"row": "reference", "size": "full", "card": CARD, "load": 1.0, "seconds": 0.2431} | TIMED,
    {"row": "dense_vit", "size": "full", "card": CARD, "load": 1.0, "seconds": 2.1} | TIMED,
    {"row": "encode", "size": "full", "card": CARD, "load": 1.0, "seconds": 0.0075} | TIMED,
    {"row": "numerics", "size": "full", "card": CARD, "attention": 0.003, "attention_is": "cudnn"},
    {"row": "torch", "size": "full", "card": CARD, "load": 1.0, "failed": "no torch here"},
    {"row": "encode", "size": "tiny", "card": CARD, "load": 1.0, "seconds": 9.0} | TIMED,
    {"row": "encode", "size": "full", "card": "no GPU; 2 x CPU", "seconds": 9.0} | TIMED,
]
PLAN = {"perfect": 1.5, "careful": 2.0, "communication": 0.015, "total": 40.7 * 2**30}


def merge(folder, results):
    lines = folder / "gpu.jsonl"
    lines.write_text("".join(json.dumps(result) + "\n" for result in results))
    return gpu_page.merge(lines, folder)


@pytest.fixture
def benchmarks(tmp_path):
    """A folder like docs/benchmarks, with one plan."""
    (tmp_path / "plans.json").write_text(json.dumps({"dense_vit 1xh100": PLAN}))
    (tmp_path / "index.md").write_text("```{toctree}\nexport\nplans\n```\n")
    return tmp_path


def test_a_truncated_line_is_skipped(benchmarks):
    lines = benchmarks / "gpu.jsonl"
    lines.write_text(f'{json.dumps(RESULTS[0])}\n{{"row": "refer')
    assert "1 results merged" in (message := gpu_page.merge(lines, benchmarks))
    assert "1 left out" in message


def test_results_are_shown_beside_plans_and_targets(benchmarks):
    assert "6 results merged" in (message := merge(benchmarks, RESULTS)) and "2 left out" in message
    text = (benchmarks / "gpu.md").read_text()
    for line in (
        f"## {CARD}",
        "| `reference` | 243.1 |  |  | 215 (missed) | 50.0% | 30.0 |  |",
        "| `dense_vit` | 2,100.0 | 1,500 | 2,015 |  | 50.0% | 30.0 | 40.7 |",
        "| `encode` | 7.5 |  |  | 8 | 50.0% | 30.0 |  |",
        "- `numerics`: attention by cudnn, attention 0.003",
        "- `torch`: **failed: no torch here**",
        "- 1 x H100, jax 0.11.2",
    ):
        assert line in text.splitlines(), line
    assert "9,000" not in text and "no time left" not in text
    assert (benchmarks / "index.md").read_text() == "```{toctree}\nexport\ngpu\nplans\n```\n"


def test_a_second_merge_keeps_rows_that_it_lacks(benchmarks):
    merge(benchmarks, RESULTS[:3])
    merge(benchmarks, [RESULTS[3] | {"seconds": 0.009}, RESULTS[1] | {"seconds": 0.2}])
    text = (benchmarks / "gpu.md").read_text()
    assert "| `dense_vit` | 2,100.0 |" in text and "8 (missed)" in text
    assert "| `reference` | 200.0 |" in text and text.count("`reference`") == 1
    assert (benchmarks / "index.md").read_text().count("gpu") == 1


@pytest.mark.parametrize("results", [[], RESULTS[6:]])
def test_without_results_of_a_gpu_nothing_is_written(benchmarks, results):
    with pytest.raises(gpu_page.NoResultsError, match=f"{len(results)} of a CPU or at tiny size"):
        merge(benchmarks, results)
    assert not (benchmarks / "gpu.md").exists()


def test_the_page_exists_only_with_measured_results():
    known = gpu_page.DOCS / "gpu.json"
    cards = {line["card"] for line in json.loads(known.read_text())} if known.is_file() else set()
    assert CARD not in cards and (gpu_page.DOCS / "gpu.md").is_file() == bool(cards)
    done = gpu("--merge", "--output=no/such.jsonl")
    assert done.returncode == 2 and "no/such.jsonl" in done.stderr


def test_planned_rows_are_rows_of_the_benchmark_and_have_plans():
    sys.path.insert(0, str(BENCH))
    import gpu as benchmark

    assert {*gpu_page.PLANNED, *gpu_page.TARGETS} <= set(benchmark.rows())
    for name, (preset, overrides) in benchmark.CONFIG_ROWS.items():
        assert gpu_page.PLANNED[name] == (preset, " ".join(overrides))
    for preset, overrides in gpu_page.PLANNED.values():
        assert f"{preset} 1xh100 {overrides}".strip() in ALL_ROWS


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_each_of_our_rows_runs_at_tiny_size(tmp_path):
    rows = "numerics,reference,reference_rbg,dense_vit,dense_vit_100m,encode,translate,small_gpu"
    done = gpu(
        "--size=tiny",
        "--steps=1",
        "--minutes=25",  # enough for a CPU that other programs use too
        f"--rows={rows}",
        f"--output={tmp_path / 'gpu.jsonl'}",
    )
    assert done.returncode == 0, done.stdout
