"""The layers: segue > flows > stages > model > schemas, rooms inside them, and libraries that only one layer may
import."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("schemas", "model", "stages", "flows", "segue")
"""Each layer imports those before it; `segue.py` is the Python interface above them all."""
SHARED_ROOMS = ("pipeline", "audio", "analysis", "networks", "checkpoints", "judging")
"""The rooms that stages share, each above those that it may import."""
ROOMS = {"schemas": ("tables", "storage", "queries", "upkeep"), "flows": ("recipes", "runs", "service", "commands")}
"""For layers that are divided without stages: each room imports only the rooms before it."""
ONLY_IN = {
    "prefect": "flows",
    "prefect_dask": "flows",
    "prefect_ray": "flows",
    "ray": "flows",
    "distributed": "flows",
    "typer": "flows",
    "duckdb": "schemas",
}
NOT_IN_MODEL = {"os", "pathlib", "fsspec", "requests", "urllib", "socket", "pyarrow", "soundfile"}
FILES = [path.relative_to(ROOT) for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))] + [
    Path("segue.py")
]


def module_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imports_of(path: Path) -> set[str]:
    """The modules and names that a file imports, those for type checkers included."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative name, which hides its layer"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def modules_imported_by(path: Path) -> set[str]:
    """The project's own modules among the imports: `a.b.name` is the module `a.b` if no module has the name
    `a.b.name`."""
    names = imports_of(path)
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} & MODULES.keys() - {module_of(path)}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_only_go_down_and_each_library_stays_in_its_layer(path):
    layer = module_of(path).split(".")[0]
    tops = {name.split(".")[0] for name in imports_of(path)}
    assert not tops & set(LAYERS[LAYERS.index(layer) + 1 :])
    assert {name for name in tops & set(ONLY_IN) if ONLY_IN[name] != layer} == set()
    assert layer != "model" or not tops & NOT_IN_MODEL


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "stages"], ids=str)
def test_a_file_of_a_stage_imports_its_own_room_and_the_shared_ones_below(path):
    own = Path(path.parts[1]).stem
    rooms = {name.split(".")[1] for name in modules_imported_by(path) if name.startswith("stages.")}
    below = SHARED_ROOMS[: SHARED_ROOMS.index(own)] if own in SHARED_ROOMS else SHARED_ROOMS
    assert rooms <= {own, *below}


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] in ROOMS and len(path.parts) > 2], ids=str)
def test_a_room_of_flows_or_schemas_imports_only_those_below_it(path):
    layer, own = path.parts[:2]
    above = ROOMS[layer][ROOMS[layer].index(own) + 1 :]
    assert not {
        name for name in modules_imported_by(path) if name.startswith(tuple(f"{layer}.{room}." for room in above))
    }


def test_imports_have_no_cycle():
    below = {module: modules_imported_by(path) for module, path in MODULES.items()}
    while leaves := {module for module, imported in below.items() if not imported & below.keys()}:
        below = {module: imported for module, imported in below.items() if module not in leaves}
    assert not below, f"a circle of imports runs through some of {sorted(below)}"
