"""Tests of the planner's figures: the "Hardware:" lines of presets, and the pages of plans."""

import dataclasses
from pathlib import Path

import pytest

from signvit_jax.config.presets import preset_names
from signvit_jax.planning.compile_elsewhere import missing_packages
from signvit_jax.planning.device_kinds import KINDS
from tests.helpers.scripts import load_script

ROOT = Path(__file__).parents[2]


script = load_script("make_hardware")
RESULTS = script.read_results()
PRESET_ROWS = [row for row in script.ROWS if row.is_of_preset]
ALL_ROWS = {each.key: each for row in script.ROWS for each in (row, *row.others)}
RESULT = script.Result(
    program="",
    total=1,
    usable=100,
    perfect=1.0,
    careful=1.0,
    communication=0.0,
    mfu=0.3,
    flops=1e15,
    moved=1,
    sent={},
    clips=16,
    mesh={},
    settings={},
)


@pytest.mark.parametrize("preset", sorted({row.group for row in PRESET_ROWS}))
def test_the_hardware_line_of_a_preset_matches_its_plans(preset):
    source = (ROOT / "signvit_jax" / "presets" / f"{preset}.py").read_text()
    line = script.hardware_line(preset, RESULTS)
    assert f"\n\n{line}\n" in source
    assert source.count("Hardware") == 1
    assert script.with_hardware(source, line) == source


def test_the_pages_match_the_results():
    assert script.PAGE.read_text() == script.plans_page(RESULTS)
    assert script.scaling_table(RESULTS) in script.SCALE.read_text()


def test_exactly_the_rows_have_plans():
    """If a row has no plan, run scripts/make_hardware.py."""
    assert set(RESULTS) == set(ALL_ROWS)


def test_every_full_size_preset_has_rows_for_gpus_and_tpus():
    kinds = {}
    for row in PRESET_ROWS:
        assert row.preset in preset_names()
        kinds.setdefault(row.preset, set()).add(KINDS[row.device].platform)
    assert set(kinds) == {
        *("dense_vit", "dense_vit_100m", "dense_vit_server", "reference", "mobilenet_v3")
    }
    assert all(platforms == {"cuda", "tpu"} for platforms in kinds.values())


@pytest.mark.parametrize("row", [pytest.param(row, id=row.key) for row in script.ROWS])
def test_a_planned_step_leaves_room_and_is_among_the_fastest(row):
    assert script.too_large_or_slow(row, RESULTS) is None


def rows_of(group):
    """Return the rows of a group of `script.ROWS`."""
    return [row for row in script.ROWS if row.group == group]


def test_rbg_dropout_is_planned_no_slower_than_threefry():
    rbg, threefry = (RESULTS[row.key] for row in rows_of(script.DROPOUT))
    assert rbg.step <= 1.1 * threefry.step and rbg.total <= 1.1 * threefry.total


def test_a_tensor_axis_all_reduces_five_arrays_per_block():
    """Each all-reduce sends as many bytes as its array has.

    The five arrays are the outputs of attention and of the MLP, the recomputed output of attention,
    and the gradients of both inputs.
    """
    [row] = rows_of(script.TENSOR)
    assert RESULTS[row.key].settings["training.remat"] == "full"
    array = 256 * 198 * 1024 * 2  # frames per device, tokens, width, bytes
    assert RESULTS[row.key].sent["tensor"] == pytest.approx(24 * 5 * array, rel=0.02)


# Targets of the benchmark's main row: milliseconds per step with perfect and with careful kernels.
TARGET_MS = {"h100": (215, 270), "a100_40": (560, 700)}


@pytest.mark.parametrize("device", TARGET_MS)
def test_the_benchmarks_main_row_is_planned_within_its_targets(device):
    rows = rows_of(script.BENCHMARK)
    [row] = [row for row in rows if (row.preset, row.device) == ("reference", device)]
    result, (perfect, careful) = RESULTS[row.key], TARGET_MS[device]
    assert 1e3 * result.perfect <= perfect and 1e3 * result.careful <= careful
    assert result.total <= 36 * 2**30


def test_a_refused_row_is_shown_in_the_tables():
    [row, *_] = [row for row in script.ROWS if row.group == script.SCALING]
    refused = dataclasses.replace(RESULT, careful=0.0, communication=0.0, total=2 * RESULT.usable)
    assert f"| {row.devices} x {row.card} | does not fit |" in (
        script.scaling_table({row.key: refused})
    )
    [preset, *_] = PRESET_ROWS
    assert "not planned yet" in script.hardware_line(preset.group, {preset.key: refused})


def test_a_step_much_slower_than_an_alternative_is_reported():
    row = script.Row("a", "a", "h100", overrides=("x=1", "y=1"), alternatives=(("y=2",), ("y=3",)))
    assert [other.key for other in row.others] == ["a 1xh100 x=1 y=2", "a 1xh100 x=1 y=3"]
    chosen, slower, too_large = (
        dataclasses.replace(RESULT, careful=seconds, total=total)
        for seconds, total in ((1.2, 30), (1.3, 30), (0.1, 99))
    )
    keys = (row.key, *(other.key for other in row.others))
    results = dict(zip(keys, (chosen, slower, too_large)))
    assert script.too_large_or_slow(row, results) is None
    results[row.others[1].key] = dataclasses.replace(RESULT, careful=1.0, total=30)
    assert "1200 ms a step; the fastest alternative that fits takes 1000" in (
        script.too_large_or_slow(row, results)
    )
    results[row.key] = dataclasses.replace(chosen, total=99)
    assert "99% of what a process may take; allowed: 92%" in script.too_large_or_slow(row, results)


def preset_row(preset, device, overrides=()):
    return next(
        row
        for row in PRESET_ROWS
        if (row.preset, row.device, row.overrides) == (preset, device, overrides)
    )


def test_a_line_names_memory_devices_and_flags():
    row = preset_row("dense_vit", "a100_40", ("training.gradient_accumulation=2",))
    result = dataclasses.replace(RESULT, total=30 * 2**30, usable=36 * 2**30)
    server = preset_row("dense_vit_server", "a100_40")
    results = {row.key: result, server.key: result}
    line = script.hardware_line("dense_vit", results)
    assert "30.0 GiB on one 40 GB A100 with" in line
    assert "--config.training.gradient_accumulation=2" in line
    assert "on each of 8 40 GB A100" in script.hardware_line("dense_vit_server", results)
    assert max(map(len, line.splitlines())) <= 100
    source = 'r"""A.\n\nHardware: one\nGPU.\n\nNot trained.\n"""\n'
    assert script.with_hardware(source, line) == f'r"""A.\n\n{line}\n\nNot trained.\n"""\n'


def skip_without_packages(row):
    """Return a mark that skips the test if the compiler for the row's device is not installed."""
    missing = missing_packages(KINDS[row.device].platform)
    reason = f"{', '.join(missing)} not found: pip install 'signvit-jax[plan]'"
    return pytest.mark.skipif(bool(missing), reason=reason)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=key, marks=skip_without_packages(row)) for key, row in ALL_ROWS.items()],
)
def test_the_compiler_still_plans_what_the_pages_say(row):
    known = RESULTS[row.key]
    result = script.plan(row, known) or known
    assert result.total == pytest.approx(known.total, rel=0.02)
    assert result.step == pytest.approx(known.step, rel=0.02)
