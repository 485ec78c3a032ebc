"""CUDA graphs: what is launched and when, with stand-ins for streams and graphs; `test_static_shapes` uses real
ones."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from model.decoding.static_shapes import WARM_UP, CudaGraphRunner


class _Device:
    """Counts the steps that a device would take: those launched and those replayed from graphs, not those captured."""

    def __init__(self) -> None:
        self.taken: Counter[int] = Counter()
        self.captures: list[int] = []
        self.recording: _Graph | None = None

    def step(self, length: int) -> None:
        if self.recording is None:
            self.taken[length] += 1
        else:
            self.recording.length = length
            self.captures.append(length)

    @contextmanager
    def capture(self, graph: "_Graph", *_: Any, **__: Any) -> Iterator[None]:
        graph.device, self.recording = self, graph
        yield
        self.recording = None


class _Graph:
    device: _Device
    length: int

    def replay(self) -> None:
        self.device.taken[self.length] += 1


class _Stream:
    def wait_stream(self, other: "_Stream") -> None:
        assert isinstance(other, _Stream)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> _Device:
    made = _Device()
    for name, stand_in in {
        "CUDAGraph": _Graph,
        "Stream": _Stream,
        "current_stream": _Stream,
        "stream": lambda stream: nullcontext(),
        "graph": made.capture,
        "graph_pool_handle": lambda: (0, 1),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return made


def test_every_call_is_one_step_and_each_length_is_captured_once_after_its_warm_up(device: _Device) -> None:
    steps = CudaGraphRunner(device.step)
    for number, length in enumerate([256] * 10 + [512] * 10 + [256] * 2, start=1):
        steps(length)
        assert device.taken.total() == number
        assert device.captures.count(length) == (device.taken[length] > WARM_UP)
    assert device.captures == [256, 512]


def test_a_step_that_cannot_be_captured_raises_an_error_that_names_the_setting_to_turn_off(device: _Device) -> None:
    def step(length: int) -> None:
        if device.recording is not None:
            raise RuntimeError("operation not permitted when stream is capturing")

    steps = CudaGraphRunner(step)
    for _ in range(WARM_UP):
        steps(256)
    with pytest.raises(RuntimeError, match=r"by --set settings\.cuda_graphs=false") as raised:
        steps(256)
    assert "not permitted" in str(raised.value.__cause__)
