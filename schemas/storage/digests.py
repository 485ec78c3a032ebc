"""Digests of rows that add up: for each column, the sum over all rows of a hash of the row's key and value.

A sum does not depend on order. So the digests of shards add up to that of the table, however the rows are spread over
shards, and a reader of some columns can have a digest of only those. Both halves of a 128-bit hash are summed modulo
2^64 (Bellare and Micciancio, EUROCRYPT '97: AdHash).

Values are hashed, not buffers: an Arrow buffer may hold any bytes under a null, and an array may be a slice of a larger
buffer. Lists of numbers, which are long, are hashed by SHA-256, row by row. Texts and single numbers are hashed for all
rows and columns at once.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.tables import Table

Hashes = npt.NDArray[np.uint64]
"""[…, 2], a 128-bit hash of each value."""

Integers = npt.NDArray[np.int64]

SEEDS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], dtype=np.uint64)
"""Constants that make the two halves of a hash different: 2^64 over the golden ratio, and a prime of xxHash."""

NULL = np.array([0x6C6C756E6C6C756E, 0x6E756C6C6E756C6C], dtype=np.uint64)
"""The hash of a null."""


def column_digests(table: Table, rows: pa.Table) -> dict[str, str]:
    """Return the digest of each of the table's identity columns, as 32 hexadecimal digits."""
    names = table.identity or tuple(table.schema.names)
    columns = {name: _one_array(rows.column(name)) for name in dict.fromkeys((*table.key, *names))}
    texts = [name for name, values in columns.items() if pa.types.is_string(values.type)]
    hashes = dict(zip(texts, _text_hashes([columns[name] for name in texts]), strict=True))
    hashes |= {name: _hashes(values) for name, values in columns.items() if name not in hashes}
    keys = _mixed(*(hashes[name] for name in table.key))
    salts = np.stack([np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype="<u8") for name in names])
    sums = _mixed(keys, np.stack([hashes[name] for name in names]) + salts[:, None]).sum(axis=1, dtype=np.uint64)
    return {name: _encode(value) for name, value in zip(names, sums, strict=True)}


def add_digests(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return the digests, by column, of the rows of all parts together."""
    digests: dict[str, list[str]] = {}
    for part in parts:
        for name, digest in part.items():
            digests.setdefault(name, []).append(digest)
    hashes = {name: np.frombuffer(bytes.fromhex("".join(each)), dtype="<u8") for name, each in digests.items()}
    return {name: _encode(each.reshape(-1, 2).sum(axis=0, dtype=np.uint64)) for name, each in hashes.items()}


def digest_of_columns(digests: Mapping[str, str]) -> str:
    """Return one digest, 16 hexadecimal digits, of the digests of columns."""
    return hashlib.sha256("".join(f"{name}={digests[name]};" for name in sorted(digests)).encode()).hexdigest()[:16]


def _encode(value: Hashes) -> str:
    return value.astype("<u8").tobytes().hex()


def _scrambled(values: Hashes) -> Hashes:
    """Return 64 bits that each depend on all 64 bits of the value (SplitMix64: Steele, Lea and Flood, OOPSLA 2014)."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _mixed(first: Hashes, *others: Hashes) -> Hashes:
    """Return one hash from several; their order matters."""
    for other in others:
        first = _scrambled(_scrambled(first + SEEDS) + other)
    return first


def _combined(hashes: Hashes, lengths: Integers) -> Hashes:
    """Return the hash [lists, 2] of each list, from the hashes [items, 2] of the items of all lists, one list after
    another.

    Args:
        lengths: how many items each list has.
    """
    bounds = _bounds(lengths)
    positions = np.arange(len(hashes)) - np.repeat(bounds[:-1], lengths)
    placed = _scrambled(positions.astype(np.uint64)[:, None] * SEEDS + hashes)
    sums = np.concatenate([np.zeros((1, 2), np.uint64), placed.cumsum(axis=0, dtype=np.uint64)])[bounds]
    return _mixed(sums[1:] - sums[:-1], lengths.astype(np.uint64)[:, None] * SEEDS)


def _text_hashes(columns: list[pa.Array]) -> Iterator[Hashes]:
    """Yield the hashes [rows, 2] of each of some text columns of equal length. Equal texts are hashed once."""
    if not columns:
        return
    encoded = pa.concat_arrays(columns).dictionary_encode()
    hashes = np.concatenate([_hashes_of_texts(encoded.dictionary), NULL[None]])
    numbers = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy(zero_copy_only=False)
    yield from hashes[numbers.reshape(len(columns), -1)]


def _hashes_of_texts(texts: pa.Array) -> Hashes:
    """Return the hashes [texts, 2] of an array of texts that is no slice and has no nulls."""
    _, starts, data = texts.buffers()
    bounds = np.frombuffer(starts, np.int32)[: len(texts) + 1].astype(np.int64)
    lengths = np.diff(bounds)
    # Each text starts on a new 8-byte word; its last word is filled with zeros.
    counts = -(-lengths // 8)
    words = np.zeros(int(counts.sum()), np.dtype("<u8"))
    if len(words):
        places = np.arange(bounds[-1]) + np.repeat(8 * _bounds(counts)[:-1] - bounds[:-1], lengths)
        words.view(np.uint8)[places] = np.frombuffer(data, np.uint8)[: bounds[-1]]
    return _mixed(_combined(words[:, None] + SEEDS, counts), lengths.astype(np.uint64)[:, None] * SEEDS)


def _with_nulls(values: pa.Array, hashes: Hashes) -> Hashes:
    if values.null_count:
        hashes[values.is_null().to_numpy(zero_copy_only=False)] = NULL
    return hashes


def _hashes(values: pa.Array) -> Hashes:
    """Return the hash [rows, 2] of each value of a column."""
    kind = values.type
    if pa.types.is_map(kind):
        kind = pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)]))
        values = values.cast(kind)
    if pa.types.is_string(kind):
        return next(_text_hashes([values]))
    if pa.types.is_struct(kind):
        return _with_nulls(values, _mixed(*(_hashes(_one_array(field)) for field in values.flatten())))
    if not pa.types.is_list(kind):
        return _with_nulls(values, _mixed(_bits(values).astype(np.uint64)[:, None] * SEEDS, SEEDS))
    if not _holds_numbers(kind):
        lengths = values.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        return _with_nulls(values, _combined(_hashes(_one_array(values.flatten())), lengths))
    pieces = [*_pieces(values, np.arange(len(values) + 1))]
    views = [(memoryview(data.view(np.uint8).data), (bounds * data.itemsize).tolist()) for data, bounds in pieces]
    digests = bytearray()
    for row in range(len(values)):
        digest = hashlib.sha256()
        for data, at in views:
            digest.update(data[at[row] : at[row + 1]])
        digests += digest.digest()[:16]
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2).astype(np.uint64)


def _holds_numbers(kind: pa.DataType) -> bool:
    """Return whether the items of a list type are numbers, at whatever depth of nesting."""
    inner = kind.value_type
    return _holds_numbers(inner) if pa.types.is_list(inner) else bool(pa.types.is_primitive(inner))


def _pieces(values: pa.Array, bounds: Integers) -> Iterator[tuple[npt.NDArray[Any], Integers]]:
    """Yield the arrays that lists of numbers consist of, level by level, each with the bounds of every row's part.

    Null flags are yielded only for rows that have nulls, so that a row's hash does not depend on the rows beside it.

    Args:
        bounds: where each row's part of `values` begins, and where the last one ends.
    """
    counts = np.zeros(len(bounds) - 1, np.int64)
    if values.null_count:
        null = values.is_null().to_numpy(zero_copy_only=False)
        counts = np.diff(_bounds(null)[bounds])
        yield null[np.repeat(counts > 0, np.diff(bounds))], _bounds(np.where(counts > 0, np.diff(bounds), 0))
    yield counts, np.arange(len(bounds))
    if pa.types.is_list(values.type):
        lengths = values.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        yield lengths, bounds
        yield from _pieces(_one_array(values.flatten()), _bounds(lengths)[bounds])
    else:
        yield _bits(values), bounds


def _bits(values: pa.Array) -> npt.NDArray[Any]:
    """Return numbers as unsigned integers of the same width, with zero for a null."""
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.int64())
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    if values.null_count:
        values = values.fill_null(pa.scalar(0).cast(values.type))
    numbers = values.to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(numbers).view(f"u{numbers.itemsize}")


def _bounds(lengths: npt.NDArray[Any]) -> Integers:
    """Return where each of some adjacent stretches of these lengths begins, and where the last one ends."""
    bounds: Integers = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return bounds


def _one_array(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    return values
