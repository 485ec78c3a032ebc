"""The report on the data of a training: correct counts, drawn by training's own code, told before the first step."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from model.conditioning.captions import CaptionConfig
from schemas.tables import CLAP, REMARKS, TOKENS, TRACKS
from stages import train
from stages.checkpoints.model_card import CARD
from stages.pipeline.contract import Progress
from stages.pipeline.remarks import Remarks
from stages.train.batches import split_tracks
from stages.train.data_report import DRAWN_TEXTS, UNKNOWN, DataReport, data_report, histogram
from tests.worlds.patience import PATIENCE_SECONDS
from tests.worlds.tiny_models import world
from tests.worlds.training_world import fill, make_context, recipe, train_in, world_corpus

PLAIN = {"merge": 0.0, "drop_description": 0.0, "drop_other": 0.0, "drop_words": 0.0}


def report(folder: Path, tracks: list[dict] | None = None, **changes: object) -> DataReport:
    """The report on the small world, with other rows of tracks where they are given."""
    given = {} if tracks is None else {"tracks": pa.Table.from_pylist(tracks, schema=TRACKS.schema)}
    fill(folder, **given)
    config = recipe(folder, **changes)
    return data_report(config, make_context(folder, config)[1])


def whole_share(folder: Path, condition_dropout: float = 0.0, **captions: float) -> float:
    changes = {"captions": PLAIN | captions, "condition_dropout": condition_dropout}
    texts = report(folder, **changes).texts
    assert texts is not None
    assert texts.drawn == texts.of_described == DRAWN_TEXTS
    return texts.whole / texts.drawn


def test_splits_and_hours_are_those_of_the_training(tmp_path: Path) -> None:
    told = report(tmp_path)
    chosen = split_tracks(world_corpus(world()), recipe(tmp_path))
    assert {name: size.tracks for name, size in told.splits.items()} == {
        name: len(tracks) for name, tracks in chosen.items()
    }
    assert told.splits["train"].hours == pytest.approx(16 * 4 / 3600)
    assert told.held_out == told.left_out == 0


def test_held_out_and_short_tracks_are_reported(tmp_path: Path) -> None:
    rows = [row | {"split": "train"} for row in world()["tracks"].to_pylist()]
    told = report(tmp_path, rows, held_out_share=0.25)
    assert (told.held_out, told.splits["valid"].tracks, told.tracks) == (6, 6, 18)
    remarks = Remarks()
    told.remark(remarks)
    assert [(one.location, one.count) for one in remarks.all()] == [("train.held_out_share", 6)]
    assert report(tmp_path, rows, shortest_seconds=5.0).left_out == len(rows)


def test_coverage_counts_the_training_tracks_with_each_condition(tmp_path: Path) -> None:
    tables = world()
    rows = tables["tracks"].to_pylist()
    in_train = [number for number, row in enumerate(rows) if row["split"] == "train"]
    for number in in_train[:5]:
        rows[number]["description"] = " "
    for number in in_train[:3]:
        rows[number] |= {"moods": ["dark", "calm"], "bpm": 95.0}
    for number in in_train[3:]:
        rows[number] |= {"moods": [" "] if number % 2 else None}
    fields = {"moods": {"kind": "words"}, "bpm": {"kind": "number", "lowest": 40, "highest": 240}}
    config = recipe(tmp_path)
    decoder = config.model.language_model.model_dump() | {"cross": ("description", "clap", *fields)}
    without = tables["clap"].filter(pa.array([number not in in_train[:2] for number in range(len(rows))]))
    fill(tmp_path, tracks=pa.Table.from_pylist(rows, schema=TRACKS.schema), clap=without)
    config = recipe(tmp_path, model=config.model.model_dump() | {"language_model": decoder, "fields": fields})
    told = data_report(config, make_context(tmp_path, config)[1])
    assert told.coverage == {"description": 11, "moods": 3, "bpm": 3, "chroma": 16, "clap": 14}
    assert told.metrics()["train_coverage_clap"] == 14 / 16


def test_tempi_keys_and_licences_are_counted_and_a_missing_licence_has_a_name(tmp_path: Path) -> None:
    rows = [row | {"split": "train"} for row in world()["tracks"].to_pylist()]
    rows[0]["split"] = "valid"
    for number, row in enumerate(rows[1:]):
        row |= {"bpm": 80.0 if number < 4 else 125.5, "key": "A minor" if number < 7 else None}
        row |= {"licence": ("CC BY 4.0", "CC-BY-4.0")[number % 2] if number < 20 else None}
    told = report(tmp_path, rows)
    assert told.tempi == {"80–99": 4, "100–119": 0, "120–139": 19}
    assert told.keys == {"A minor": 7}
    assert told.licences == {"CC-BY-4.0": 20, UNKNOWN: 3}
    assert "tempo, bpm: 80–99 ▂ 4, 100–119 ▁ 0, 120–139 █ 19" in told.lines()


def test_a_long_histogram_says_how_much_it_leaves_out() -> None:
    assert histogram({str(number): 1 for number in range(5)}, most=3) == "0 █ 1, 1 █ 1, 2 █ 1, and 2 more"


def test_the_share_of_whole_descriptions_agrees_with_the_probabilities(tmp_path: Path) -> None:
    # Three words, and "genre: jazz. moods: dark", four more, where they are merged.
    assert whole_share(tmp_path) == 1.0
    assert whole_share(tmp_path, condition_dropout=0.3) == pytest.approx(0.7, abs=0.03)
    assert whole_share(tmp_path, drop_words=0.2) == pytest.approx(0.8**3, abs=0.03)
    assert whole_share(tmp_path, merge=0.5, drop_description=0.5) == pytest.approx(0.75, abs=0.03)
    alone, merged = 0.8**3, 0.8**7
    both = 0.75 * alone + 0.25 * 0.5 * merged
    assert whole_share(tmp_path, merge=0.25, drop_description=0.5, drop_words=0.2) == pytest.approx(both, abs=0.03)
    assert report(tmp_path, attribute_dropout={"description": 0.4}, captions=PLAIN, condition_dropout=0.0).metrics()[
        "train_text_none"
    ] == pytest.approx(0.4, abs=0.03)


def test_a_training_with_few_whole_descriptions_is_remarked_and_others_are_not(tmp_path: Path) -> None:
    def noticed(**changes: object) -> list[tuple[str, int]]:
        remarks = Remarks()
        report(tmp_path, **changes).remark(remarks)
        return [(one.location, one.count) for one in remarks.all() if one.examples]

    published = CaptionConfig().model_dump()
    ((location, count),) = noticed(captions=published, condition_dropout=0.3)
    assert location == "train.captions"
    assert count / DRAWN_TEXTS > 0.5
    assert not noticed(captions=PLAIN, condition_dropout=0.3)
    rows = [row | {"description": None} for row in world()["tracks"].to_pylist()]
    remarks = Remarks()
    report(tmp_path, rows, captions=published).remark(remarks)
    assert not remarks.all()  # missing descriptions cannot be thinned; coverage reports them


def test_the_report_is_told_before_the_first_step_and_kept(tmp_path: Path) -> None:
    told: list[str] = []

    class Listener(Progress):
        def tell(self, lines: object) -> None:
            told.extend(lines)  # type: ignore[arg-type]

        def advance(self, count: int = 1, note: str = "") -> None:
            told.append("step")

    fill(tmp_path)
    config = recipe(tmp_path, optimization={"steps": 2}, captions=CaptionConfig().model_dump(), condition_dropout=0.3)
    row = train_in(tmp_path, config, Listener())
    _, context = make_context(tmp_path, config)
    expected = data_report(config, context)
    assert told[: len(expected.lines())] == expected.lines()
    assert expected.metrics().items() <= dict(row["metrics"]).items()
    remarks = context.store.read(REMARKS, context.fingerprint, [context.identity]).to_pylist()
    assert [(one["stage"], one["location"]) for one in remarks] == [("train", "train.captions")]


def test_a_plan_previews_the_same_report_without_torch(tmp_path: Path) -> None:
    fill(tmp_path)
    config = recipe(tmp_path)
    _, context = make_context(tmp_path, config)
    assert list(train.preview(config, context).lines) == data_report(config, context).lines()
    code = "import sys, stages.train.data_report, stages.train; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_SECONDS)


def test_a_store_without_tokens_gives_an_empty_report(tmp_path: Path) -> None:
    fill(tmp_path, tokens=TOKENS.schema.empty_table(), clap=CLAP.schema.empty_table())
    config = recipe(tmp_path)
    told = data_report(config, make_context(tmp_path, config)[1])
    assert told.tracks == 0
    assert told.texts is None
    assert told.lines() == ["data: 0 tracks (0 h) in train, 0 tracks (0 h) in valid, 0 tracks (0 h) in test"]


def test_the_card_of_a_checkpoint_describes_its_training_data(tmp_path: Path) -> None:
    rows = [row | {"licence": "mine | `4.0`", "key": "A minor"} for row in world()["tracks"].to_pylist()]
    fill(tmp_path, tracks=pa.Table.from_pylist(rows, schema=TRACKS.schema))
    row = train_in(tmp_path, recipe(tmp_path, optimization={"steps": 1}))
    card = (tmp_path / "store" / row["path"] / CARD).read_text()
    assert f"generate.checkpoint={row['checkpoint_id']}" in card
    assert "- `` mine | `4.0` ``: 16 tracks" in card
    assert "- key: `A minor` █ 16" in card
    assert "`description` 100.0%" in card
    assert "| `valid_cross_entropy` |" in card
    assert row["recipe"] in card
