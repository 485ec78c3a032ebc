"""Shell completion, requested as a shell requests it."""

import os
import re
import subprocess
import sys
from importlib.metadata import version

import pytest

from flows.cli import run_command
from flows.commands.completion import (
    complete_knob,
    complete_preset,
    complete_published_table,
    complete_stage,
    complete_table,
)
from flows.recipes.presets import PRESETS
from flows.recipes.recipe import STAGES
from schemas.tables import PUBLISHED, TABLES
from tests.worlds.command_line import ROOT
from tests.worlds.patience import PATIENCE_SECONDS


def completed(words: str) -> list[str]:
    """Bash's completions of the last word of a line."""
    script = "import sys; sys.argv[0] = 'segue'; from flows.cli import main; main()"
    environment = os.environ | {
        "_SEGUE_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    program = [sys.executable, "-c", script]
    ended = subprocess.run(
        program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
    )
    return ended.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("segue run --preset musicgen-st", ["musicgen-stereo-small", "musicgen-stereo-medium"]),
        ("segue plan tr", ["train_codec", "train"]),
        ("segue check rec", ["reconstructions"]),
        ("segue diff cl", ["clap", "clips"]),
        ("segue run --set requests.temp", ["requests.temperature="]),
    ],
)
def test_a_shell_completes_presets_stages_tables_and_knobs(words, expected):
    assert completed(words)[: len(expected)] == expected


def test_every_name_is_completed_with_its_meaning():
    assert [name for name, _ in complete_preset("")] == list(PRESETS)
    assert [name for name, _ in complete_stage("")] == list(STAGES)
    assert {name for name, _ in complete_table("")} > set(TABLES)
    assert [name for name, _ in complete_published_table("")] == list(PUBLISHED)
    everything = [*complete_preset(""), *complete_stage(""), *complete_table(""), *complete_knob("")]
    assert [name for name, meaning in everything if not meaning] == []


def test_the_version_is_printed_with_the_commit_if_it_is_known(capfd):
    assert run_command(["--version"]) == 0
    out = capfd.readouterr().out
    assert re.fullmatch(rf"segue {re.escape(version('segue'))}( \(commit [0-9a-f]{{12}}(, with changes)?\))?\n", out)
    git = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
    known = subprocess.run(git, capture_output=True, text=True, check=False)
    assert known.returncode != 0 or known.stdout.strip() in out
