"""The card of a checkpoint: what the hub reads of it, what is kept when it is converted, and whether its code runs."""

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard as HubCard

from stages.checkpoints.converting import convert_checkpoint
from stages.checkpoints.loading import Form
from stages.checkpoints.model_card import CARD, LIBRARIES, ModelCard, card_text, converted_card, literal, write_card
from tests.worlds.small_checkpoint import find, same_weights, small_checkpoint

HOSTILE = "CC BY\n# Owned\n<script>alert(1)</script> ``x`` | [here](http://a.example) www.b.example \u202e\x07 ---"
CARDED = ModelCard(
    name="A waltz model",
    data=("tracks: 3",),
    licences=(f"{literal(HOSTILE)}: 3 tracks",),
    metrics={"valid_cross_entropy": 3.5, "valid_cross_entropy_unigram": 4.5},
    origin=("recipe `ab`",),
    base_model="facebook/musicgen-small",
)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)\n```", text, re.DOTALL)


def test_the_hub_reads_the_metadata_of_the_card(tmp_path: Path) -> None:
    facts = small_checkpoint(tmp_path).trained.facts
    card = HubCard(card_text(CARDED, facts, "segue", "0123"))
    data = card.data.to_dict()
    assert (data["pipeline_tag"], data["library_name"], data["base_model"]) == (
        "text-to-audio",
        "segue",
        "facebook/musicgen-small",
    )
    assert (data["license"], data["license_link"]) == ("other", "README.md#licences-of-the-data")
    assert "\n## Licences of the data\n" in card.text
    (result,) = card.data.eval_results
    assert (result.metric_name, result.metric_value) == ("valid_cross_entropy", 3.5)
    assert "| `valid_cross_entropy_unigram` | 4.5 |" in card.text
    assert "generate.checkpoint=0123" in card.text


def test_hostile_metadata_cannot_break_out_of_its_fence(tmp_path: Path) -> None:
    text = card_text(CARDED, small_checkpoint(tmp_path).trained.facts, "segue", "0123")
    (line,) = [line for line in text.splitlines() if "Owned" in line]
    fence = re.match(r"- (`+) ", line)
    assert fence
    inside = line.split(fence[1])[1]
    assert "<script>" in inside  # between fences longer than any run of backticks in it
    assert fence[1] not in inside
    assert line.count(fence[1]) == 2
    assert not re.search("[\u202e\x07]", text)
    assert len(literal("x" * 10_000)) == 202
    assert literal("") == "`  `"


@pytest.mark.parametrize("form", ["segue", "hf", "audiocraft"])
def test_a_converted_checkpoint_keeps_its_card_and_says_how_the_new_form_is_loaded(tmp_path: Path, form: Form) -> None:
    small = small_checkpoint(tmp_path, reads=form != "audiocraft")
    write_card(small.folder, card_text(CARDED, small.trained.facts, "segue", "0123"))
    convert_checkpoint(small.folder, tmp_path / "new", form, find)
    card = HubCard((tmp_path / "new" / CARD).read_text())
    assert card.data.library_name == LIBRARIES[form]
    assert card.data.base_model == "facebook/musicgen-small"
    assert card.text.count("## How to load") == 1
    assert "generate.checkpoint=0123" not in card.text
    assert "- tracks: 3" in card.text
    assert "| `valid_cross_entropy` | 3.5 |" in card.text
    convert_checkpoint(tmp_path / "new", tmp_path / "back", "segue", find)
    assert "- tracks: 3" in (tmp_path / "back" / CARD).read_text()


@pytest.mark.parametrize("form", ["segue", "hf"])
def test_the_python_code_of_a_card_runs_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Form
) -> None:
    small = small_checkpoint(tmp_path)
    convert_checkpoint(small.folder, tmp_path / "new", form, find)
    (code,) = blocks((tmp_path / "new" / CARD).read_text(), "python")
    monkeypatch.chdir(tmp_path / "new")
    made: dict[str, Any] = {}
    exec(compile(code, CARD, "exec"), made)
    if form == "segue":
        assert same_weights(made["trained"], small.trained)
    else:
        assert made["audio"].shape[-1] > 0


def test_the_card_of_another_project_is_kept_with_its_licence(tmp_path: Path) -> None:
    facts = small_checkpoint(tmp_path).trained.facts
    foreign = "---\nlicense: cc-by-nc-4.0\ntags: [musicgen]\n---\n# MusicGen\n\nSay so.\n"
    card = HubCard(converted_card(foreign, facts, "segue"))
    assert (card.data.license, card.data.tags, card.data.library_name) == ("cc-by-nc-4.0", ["musicgen"], "segue")
    assert card.text.rstrip().endswith("Say so.")
    assert card.text.count("## How to load") == 1


@pytest.mark.parametrize("broken", ["no card at all", "---\n- a list\n---\nbody", "---\na: [\n---\nbody", "", "---\nx"])
def test_a_card_without_metadata_for_the_hub_gets_some(tmp_path: Path, broken: str) -> None:
    facts = small_checkpoint(tmp_path).trained.facts
    card = HubCard(converted_card(broken, facts, "hf"))
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-to-audio")
    assert "## How to load" in card.text


def test_a_model_distilled_for_guidance_says_how_to_use_it(tmp_path: Path) -> None:
    facts = small_checkpoint(tmp_path).trained.facts
    assert "guidance" not in card_text(CARDED, facts, "segue")
    distilled = facts.model_copy(update={"distilled_guidance": 3.0})
    for form in LIBRARIES:
        assert "has learned guidance 3 by distillation: use it with guidance 1" in card_text(CARDED, distilled, form)
    assert "cfg_coef=1.0" in card_text(CARDED, distilled, "audiocraft")
