"""Instruments are recognised by the frequencies of codes, learned from recordings with names of instruments."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from schemas import Settings, Store
from schemas.tables import TOKENS, TRACKS
from schemas.weights import WeightsLibrary
from stages.judging.asking import asked_instruments, instrument_names
from stages.judging.instruments import LEAST_OF_AN_INSTRUMENT, LEAST_RECORDINGS, InstrumentJudge, InstrumentJudges
from stages.pipeline.contract import Context

CARDINALITY, CODEBOOKS, FRAMES = 32, 2, 120
NAMES = ("flute", "guitar", "organ", "violin")
SOUNDS = np.random.default_rng(1).dirichlet(np.full(CARDINALITY, 0.3), size=(len(NAMES), CODEBOOKS))
"""The frequencies of codes of each instrument."""


def played(names: tuple[str, ...], seed: int) -> np.ndarray:
    """Codes [K, T] of these instruments together, and of a bed that is in all."""
    generator = np.random.default_rng(seed)
    share = np.mean([SOUNDS[NAMES.index(name)] for name in names], axis=0) * 0.7 + 0.3 / CARDINALITY
    return np.stack([generator.choice(CARDINALITY, size=FRAMES, p=level / level.sum()) for level in share])


def duo(seed: int) -> tuple[str, ...]:
    return tuple(sorted(np.random.default_rng(seed).choice(NAMES, size=2, replace=False)))


def taught(count: int = 200) -> InstrumentJudge:
    duos = [duo(seed) for seed in range(count)]
    judge = InstrumentJudge.fit([played(each, seed) for seed, each in enumerate(duos)], duos, CARDINALITY)
    assert judge is not None
    return judge


def test_instruments_of_other_recordings_are_recognised() -> None:
    judge, others = taught(), range(1000, 1100)
    heard = [set(judge.detect(played(duo(seed), seed))) for seed in others]
    assert all(len(each) == 2 for each in heard)  # as many as usually play
    assert np.mean([len(each & set(duo(seed))) / 2 for each, seed in zip(heard, others, strict=True)]) > 0.9


def test_names_unrelated_to_the_codes_are_right_only_by_chance() -> None:
    duos = [duo(seed) for seed in range(200)]
    judge = InstrumentJudge.fit([played(duo(seed + 5000), seed) for seed in range(200)], duos, CARDINALITY)
    assert judge is not None
    right = [len(set(judge.detect(played(duo(seed), seed))) & set(duo(seed))) / 2 for seed in range(1000, 1200)]
    assert np.mean(right) == pytest.approx(0.5, abs=0.12)


def test_too_few_recordings_and_rare_or_ubiquitous_names_teach_nothing() -> None:
    codes = [played(("flute",), seed) for seed in range(LEAST_RECORDINGS)]
    assert (
        InstrumentJudge.fit(codes[1:], [("flute",) if seed % 2 else () for seed in range(len(codes) - 1)], 32) is None
    )
    assert InstrumentJudge.fit(codes, [("flute",)] * len(codes), CARDINALITY) is None
    rare = [("flute",) if seed < LEAST_OF_AN_INSTRUMENT - 1 else () for seed in range(len(codes))]
    assert InstrumentJudge.fit(codes, rare, CARDINALITY) is None
    enough = [("flute",) if seed < LEAST_OF_AN_INSTRUMENT else () for seed in range(len(codes))]
    judge = InstrumentJudge.fit(codes, enough, CARDINALITY)
    assert judge is not None
    assert judge.names == ("flute",)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("Slow waltz with Flutes over organ", ("flute", "organ")),
        ("distorted guitar and strings", ("distorted guitar", "strings")),
        ("violin, without any guitar", ("violin",)),
        ("no strings attached, flute", ("flute",)),
        ("a guitarist's dream of organs", ("organ",)),
        ("calm piano", ()),
        ("", ()),
    ],
)
def test_words_ask_for_instruments_except_those_that_they_exclude(words: str, asked: tuple[str, ...]) -> None:
    known = ("distorted guitar", "flute", "guitar", "organ", "strings", "violin")
    assert asked_instruments(words, known) == asked


def test_instruments_in_metadata_are_separated_by_commas_and_exclude_drums() -> None:
    assert instrument_names("Violin, electric bass, drums, violin ,") == ("violin", "electric bass")
    assert instrument_names(None) == ()


CODES = {"frame_rate": 50.0, "cardinality": CARDINALITY, "codec_identity": "one", "channels": 1}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """A store with wrong names on its held-out recordings and right names on its training recordings."""
    store = Store(str(tmp_path))
    for shard in (0, 1):
        tracks, tokens = [], []
        for seed in range(shard, 240, 2):
            names = duo(seed) if seed % 3 else tuple(set(NAMES) - set(duo(seed)))
            track = {"track_id": f"{seed:064x}", "shard": shard, "split": "train" if seed % 3 else "test"}
            tracks.append(track | {"instrument": ", ".join([*names, "drums"])})
            tokens.append(
                CODES | {"track_id": track["track_id"], "codes": list(played(duo(seed), seed).astype(np.uint16))}
            )
        store.write_shard(TRACKS, "t", str(shard), pa.Table.from_pylist(tracks, schema=TRACKS.schema), "made by a test")
        store.write_shard(TOKENS, "k", str(shard), pa.Table.from_pylist(tokens, schema=TOKENS.schema), "made by a test")
    settings = Settings(store=str(tmp_path), device="cpu")
    versions = {"tracks": "t", "tokens": "k"}
    return Context(store, settings, "run", "evaluate", "s", versions, WeightsLibrary(store))


def test_clips_are_judged_by_what_the_training_recordings_taught(context: Context) -> None:
    judges, right = InstrumentJudges(context), []
    for seed in range(1000, 1060):
        heard = judges.detect(CODES | {"codes": played(duo(seed), seed), "prompt_frames": 0})
        assert heard is not None
        assert heard.names == NAMES
        right.append(len(set(heard.likeliest) & set(duo(seed))) / 2)
    assert np.mean(right) > 0.9


def test_instruments_of_the_prompt_of_a_clip_do_not_count(context: Context) -> None:
    judges, prompt = InstrumentJudges(context), played(("organ", "violin"), 1)
    made = CODES | {"codes": np.concatenate([prompt, played(("flute", "guitar"), 2)], axis=1)}
    heard = judges.detect(made | {"prompt_frames": FRAMES})
    assert heard is not None
    assert set(heard.likeliest) == {"flute", "guitar"}
    assert judges.detect(made | {"prompt_frames": 2 * FRAMES}) is None


def test_codes_of_another_codec_are_not_judged(context: Context) -> None:
    row = CODES | {"codes": played(("organ", "violin"), 1), "codec_identity": "another"}
    assert InstrumentJudges(context).detect(row) is None
