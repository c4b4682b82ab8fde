"""`signvit pull` and `signvit push`: exports from and to a model hub."""

import argparse
import logging
import sys
from collections.abc import Sequence

from signvit_jax.files.local_paths import local_path
from signvit_jax.runtime.command_line import FlagParser, parser
from signvit_jax.runtime.exit_codes import DONE
from signvit_jax.runtime.standard_streams import clean

_PULL = """Copies an export from a model hub to a new folder, and checks its files.

They are compared with the digests in export.json. The folder is complete or absent; hub.json in it
has the address and the commit. translate, eval and load_translator take hf://ORGANIZATION/NAME in
place of a folder too, and keep the files in the cache of Hugging Face. HF_ENDPOINT, HF_HUB_OFFLINE,
HF_HOME and HF_TOKEN are respected.
Exit codes: 0 done, 1 the hub does not answer, 2 there is no such model, or it is not an export.
"""
_PUSH = """Sends an export to a model hub: its files, report and model card, and nothing else.

A new repository is private unless --public is given. The token is HF_TOKEN, or that of `hf auth
login`. Read docs/privacy.md first: a model can repeat what it learned.
Exit codes: 0 done, 1 the hub does not answer, 2 the folder is not an export, or the hub refuses.
"""


def pull_main(argv: Sequence[str] | None = None) -> int:
    flags = parser(_PULL, "signvit pull hf://me/my-signs exports/my-signs")
    _add_address(flags)
    flags.add_argument("output", type=local_path, metavar="FOLDER", help="folder to create")
    arguments = _parsed(flags, argv)

    from signvit_jax.serving.hub import pull

    pinned = pull(arguments.address, arguments.output)
    print(clean(f"export: {arguments.output}\nfrom:   {pinned}", keep="\n"))
    return DONE


def push_main(argv: Sequence[str] | None = None) -> int:
    flags = parser(_PUSH, "signvit push exports/my-signs hf://me/my-signs")
    flags.add_argument("folder", type=local_path, metavar="FOLDER", help="folder of an export")
    _add_address(flags)
    flags.add_argument("--public", action="store_true", help="make a new repository public")
    flags.add_argument("--message", default="Export of signvit_jax", help="message of the commit")
    arguments = _parsed(flags, argv)

    from signvit_jax.serving.hub import push

    pinned = push(
        arguments.folder, arguments.address, public=arguments.public, message=arguments.message
    )
    print(clean(f"sent to: {pinned}"))
    return DONE


def _add_address(flags: FlagParser) -> None:
    flags.add_argument(
        "address",
        metavar="ADDRESS",
        help="hf://ORGANIZATION/NAME, or with @REVISION (a branch, tag or commit)",
    )


def _parsed(flags: FlagParser, argv: Sequence[str] | None) -> argparse.Namespace:
    arguments = flags.parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    return arguments
