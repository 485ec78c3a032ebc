"""Decoding with CUDA graphs: what is captured and when, with stand-ins for streams and graphs; tests/benchmarks/gpu.py
uses real ones."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from model.codec.captured import KEPT, WARM_UP, CapturedDecoding


class _Graph:
    """Replays the decoding that was captured: reads the codes from, and writes the sound to, the tensors of the
    capture."""

    again: Callable[[], None]

    def replay(self) -> None:
        self.again()


class _Stream:
    def wait_stream(self, other: "_Stream") -> None:
        assert isinstance(other, _Stream)


class _Network:
    """Decodes and counts its calls; while a graph is being captured it computes nothing."""

    def __init__(self) -> None:
        self.calls, self.graph = 0, None

    def decode(self, codes: Tensor) -> Tensor:
        self.calls += 1
        sound = codes.sum(1, keepdim=True).repeat_interleave(2, -1).float()
        if self.graph is not None:
            self.graph.again = lambda: sound.copy_(codes.sum(1, keepdim=True).repeat_interleave(2, -1))
            sound = sound.fill_(-1)  # a capture computes nothing
        return sound


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> _Network:
    made = _Network()

    @contextmanager
    def capture(graph: _Graph, **_: Any) -> Iterator[None]:
        made.graph = graph
        yield
        made.graph = None

    for name, stand_in in {
        "CUDAGraph": _Graph,
        "Stream": _Stream,
        "current_stream": _Stream,
        "stream": lambda stream: nullcontext(),
        "graph": capture,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(Tensor, "record_stream", lambda *_: None)
    return made


def codes_of(frames: int, seed: int) -> Tensor:
    return torch.randint(9, (1, 3, frames), generator=torch.Generator().manual_seed(seed))


def test_a_frequent_length_is_captured_once_and_every_call_returns_the_sound_of_its_own_codes(
    network: _Network,
) -> None:
    plain, decoding = _Network().decode, CapturedDecoding(network.decode)
    sounds = [decoding(codes_of(5, seed)) for seed in range(10)]
    assert network.calls == WARM_UP + 1
    assert all(torch.equal(sound, plain(codes_of(5, seed))) for seed, sound in enumerate(sounds))


def test_only_the_most_recently_used_graphs_are_kept(network: _Network) -> None:
    decoding = CapturedDecoding(network.decode)
    for frames in range(1, KEPT + 2):
        for seed in range(WARM_UP + 1):
            decoding(codes_of(frames, seed))
        decoding(codes_of(1, 0))
    assert [shape[2] for shape in decoding.graphs] == [3, 4, 5, 1]


def test_decoding_that_cannot_be_captured_runs_uncaptured_with_one_warning(
    network: _Network, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def decode(codes: Tensor) -> Tensor:
        if network.graph is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        return network.decode(codes)

    @contextmanager
    def capture(graph: _Graph, **_: Any) -> Iterator[None]:
        network.graph = graph
        try:
            yield
        finally:
            network.graph = None

    monkeypatch.setattr(torch.cuda, "graph", capture)
    decoding = CapturedDecoding(decode)
    for seed in range(WARM_UP + 2):
        assert torch.equal(decoding(codes_of(5, seed)), _Network().decode(codes_of(5, seed)))
    assert not decoding.graphs
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "not permitted" in caplog.text
