"""Wrong usage of `signvit serve` is an error before a model is loaded."""

import socket

import pytest

from signvit_jax.runtime.exit_codes import UsageError
from signvit_jax.web import command
from signvit_jax.web.server import listen
from signvit_jax.web.settings import ServerSettings


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "one of --workdir"),
        (["--demo", "--workdir=runs/x"], "one of --workdir"),
        (["--demo", "--port=70000"], "0 to 65535"),
        (["--demo", "--port=0", "--host=192.0.2.1"], "give another port"),
    ],
    ids=["nothing", "both", "port", "host"],
)
def test_errors_of_wrong_flags_list_what_is_allowed(flags, message):
    with pytest.raises(UsageError, match=message):
        command.main(flags)


def test_the_error_of_a_used_port_names_it():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"--port={port}: Address already in use"):
            listen(ServerSettings(), port)


def test_the_error_of_a_missing_package_says_how_to_install_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UsageError, match=r"signvit serve needs uvicorn .* pip install"):
        command.main(["--demo"])
