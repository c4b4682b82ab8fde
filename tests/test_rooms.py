"""Tests that ARCHITECTURE.md lists every module, and that folders import only from lower ones.

A "room" is a folder of `signvit_jax/`; ARCHITECTURE.md lists the rooms from the top floor down.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "signvit_jax"


def rooms() -> dict[str, list[str]]:
    """Return room -> modules as ARCHITECTURE.md lists them, the top floor first."""
    rows = re.findall(
        r"^\| `(\w+)/` \|[^|]*\|(.*)\|$", (ROOT / "ARCHITECTURE.md").read_text(), re.M
    )
    return {room: re.findall(r"`(\w+\.py)`", modules) for room, modules in rows}


def imported_rooms(path: Path) -> set[str]:
    """Return the rooms from which a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.startswith("signvit_jax")
        ):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {name.name for name in node.names}
    return found & set(rooms())


def test_the_map_lists_every_module():
    listed = {f"{room}/{module}" for room, modules in rooms().items() for module in modules}
    existing = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.glob("*/*.py")
        if path.name != "__init__.py"
    }
    assert listed == existing


def test_rooms_import_only_from_rooms_below_them():
    order = list(rooms())
    wrong_imports = []
    for path in PACKAGE.glob("*/*.py"):
        importing_room = order.index(path.parent.name)
        wrong_imports += [
            f"{path} imports {room}/"
            for room in imported_rooms(path)
            if order.index(room) < importing_room
        ]
    assert wrong_imports == []


def test_builders_import_only_six_rooms():
    found = {
        room for path in (ROOT / "tfds_builders").glob("**/*.py") for room in imported_rooms(path)
    }
    assert found == {"data", "text", "media", "files", "runtime", "errors"}


def test_no_room_has_more_than_a_dozen_modules():
    assert max(len(modules) for modules in rooms().values()) <= 12
