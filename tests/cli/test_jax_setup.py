import os

import pytest

from signvit_jax.cli.jax_setup import set_up_jax
from tests.helpers import tiny_run


@pytest.fixture
def environment(monkeypatch, tmp_path):
    with tiny_run.light_jax(tmp_path):
        yield monkeypatch


def flags_after_set_up() -> list[str]:
    set_up_jax()
    return os.environ["XLA_FLAGS"].split()


def test_flags_of_the_environment_override_ours(environment):
    environment.setenv("JAX_PLATFORMS", "cuda")
    environment.setenv("XLA_FLAGS", "--some_flag=1")
    assert flags_after_set_up() == [
        "--xla_gpu_enable_latency_hiding_scheduler=true",
        "--some_flag=1",
    ]
    assert len(flags_after_set_up()) == 2
    environment.setenv("XLA_FLAGS", "--xla_gpu_enable_latency_hiding_scheduler=false")
    assert flags_after_set_up() == ["--xla_gpu_enable_latency_hiding_scheduler=false"]


def test_on_a_cpu_no_flag_is_set(environment):
    environment.setenv("JAX_PLATFORMS", "cpu")
    environment.setenv("XLA_FLAGS", "--some_flag=1")
    assert flags_after_set_up() == ["--some_flag=1"]
