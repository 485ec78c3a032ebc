"""The recurrent layers of EnCodec's halves for inference (LSTM, Hochreiter and Schmidhuber 1997) on a CPU.

A step multiplies one row by a matrix of 16 MB, so its time is that of reading the matrix, and many rows take hardly
longer than one. So all sequences run together, whatever their lengths, and each runs as several segments at once
(multiple shooting: Bellen and Zennaro, "Parallel algorithms for initial-value problems", 1989). Every segment but the
first begins some frames early, from a state of zeros; by its first own frame, the layer has nearly always forgotten the
difference. This is checked: if a segment's start state is not the end state of the segment before it, up to rounding,
the segments of the sequence run again from these end states, until all agree. The result is that of running the
sequence from start to end; only the time depends on how fast layers forget.

The bits of a sequence do not depend on the other sequences. How it is split depends on its length, how often it runs
depends on itself, and rows are multiplied in numbers that are tested to be batch-invariant.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.kernels.choosing import find_invariant_sizes
from model.kernels.linear import LinearKernel, few_rows_kernel
from model.kernels.operators import multiply_packed, pack_matrix

SEGMENTS = 4
"""Maximum number of segments of a sequence."""
SIZES = (4, 8, 16, 24, 32, 48, 64)
"""Numbers of rows that may be multiplied together; only those are used that give a row the same bits as the largest."""
MOST_STEPS = 8_192
"""Maximum number of steps, over all rows, that run together, unless one sequence has more: 128 MB at width 1024."""
WARM_UP_FRAMES = 48
"""Frames that a segment begins early. EnCodecs trained here forget a state in that time, up to rounding."""
NARROWEST = 512
"""Smallest width for which segments are used. Narrower layers are run by PyTorch, which has less overhead: their
matrix, of 1 MB at a width of 256, stays in the processor's cache."""
ROUNDING = 1e-6
"""Relative and absolute tolerance of differences between states."""


@dataclass(frozen=True, eq=False)
class _LstmLayer:
    """One layer, whose gates are in the order input, forget, output, cell."""

    width: int
    input_matrix: Tensor
    """Packed matrix for the inputs."""
    multiply_recurrent: LinearKernel
    """Multiplies the layer's output of the previous step."""
    bias: Float[Tensor, " G"]
    """Sum of both biases of the gates."""
    sizes: tuple[int, ...]
    """Numbers of rows that `multiply_recurrent` is called with, ascending."""


@dataclass(frozen=True, eq=False)
class _State:
    """The state of a layer, for each of R rows."""

    hidden: Float[Tensor, "R D"]
    cell: Float[Tensor, "R D"]

    def first(self, rows: int) -> "_State":
        return _State(self.hidden[:rows], self.cell[:rows])


@dataclass(frozen=True, eq=False)
class _Run:
    """The result of a layer for a sequence of S segments of L steps each."""

    outputs: Float[Tensor, "S L D"]
    last: _State
    """State of each segment after its last step."""


class Recurrence:
    """An LSTM with a residual connection: its input is added to its output.

    Args:
        warm_up: frames that a segment begins early.
        narrowest: smallest width for which sequences run as segments.
    """

    def __init__(self, lstm: nn.LSTM, warm_up: int = WARM_UP_FRAMES, narrowest: int = NARROWEST) -> None:
        self.lstm, self.warm_up = lstm, warm_up
        wide = lstm.hidden_size >= narrowest
        self.layers = [_packed(lstm, number) for number in range(lstm.num_layers)] if wide else []

    def __call__(self, items: Sequence[Float[Tensor, "_T D"]]) -> list[Float[Tensor, "_T D"]]:
        """Return the outputs for sequences of any lengths, each with the bits that it has alone."""
        outputs = list(items)
        if not self.layers:
            outputs = [self.lstm(item)[0] for item in items]
        for layer in self.layers:
            outputs = _run_layer(layer, outputs, self.warm_up)
        return [output + item for output, item in zip(outputs, items, strict=True)]


def _packed(lstm: nn.LSTM, number: int) -> _LstmLayer:
    names = [f"{name}_l{number}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    input_matrix, recurrent_matrix, input_bias, recurrent_bias = (getattr(lstm, name).detach() for name in names)
    order = [0, 1, 3, 2]
    input_matrix, recurrent_matrix, bias = (
        tensor.unflatten(0, (4, -1))[order].flatten(0, 1)
        for tensor in (input_matrix, recurrent_matrix, input_bias + recurrent_bias)
    )
    multiply = few_rows_kernel(recurrent_matrix)
    return _LstmLayer(
        lstm.hidden_size,
        pack_matrix(input_matrix),
        multiply,
        bias,
        find_invariant_sizes(multiply, recurrent_matrix, SIZES),
    )


def _run_layer(layer: _LstmLayer, items: Sequence[Float[Tensor, "_T D"]], warm_up: int) -> list[Float[Tensor, "_T D"]]:
    """Run a layer over sequences, those of similar lengths together."""
    outputs: list[Tensor] = [item[:0] for item in items]
    for group in _groups([_cut(len(item), warm_up) for item in items], layer.sizes[-1]):
        group_outputs = _run_sequences(layer, [_segments(layer, items[number], warm_up) for number in group], warm_up)
        for number, output in zip(group, group_outputs, strict=True):
            outputs[number] = output[: len(items[number])]
    return outputs


def _cut(frames: int, warm_up: int) -> tuple[int, int]:
    """Return the number of segments of a sequence and the frames of each: at least twice those of the warm-up, unless
    there is only one segment."""
    count = max(1, min(SEGMENTS, frames // (2 * warm_up)))
    return count, math.ceil(frames / count)


def _groups(cuts: Sequence[tuple[int, int]], most_rows: int) -> Iterator[list[int]]:
    """Yield groups of sequences that run together, as indexes into `cuts`, those with the longest segments first."""
    group: list[int] = []
    rows = longest = 0
    for number in sorted(range(len(cuts)), key=lambda number: -cuts[number][1]):
        count, length = cuts[number]
        if group and (rows + count > most_rows or (rows + count) * longest > MOST_STEPS):
            yield group
            group, rows = [], 0
        longest = length if not group else longest
        group.append(number)
        rows += count
    if group:
        yield group


def _segments(layer: _LstmLayer, item: Float[Tensor, "T D"], warm_up: int) -> Float[Tensor, "S L G"]:
    """Return what the inputs of a sequence add to the gates, split into segments; the last is padded with zeros."""
    count, length = _cut(len(item), warm_up)
    products = multiply_packed(item, layer.input_matrix, layer.bias)
    steps = products.new_zeros(count * length, products.shape[1])
    steps[: len(item)] = products
    return steps.view(count, length, -1)


def _run_sequences(
    layer: _LstmLayer, sequences: Sequence[Float[Tensor, "_S _L G"]], warm_up: int
) -> list[Float[Tensor, "_SL D"]]:
    """Run a layer over the segments of sequences until the segments of each sequence agree. The segments of the
    sequences must be in descending order of length."""
    zeros = _State(*sequences[0].new_zeros(2, 1, layer.width))
    initial = [zeros for _ in sequences]
    split_numbers = [number for number, sequence in enumerate(sequences) if len(sequence) > 1]
    if split_numbers:
        warm_up_inputs = [sequences[number][:-1, -warm_up:] for number in split_numbers]
        zero_states = [_State(*sequence.new_zeros(2, len(sequence), layer.width)) for sequence in warm_up_inputs]
        for number, run in zip(split_numbers, _run_segments(layer, warm_up_inputs, zero_states), strict=True):
            initial[number] = _after(zeros, run.last)
    outputs: list[Tensor] = [sequences[0]] * len(sequences)
    pending = list(range(len(sequences)))
    # After each run, at least one more segment of a sequence starts from the exact end state of the one before it.
    for attempt in range(1, SEGMENTS + 1):
        runs = _run_segments(layer, [sequences[number] for number in pending], [initial[number] for number in pending])
        disagreeing = []
        for number, run in zip(pending, runs, strict=True):
            outputs[number] = run.outputs.flatten(0, 1)
            expected = _after(zeros, run.last.first(len(sequences[number]) - 1))
            if attempt < len(sequences[number]) and not _agree(initial[number], expected):
                disagreeing.append(number)
                initial[number] = expected
        pending = disagreeing
        if not pending:
            break
    return outputs


def _after(zeros: _State, states: _State) -> _State:
    """Return the start states of segments: zeros for the first, for the others the end states of those before them."""
    return _State(torch.cat([zeros.hidden, states.hidden]), torch.cat([zeros.cell, states.cell]))


def _agree(state: _State, other: _State) -> bool:
    pairs = ((state.hidden, other.hidden), (state.cell, other.cell))
    return all(torch.allclose(a, b, rtol=ROUNDING, atol=ROUNDING) for a, b in pairs)


def _run_segments(
    layer: _LstmLayer, sequences: Sequence[Float[Tensor, "_S _L G"]], initial: Sequence[_State]
) -> list[_Run]:
    """Run a layer's steps over the segments of sequences, given what the inputs add to its gates.

    The segments of the sequences must be in descending order of length. Rows of ended segments and rows of padding keep
    computing with meaningless numbers, which are not used.
    """
    width, counts, lengths = (
        layer.width,
        [len(sequence) for sequence in sequences],
        [sequence.shape[1] for sequence in sequences],
    )
    firsts = [sum(counts[:number]) for number in range(len(counts))]
    size = partial(_padded, layer.sizes)
    steps = sequences[0].new_zeros(lengths[0], size(sum(counts)), sequences[0].shape[2])
    for first, sequence in zip(firsts, sequences, strict=True):
        steps[: sequence.shape[1], first : first + len(sequence)] = sequence.transpose(0, 1)
    hidden, cell = steps.new_zeros(2, steps.shape[1], width)
    for first, state in zip(firsts, initial, strict=True):
        hidden[first : first + len(state.hidden)], cell[first : first + len(state.cell)] = state.hidden, state.cell
    outputs = steps.new_empty(*steps.shape[:2], width)
    ends: dict[int, Tensor] = {}  # cells by number of steps, wherever segments of a sequence end
    running = len(sequences)
    for step, output in enumerate(outputs):
        while lengths[running - 1] <= step:
            running -= 1
        rows = size(firsts[running - 1] + counts[running - 1])
        hidden, cell = hidden[:rows], cell[:rows]
        gates = layer.multiply_recurrent(hidden).add_(steps[step, :rows])
        input_gate, forget_gate, output_gate = gates[:, : 3 * width].sigmoid_().split(width, 1)
        cell = torch.addcmul(cell * forget_gate, input_gate, gates[:, 3 * width :].tanh_())
        hidden = torch.mul(output_gate, cell.tanh(), out=output[:rows])
        if lengths[running - 1] == step + 1:
            ends[step + 1] = cell
    runs = []
    for first, count, length in zip(firsts, counts, lengths, strict=True):
        own_rows = slice(first, first + count)
        runs.append(
            _Run(
                outputs[:length, own_rows].transpose(0, 1),
                _State(outputs[length - 1, own_rows], ends[length][own_rows]),
            )
        )
    return runs


def _padded(sizes: Sequence[int], rows: int) -> int:
    """Return the smallest of `sizes` that is at least `rows`."""
    return next(size for size in sizes if size >= rows)
