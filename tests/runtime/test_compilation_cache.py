"""The folder of JAX's compilation cache: the user's choice, else a folder of this package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from signvit_jax.runtime.compilation_cache import use_compilation_cache
from tests.helpers import tiny_run

FOLDER, SECONDS = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
_START = """
import collections, json, sys
import jax, jax.numpy as jnp
from jax import monitoring
if sys.argv[3] == "notebook":  # a notebook may use JAX before it loads a translator
    jax.block_until_ready(jnp.ones(3) + 1)
events = collections.Counter()
monitoring.register_event_listener(lambda event, **_: events.update([event.rpartition("/")[2]]))
from signvit_jax import load_translator
translator = load_translator(sys.argv[1])
translator.warm_up()
text = translator.translate(sys.argv[2]).text
print(json.dumps({"text": text, **events, "folder": jax.config.jax_compilation_cache_dir}))
"""


@pytest.fixture
def environment(tmp_path):
    """A monkeypatch for environment variables, undone before JAX's settings are restored."""
    with tiny_run.light_jax(tmp_path / "cache"), pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture
def jax_settings(environment, tmp_path):
    """JAX's settings, as they are after an import if the user has set nothing."""
    import jax

    for name in (FOLDER, SECONDS):
        environment.delenv(name.upper(), raising=False)
    environment.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    jax.config.update(FOLDER, None)
    jax.config.update(SECONDS, 1.0)
    return jax.config


def test_programs_are_kept_in_the_users_cache_folder(jax_settings, tmp_path):
    use_compilation_cache()
    folder = tmp_path / "caches" / "signvit_jax" / "jax"
    assert jax_settings.values[FOLDER] == str(folder) and folder.is_dir()
    assert jax_settings.values[SECONDS] == 0.0


def test_a_folder_set_in_jax_stays(jax_settings, environment):
    environment.setenv(FOLDER.upper(), "/somewhere/else")
    jax_settings.update(FOLDER, "/chosen")
    use_compilation_cache()
    assert jax_settings.values[FOLDER] == "/chosen"


def test_a_folder_of_the_environment_is_used(jax_settings, environment):
    environment.setenv(FOLDER.upper(), "/chosen")
    use_compilation_cache()
    assert jax_settings.values[FOLDER] == "/chosen"


@pytest.mark.parametrize("set_in", ["environment", "config"])
def test_a_minimum_compile_time_that_is_set_stays(jax_settings, environment, set_in):
    if set_in == "environment":
        environment.setenv(SECONDS.upper(), "1")
    else:
        jax_settings.update(SECONDS, 3.0)
    use_compilation_cache()
    assert jax_settings.values[SECONDS] == (1.0 if set_in == "environment" else 3.0)


def test_a_cache_that_is_switched_off_stays_off(jax_settings):
    jax_settings.update("jax_enable_compilation_cache", False)
    try:
        use_compilation_cache()
        assert jax_settings.values["jax_enable_compilation_cache"] is False
    finally:
        jax_settings.update("jax_enable_compilation_cache", True)


def test_without_a_home_no_folder_named_tilde_is_created(jax_settings, environment, tmp_path):
    environment.delenv("XDG_CACHE_HOME")
    environment.setattr(os.path, "expanduser", lambda path: path)
    environment.chdir(tmp_path)
    use_compilation_cache()
    assert os.path.isabs(jax_settings.values[FOLDER]) and not Path("~").exists()


@pytest.mark.parametrize("process", ["server", pytest.param("notebook", marks=pytest.mark.long)])
def test_a_second_process_compiles_nothing(trained, tmp_path, process):
    variables = os.environ | {
        "XDG_CACHE_HOME": str(tmp_path),
        "PYTHONPATH": str(tiny_run.REPOSITORY),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
    }
    for name in (FOLDER, SECONDS):
        variables.pop(name.upper(), None)

    def start() -> dict:
        result = subprocess.run(
            [sys.executable, "-c", _START, trained.workdir, trained.video(3), process],
            env=variables,
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(result.stdout.splitlines()[-1])

    first, second = start(), start()
    assert first["folder"] == str(tmp_path / "signvit_jax" / "jax")
    assert first["text"] == second["text"]
    # JAX counts a miss only if it writes the program afterwards. So the number of hits is compared
    # with the number of requests too.
    assert first["cache_misses"] == first["compile_requests_use_cache"] > 2
    assert second.get("cache_misses", 0) == 0
    assert second["cache_hits"] == second["compile_requests_use_cache"]
