"""Mapping stages yield each row as soon as it is complete: a caller that stops after the first part computes no
more."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from schemas import WeightsRef
from stages import chroma, clap, tokenize
from stages.demo.synthesis import compose
from stages.demo.synthesis.rendering import render
from stages.networks import demucs
from stages.networks.clap import JointEmbedder
from stages.pipeline.contract import Shard
from tests.worlds.tiny_codec import codec_folder
from tests.worlds.world_of_sound import make_context, save_clap, save_separator, tracks_of, write_sound


@pytest.fixture
def tracks(tmp_path):
    """Three short recordings, a silent one and one that cannot be read."""
    sound = render(compose(0, 0)).sum(0, keepdim=True).numpy()[:, :24_000]
    paths = [write_sound(tmp_path / f"{number}.wav", sound * (0.5 + number / 10)) for number in range(3)]
    paths.insert(2, write_sound(tmp_path / "silent.wav", np.zeros((1, 24_000), np.float32)))
    paths.append(tmp_path / "missing.wav")
    return tracks_of(*paths)


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[str]:
    """A list that grows with every call of a function or method."""
    calls: list[str] = []
    plain: Callable = getattr(owner, name)

    def noted(*given: Any) -> Any:
        calls.append(name)
        return plain(*given)

    monkeypatch.setattr(owner, name, noted)
    return calls


def keys(parts: Iterator[Shard]) -> list[list[str]]:
    """The keys of the rows and rejects of each part."""
    return [[row["track_id"] for row in part.rows] + [reject.key for reject in part.rejects] for part in parts]


@pytest.mark.parametrize("name", ["chroma", "clap", "tokenize"])
def test_every_track_is_a_part_of_its_own_and_none_is_computed_ahead(tmp_path, tracks, monkeypatch, name) -> None:
    from stages.checkpoints.codecs import load_codec

    if name == "chroma":
        stage: Any = chroma
        config: Any = chroma.Config(separator=WeightsRef(str(save_separator(tmp_path / "separator"))))
        calls, computed = counted(monkeypatch, demucs, "melody_chroma"), 3
    elif name == "clap":
        stage, config = clap, clap.Config(model=WeightsRef(str(save_clap(tmp_path / "clap"))))
        calls, computed = counted(monkeypatch, JointEmbedder, "embed_audio"), 4
    else:
        folder = codec_folder(tmp_path / "codec")
        stage, config = tokenize, tokenize.Config(codec=WeightsRef(str(folder)))
        calls, computed = counted(monkeypatch, type(load_codec(folder)), "encode_track"), 4
    parts = stage.shard(config, make_context(tmp_path, workers=1), tracks)
    assert calls == []
    assert keys(iter([next(parts)])) == [["0.wav"]]
    assert len(calls) == 1
    parts.close()
    assert len(calls) == 1
    whole = keys(stage.shard(config, make_context(tmp_path, workers=1), tracks))
    assert whole == [["0.wav"], ["1.wav"], ["silent.wav"], ["2.wav"], ["missing.wav"]]
    assert len(calls) == 1 + computed
