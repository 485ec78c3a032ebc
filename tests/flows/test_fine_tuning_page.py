"""The commands of docs/fine-tuning.md, run in the order of the page with a small stand-in for the published model."""

import re
import shlex
from pathlib import Path

import pytest

from flows.cli import run_command
from schemas import Store
from schemas.queries.database import query
from tests.worlds.command_line import ROOT, make_recordings
from tests.worlds.hugging_face_models import SHAPES, random_musicgen, save
from tests.worlds.open_gate import OPEN_GATE

pytestmark = pytest.mark.slow  # four commands, each with a Prefect server

SMALL = {
    **{"train.optimization.steps": 2, "train.batch_size": 1, "train.micro_batch_size": 1},
    **{"train.optimization.precision": "float32", "train.samples.seconds": 0.5, "settings.device": "cpu"},
}


def commands(begin: str) -> list[list[str]]:
    """The commands of the page that begin with `segue {begin}`, as words."""
    lines = (ROOT / "docs" / "fine-tuning.md").read_text().splitlines()
    return [shlex.split(line) for line in lines if line.startswith(f"segue {begin}")]


def run(words: list[str], **knobs: object) -> None:
    given = [word.replace("facebook/musicgen-small", "./musicgen-small") for word in words[1:]]
    assert run_command([*given, *(word for name, value in knobs.items() for word in ("--set", f"{name}={value}"))]) == 0


def test_the_commands_of_the_page_lead_from_a_model_and_recordings_to_clips_with_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(random_musicgen(SHAPES["mono"]), SHAPES["mono"], tmp_path / "musicgen-small")
    make_recordings(tmp_path / "my-music", 2, seconds=5.0)
    tuning = next(words for words in commands("finetune") if "facebook/musicgen-small" in words)
    for name in ("noir", "strings"):
        run([*tuning, "--name", name], **SMALL, **{"train.seed": len(name)})
    (samples,) = commands("sql")
    run(samples)
    store = Store(str(tmp_path / "tuned"))
    (_, path) = query(store, "SELECT adapter, path FROM checkpoints ORDER BY adapter").to_pylist()[0].values()
    (tmp_path / "from-the-hub").symlink_to(tmp_path / "tuned" / path / "adapter")
    page = (ROOT / "docs" / "fine-tuning.md").read_text()
    (tmp_path / "requests.csv").write_text(re.findall(r"```csv\n(.*?)```", page, re.DOTALL)[0].replace(",12,", ",0.5,"))
    counts = []
    for words in commands("generate"):
        run([*words, *(["--seconds", "0.5"] if "--text" in words else [])], **OPEN_GATE, **{"settings.device": "cpu"})
        made = query(store, "SELECT len(adapters) AS count FROM clips JOIN requests USING (request_id) ORDER BY ALL")
        counts.append([row["count"] for row in made.to_pylist()])
    assert counts == [[1, 2], [2]]
