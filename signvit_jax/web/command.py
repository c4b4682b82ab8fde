"""Serve a web page and an HTTP API on this machine that caption videos and a camera.

Open the address that the command prints. The page captions video files, and a camera live. Nothing
leaves this machine, and an uploaded video is deleted as soon as it is translated. /v1/openapi.json
describes the API, and docs/serve.md has examples. After SIGTERM or Ctrl-C the server finishes all
accepted requests; a second signal ends it immediately.

Only this machine can connect. With --host=0.0.0.0 other machines can connect too, with a token that
the command prints. Browsers allow a camera only on pages of the same machine, so prefer a tunnel:
ssh -L 8000:localhost:8000 HOST.

Exit codes: 1 failed, 2 wrong usage or a port that is taken, 130 Ctrl-C, 143 SIGTERM.
"""

import argparse
import os
import secrets
import socket
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from signvit_jax.cli.inference_flags import DECODER_NAMES, add_checkpoint_flag
from signvit_jax.cli.jax_setup import set_up_jax
from signvit_jax.demo.packaged import MODEL
from signvit_jax.files.local_paths import local_path, model_path_or_address
from signvit_jax.runtime.command_line import integer, parser, positive
from signvit_jax.runtime.exit_codes import UsageError
from signvit_jax.runtime.optional_deps import import_optional
from signvit_jax.runtime.standard_streams import clean

if TYPE_CHECKING:
    from signvit_jax.inference.translator import Translator
    from signvit_jax.web.app import WebApp
    from signvit_jax.web.settings import ServerSettings

_MAX_PORT = 65_535
_REQUIRED_MODULES = ("starlette", "uvicorn", "websockets", "python_multipart")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    if arguments.demo == (arguments.workdir is not None):
        raise UsageError("give one of --workdir=FOLDER, a trained model, and --demo")
    if arguments.port > _MAX_PORT:
        raise UsageError(f"--port is {arguments.port}; allowed: 0 to {_MAX_PORT}")
    for module in _REQUIRED_MODULES:
        import_optional(module, "signvit serve", UsageError)
    from signvit_jax.web import server
    from signvit_jax.web.settings import LOOPBACK, MEBIBYTE, ServerSettings

    is_local = arguments.host in LOOPBACK
    token = None if is_local and not arguments.token else secrets.token_urlsafe(24)
    own_names = () if is_local else (socket.gethostname().lower(),)
    settings = ServerSettings(
        host=arguments.host,
        token=token,
        host_names=(*own_names, *(name.lower() for name in arguments.host_name)),
        decode=arguments.decode,
        examples=arguments.examples,
        is_demo=arguments.demo,
        max_running=arguments.max_running,
        max_waiting=arguments.max_waiting,
        max_live=arguments.max_live,
        max_upload_bytes=arguments.max_upload_mb * MEBIBYTE,
        max_minutes=arguments.max_minutes,
        idle_seconds=arguments.idle_seconds,
    )
    if settings.examples is not None:
        from signvit_jax.media.takes import TakeFolder

        TakeFolder(settings.examples)  # raise TakeError now rather than at the first example
    listening = server.listen(settings, arguments.port)
    with listening:
        set_up_jax()
        from signvit_jax.inference.translator import load_translator
        from signvit_jax.web.app import WebApp, model_facts

        translator = load_translator(
            MODEL if arguments.demo else arguments.workdir,
            checkpoint=arguments.checkpoint,
            backend=arguments.backend,
            limits=settings.video_limits,
        )
        app = WebApp(translator, model_facts(translator.model, arguments.demo), settings)
        warm_up = threading.Thread(
            target=_warm_up, args=(translator, app, settings), name="warm_up", daemon=True
        )
        port = listening.getsockname()[1]

        def ready() -> None:
            warm_up.start()
            _print_address(settings, port)

        code = server.run(app, listening, ready)
    if warm_up.is_alive():
        # A compiling thread cannot be stopped, and the interpreter crashes if it shuts down while
        # such a thread runs.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _warm_up(translator: "Translator", app: "WebApp", settings: "ServerSettings") -> None:
    """Compile in the background: first the programs for one clip, then those for batches."""
    translator.warm_up(settings.decode)
    translator.warm_up(settings.decode, live=True)
    if settings.max_running > 1:
        translator.warm_up(settings.decode, clips=settings.max_running)
        translator.share_batches(settings.max_running)
    app.is_warm = True
    print("compiled; answers are fast from now on", file=sys.stderr, flush=True)


def _print_address(settings: "ServerSettings", port: int) -> None:
    hostname = socket.gethostname()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    if settings.host in ("0.0.0.0", "::"):  # all interfaces, which is no address for a browser
        host = hostname
    fragment = f"/#token={settings.token}" if settings.token else "/"
    print(f"http://{host}:{port}{fragment}", flush=True)
    if not settings.is_local:
        print(
            f"warning: --host={clean(settings.host)} lets other machines connect, without "
            "encryption; everyone who has the token can send videos. Browsers do not allow a "
            f"camera on such an address: prefer ssh -L {port}:localhost:{port} {clean(hostname)}",
            file=sys.stderr,
            flush=True,
        )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    flags = parser(__doc__, "signvit serve --demo --port=8000")
    flags.add_argument(
        "--workdir",
        type=model_path_or_address,
        help="folder of a training run or an export, or an export on a hub "
        "(hf://ORGANIZATION/NAME)",
    )
    flags.add_argument(
        "--demo", action="store_true", help="the packaged model, which reads drawn signs only"
    )
    add_checkpoint_flag(flags)
    flags.add_argument("--backend", choices=("jax", "onnx"), help="runtime that encodes clips")
    flags.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine only)"
    )
    flags.add_argument("--port", type=integer(0), default=8000, help="port; 0: any free one (8000)")
    flags.add_argument(
        "--host_name",
        action="append",
        default=[],
        metavar="NAME",
        help="another name by which browsers address this machine",
    )
    flags.add_argument(
        "--token", action="store_true", help="require a token from users of this machine too"
    )
    flags.add_argument(
        "--decode", choices=DECODER_NAMES, default="greedy", help="search for the text (greedy)"
    )
    flags.add_argument(
        "--examples",
        type=local_path,
        metavar="FOLDER",
        help="folder in which the page may save videos and corrected texts for training; without "
        "this flag nothing is saved",
    )
    limits = flags.add_argument_group("limits")
    limits.add_argument(
        "--max_running", type=integer(1), default=4, help="translations at the same time (4)"
    )
    limits.add_argument(
        "--max_waiting", type=integer(0), default=16, help="waiting translations (16)"
    )
    limits.add_argument("--max_live", type=integer(0), default=4, help="live sessions (4)")
    limits.add_argument(
        "--max_upload_mb",
        type=integer(1),
        default=512,
        help="size of an uploaded video in MiB (512)",
    )
    limits.add_argument(
        "--max_minutes",
        type=positive("minutes"),
        default=30.0,
        help="length of a video in minutes (30)",
    )
    limits.add_argument(
        "--idle_seconds",
        type=positive("seconds"),
        default=30.0,
        help="disconnect a client that sends nothing for this long (30)",
    )
    return flags.parse_args(argv)
