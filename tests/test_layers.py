"""The layers: flows > stages > model > schemas, and each library known where it belongs and nowhere else."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("schemas", "model", "stages", "flows")
ONLY_IN = {"prefect": "flows", "prefect_dask": "flows", "typer": "flows", "duckdb": "schemas"}
NOT_IN_MODEL = {"os", "pathlib", "fsspec", "requests", "urllib", "socket", "pyarrow", "soundfile"}
SAYS_WHAT_IT_READS = re.compile(r"^READS\b.* = ", re.MULTILINE)
FILES = [path.relative_to(ROOT) for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imports_of(path: Path, at_work: bool = False) -> set[str]:
    """What a file imports; `at_work`: not what it imports for a type checker alone."""
    tree = ast.parse((ROOT / path).read_text())
    for_types = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    left_out = {node for block in for_types if at_work for node in ast.walk(block)}
    found = set()
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative name, which hides its layer"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_only_go_down_and_each_library_stays_in_its_layer(path):
    layer, imports = path.parts[0], imports_of(path)
    tops = {name.split(".")[0] for name in imports}
    assert not tops & set(LAYERS[LAYERS.index(layer) + 1 :])
    assert {name for name in tops & set(ONLY_IN) if ONLY_IN[name] != layer} == set()
    assert layer != "model" or not tops & NOT_IN_MODEL


def test_a_stage_never_imports_a_stage():
    stages = {
        f"stages.{path.stem}" for path in (ROOT / "stages").glob("*.py") if SAYS_WHAT_IT_READS.search(path.read_text())
    }
    assert stages, "no stage was found"
    for path in FILES:
        if path.parts[0] == "stages":
            own = ".".join(path.with_suffix("").parts)
            assert not (imports_of(path, at_work=True) & stages) - {own}, f"{path} imports another stage"
