"""List the presets that `--config=NAME` takes, or show the purpose and the values of one.

Exit codes: 0 done, 2 no such preset.
"""

from collections.abc import Sequence

from signvit_jax.config.files import load_config
from signvit_jax.config.presets import preset_names, preset_summary, resolve_config
from signvit_jax.config.schema import to_json
from signvit_jax.runtime.command_line import parser
from signvit_jax.runtime.completion import offer
from signvit_jax.runtime.exit_codes import DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Print the presets, or with a name its file's docstring and its values as JSON."""
    flags = parser(__doc__, "signvit configs small")
    shown = flags.add_argument("name", nargs="?", help="a preset, or the path of a config file")
    offer(shown, preset_names)
    name = flags.parse_args(argv).name
    if name is None:
        names = preset_names()
        width = max(map(len, names))
        print("\n".join(f"{name:{width}}  {preset_summary(name)}" for name in names))
        return DONE
    path, _ = resolve_config(name)
    print(path.read_text(encoding="utf-8").split('"""')[1].strip(), "\n")
    print(to_json(load_config(name)))
    return DONE
