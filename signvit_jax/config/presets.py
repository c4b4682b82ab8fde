"""Config files by name or by path."""

import ast
import difflib
from pathlib import Path

from signvit_jax.config.errors import ConfigError
from signvit_jax.files.local_paths import ALLOWED, is_address

_FOLDER = Path(__file__).parents[1] / "presets"


def preset_names() -> list[str]:
    """Names that `--config=NAME` takes, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.py") if path.stem != "__init__")


def preset_path(name: str) -> Path:
    """The file of a preset, which need not exist."""
    return _FOLDER / f"{name}.py"


def preset_summary(name: str) -> str:
    """The first sentence of a preset's docstring. The file is parsed, not run."""
    docstring = ast.get_docstring(ast.parse(preset_path(name).read_text(encoding="utf-8"))) or ""
    return docstring.split("\n\n")[0].replace("\n", " ")


def resolve_config(spec: str) -> tuple[Path, str]:
    """The config file that `spec` names, and the argument for its `get_config` ("" = none).

    `spec` is a preset's name or the path of a file that ends with `.py`, either of them followed
    by `:argument` or not. A name with a folder or `.py` in it is a path. Raises ConfigError for
    what is neither, with the names and files that there are.
    """
    if is_address(spec):
        raise ConfigError(f"--config={spec} is an address; allowed: a preset, or {ALLOWED}")
    path_text, is_path, argument = spec.partition(".py:")
    if is_path:
        path = Path(path_text + ".py")
    elif spec.endswith(".py") or "/" in spec.partition(":")[0]:
        path = Path(spec)
    else:
        name, _, argument = spec.partition(":")
        path = preset_path(name)
        if not path.is_file():
            near = difflib.get_close_matches(name, preset_names(), 1)
            meant = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"no preset {name!r}; {meant}{_available_configs()}")
    if not path.is_file():
        raise ConfigError(f"no config file {str(path)!r}; {_available_configs()}")
    return path, argument


def _available_configs() -> str:
    presets = (
        f"presets: {', '.join(preset_names())}; or the path of a file that defines get_config()"
    )
    files = [path for path in sorted(Path().glob("*.py"))[:100] if "def get_config(" in _text(path)]
    return presets + (f", such as {', '.join(map(str, files[:10]))}" if files else "")


def _text(path: Path) -> str:
    return path.read_bytes()[:100_000].decode(errors="replace") if path.is_file() else ""
