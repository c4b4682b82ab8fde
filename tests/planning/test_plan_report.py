"""Reports of planned steps, and the settings that are tried if a step does not fit."""

import dataclasses

import pytest

from signvit_jax.commands.inspect_config import _DEVICES
from signvit_jax.config.errors import ConfigError
from signvit_jax.planning.alternatives import alternatives, expected_accumulation
from signvit_jax.planning.device_kinds import KINDS, check_count, target_config, with_memory
from signvit_jax.planning.memory import GIB, StepMemory
from signvit_jax.planning.plan_report import (
    alternatives_text,
    report,
    table_head,
    table_row,
    verdict,
)
from signvit_jax.planning.roofline import Roofline
from signvit_jax.planning.step_plan import (
    KeptArray,
    PlanRequest,
    ProgramCost,
    StepPlan,
    needed_bytes,
)
from tests.helpers import tiny_model

STATE = StepMemory(GIB, 2 * GIB, GIB, GIB // 4, None)
COST = ProgramCost(
    flops=930e12,
    asked_flops=757e12,
    bytes=4743 * 10**9,
    launches=6580,
    roofline=Roofline(1.969, 2.544, 1.2, 0.004),
    collectives={"fsdp": {"all-gather": 1.33e9, "reduce-scatter": 0.75e9}, "data": {"x": 1e6}},
    residuals=[KeptArray(19 * GIB, 1, "bf16[24,2048,197,4096]", "add layers/transformer.py:114")],
    recomputed=0,
    uncounted={},
    unknown_loops=0,
)


def plan(gib, *, device="h100", devices=1, cost=COST, mesh=None, **settings):
    """Return a plan that takes `gib` GiB for state, gradients and activations."""
    temporaries = None if cost is None else int(gib * GIB) - STATE.total
    return StepPlan(
        request=PlanRequest(device, devices),
        mesh=mesh or {"data": 1, "fsdp": 1, "tensor": 1},
        clips=16,
        frames=128,
        settings={"training.remat": "dots", "training.gradient_accumulation": "1"} | settings,
        memory=dataclasses.replace(STATE, temporaries=temporaries),
        total=int(gib * GIB),
        cost=cost,
        program="1f",
        compile_seconds=60.0,
    )


def test_a_report_has_memory_arrays_collectives_and_times():
    text = report(plan(47.9))
    for part in (
        "16 clips of 128 frames",
        "NVIDIA H100 80GB HBM3",
        "nothing was executed",
        "total                         47.900 GiB",
        "(0.92 of 79.1 GiB: JAX's pool)",
        "fits: 66% of what a process may take",
        "19.000   1 x bf16[24,2048,197,4096]   add layers/transformer.py:114",
        "all-gather               1.330",
        "989 TFLOP/s and 3.35 TB/s",
        "2,548.0 ms  in all: 30% MFU",
    ):
        assert part in text, part
    assert max(map(len, text.splitlines())) <= 80


def test_uncounted_operations_are_reported():
    cost = dataclasses.replace(COST, uncounted={"new": 3}, unknown_loops=2, recomputed=67)
    text = report(plan(47.9, cost=cost))
    assert "Custom calls whose operations are not counted: new (3)" in text
    assert "counted once: 2" in text and "67 instructions a second time" in text


@pytest.mark.parametrize(
    ("gib", "words"),
    [
        (47.9, "fits: 66%"),
        (70.0, "fits: 96% of what a process may take, which is tight"),
        (75.0, "does not fit: 103%"),
    ],
)
def test_a_plan_is_compared_with_what_a_process_may_take(gib, words):
    assert words in verdict(plan(gib))


def test_the_memory_fraction_of_the_user_is_the_limit(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    assert "does not fit" in verdict(plan(47.9))


def test_a_refusal_of_the_tpu_compiler_becomes_a_table():
    refused = plan(28.9, device="v5e", cost=None)
    text = report(refused)
    assert "the compiler refuses the program" in text
    assert "gradients and activations     24.650 GiB" in text
    assert "refuses" in table_row(refused) and not refused.fits


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        ("E1000: CompileTimeHbmOom: ... Used 28.87G of 15.75G hbm. Exceeded", 28.87),
        ("CompileTimeHbmOom … HLO temporaries (28.00G) exceeds available HBM (15.75G)", 32.25),
        ("RESOURCE_EXHAUSTED", 4.25),
    ],
)
def test_the_size_of_a_refused_program_is_in_the_message(message, gib):
    assert needed_bytes(message, STATE) == pytest.approx(gib * GIB)


def test_a_table_has_a_line_for_each_kind():
    config = tiny_model.config()
    lines = [*table_head(config, 1).splitlines(), table_row(plan(47.9)), table_row(plan(70.0))]
    assert max(map(len, lines)) <= 80
    assert "yes" in lines[-2] and "tight" in lines[-1]
    assert lines[-1].split()[0] == "h100"


def test_plans_are_restored_from_json():
    for original in (plan(47.9), plan(28.9, cost=None, device="v5e")):
        assert StepPlan.from_json(original.to_json()) == original


def test_the_flag_offers_every_kind():
    assert (*KINDS, "all") == _DEVICES


@pytest.mark.parametrize(("device", "count"), [("v5e", 3), ("v5p", 6), ("h100", 12)])
def test_devices_that_cannot_be_rented_together_are_refused(device, count):
    with pytest.raises(ConfigError, match=f"--devices is {count}"):
        check_count(KINDS[device], count)


@pytest.mark.parametrize(("device", "count"), [("v5e", 8), ("v5p", 64), ("h100", 3), ("h100", 32)])
def test_devices_that_can_be_rented_together_are_planned(device, count):
    check_count(KINDS[device], count)


def test_a_compiler_gets_the_requested_memory():
    kind = with_memory(KINDS["a100_40"], 24)
    assert kind.gpu is not None
    assert f"device_memory_size: {24 * GIB}\n" in target_config(kind, kind.gpu)


ACTIVATIONS = {"none": 400.0, "names": 190.0, "dots": 180.0, "full": 40.0}
SECONDS = {"none": 2.0, "names": 2.05, "dots": 2.1, "full": 2.5}


class Compiler:
    """A stand-in for the compiler: 4.25 GiB of state, 1 GiB of gradients, and activations."""

    def __init__(self):
        self.requests = []

    def __call__(self, config):
        training, mesh = config.training, config.mesh
        self.requests.append((training.remat, training.gradient_accumulation, mesh.fsdp))
        gib = 5.25 + ACTIVATIONS[training.remat] / training.gradient_accumulation
        times = Roofline(1.0, SECONDS[training.remat], 0.5, 0.0)
        return plan(
            gib,
            cost=dataclasses.replace(COST, roofline=times),
            mesh={"data": mesh.data if mesh.data > 0 else 1, "fsdp": mesh.fsdp, "tensor": 1},
            **{
                "training.remat": training.remat,
                "training.gradient_accumulation": str(training.gradient_accumulation),
            },
        )


def test_settings_that_fit_are_found_by_planned_time():
    config = tiny_model.config(training__batch_size=16, training__remat="dots")
    compiler = Compiler()
    first = compiler(config)
    plans = list(alternatives(config, first, compiler))
    assert compiler.requests == [("dots", 1, 1), ("dots", 4, 1), ("full", 1, 1)]
    text = alternatives_text(plans, first)
    lines = text.splitlines()
    assert lines[1:3] == [
        "  1. 50.2 GiB, 2,100 ms a step:",
        "       --config.training.gradient_accumulation=4",
    ]
    assert lines[3:] == ["  2. 45.2 GiB, 2,500 ms a step:", "       --config.training.remat=full"]


def test_the_state_is_sharded_before_activations_are_recomputed():
    config = tiny_model.config(training__batch_size=16, training__remat="full", mesh__data=4)
    compiler = Compiler()
    first = plan(80.0, mesh={"data": 4, "fsdp": 1, "tensor": 1})
    (alternative,) = alternatives(config, first, compiler)
    assert compiler.requests == [("full", 1, 4)]
    assert "--config.mesh.fsdp=4" in alternatives_text([alternative], first)


def test_microbatches_have_at_least_one_clip_per_device():
    config = tiny_model.config(training__batch_size=4, training__remat="full")
    assert expected_accumulation(config, plan(200.0)) == 4
    assert expected_accumulation(config, plan(400.0)) is None
