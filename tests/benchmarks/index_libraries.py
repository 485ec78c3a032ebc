"""Which library looks for near-duplicates: DuckDB's join of quads beside faiss and datasketch, on the same prints.

    pip install faiss-cpu datasketch
    python -m tests.benchmarks.index_libraries STORE [--recordings 1000 4000]

The collections are those of `tests.benchmarks.copies`. Each library is asked for the eight recordings before each one
that are most like it, and is told what it takes to answer: a recording's quads, as a set or put into vectors. A planted
copy is found where its original is among the eight. Each runs in a process of its own, on one thread, so that its
memory is its own. Telling quads, which all of them need, is not timed, and neither is comparing what was chosen.
"""

import argparse
import multiprocessing
import pickle
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Queue

import numpy as np
import numpy.typing as npt

from schemas import Store
from schemas.queries.postings import keys_of, most_in_common
from stages.analysis import Print
from stages.analysis.prints import FRAMES_A_SECOND, quads
from tests.benchmarks.copies import bases_of, collection
from tests.benchmarks.results import table

NEIGHBOURS = 8
"""Number of recordings that are compared peak by peak with each one, however they were chosen."""
WINDOW_SECONDS = 10.0
LIKENESS = 0.05
"""Jaccard index above which MinHash is tuned to find two sets similar."""
PERMUTATIONS = 128

Quads = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Subject:
    """A recording as the indexes see it."""

    whole: Quads
    """Quads of the whole recording, as `prints.quads` stores them."""
    windows: Sequence[Quads]
    """Quads of windows of ten seconds, which begin every five seconds."""


@dataclass(frozen=True)
class Answer:
    """The recordings that a library finds near each recording, and the size of its index in bytes."""

    near: Sequence[Sequence[int]]
    size: int


def subject(print_: Print) -> Subject:
    """Compute a recording's quads, whole and by windows."""
    length, windows = round(WINDOW_SECONDS * FRAMES_A_SECOND), []
    for begin in range(0, max(int(print_.frames[-1]) - length // 2, 1), length // 2):
        inside = (print_.frames >= begin) & (print_.frames < begin + length)
        windows.append(quads(Print(print_.frames[inside], print_.pitches[inside])))
    return Subject(quads(print_), windows)


def by_duckdb(subjects: Sequence[Subject]) -> Answer:
    """Join quads, as ingest does; the index is the keys themselves."""
    keys = [each.whole for each in subjects]
    found = most_in_common((keys_of(keys[first : first + 512], first) for first in range(0, len(keys), 512)), [])
    near: list[list[int]] = [[] for _ in keys]
    for asked, other in zip(found.asked.tolist(), found.others.tolist(), strict=True):
        near[asked].append(other)
    return Answer(near, sum(each.nbytes for each in keys))


def vectors(sets: Sequence[Quads], width: int) -> npt.NDArray[np.float32]:
    """Map sets to unit vectors whose products estimate what they have in common, by signs at hashed places (K.
    Weinberger et al., ICML 2009)."""
    rows = np.zeros((len(sets), width), np.float32)
    for row, keys in zip(rows, sets, strict=True):
        signs = (keys >> np.uint64(40) & np.uint64(1)).astype(np.float32) * 2 - 1
        np.add.at(row, (keys % np.uint64(width)).astype(np.int64), signs)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return rows


def by_vectors(subjects: Sequence[Subject], share: float) -> Answer:
    """Ask faiss for the nearest vectors of whole recordings (IVF)."""
    rows = vectors([each.whole for each in subjects], 512)
    return _inverted_file(rows, np.arange(len(rows)), len(rows), share)


def by_windows(subjects: Sequence[Subject], share: float) -> Answer:
    """Ask faiss for the nearest vectors of ten seconds (IVF), and count their recordings."""
    owners = np.repeat(np.arange(len(subjects)), [len(each.windows) for each in subjects])
    rows = vectors([one for each in subjects for one in each.windows], 128)
    return _inverted_file(rows, owners, len(subjects), share)


def _inverted_file(rows: npt.NDArray[np.float32], owners: npt.NDArray[np.int64], count: int, share: float) -> Answer:
    """Ask an inverted file whose number of lists is the square root of its entries, as faiss's guide advises.

    Args:
            share: share of its lists that a query looks through (nprobe / nlist); with 1 no list is left out, so that
                    only the limits of the vectors can make it miss anything.
    """
    import faiss

    lists = max(int(np.sqrt(len(rows))), 1)
    index = faiss.index_factory(rows.shape[1], f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(rows[np.random.default_rng(0).permutation(len(rows))[: 40 * lists]])
    index.add(rows)
    index.nprobe = max(round(lists * share), 1)
    _, places = index.search(rows, 4 * NEIGHBOURS)
    return Answer(_most_named(places, owners, count), len(faiss.serialize_index(index)))


def _most_named(places: npt.NDArray[np.int64], owners: npt.NDArray[np.int64], count: int) -> list[list[int]]:
    """Return for each recording the earlier ones that are named most often, nearer ones first."""
    named: list[Counter[int]] = [Counter() for _ in range(count)]
    for owner, row in zip(owners.tolist(), places, strict=True):
        for rank, place in enumerate(row.tolist()):
            if place >= 0 and owners[place] < owner:
                named[owner][int(owners[place])] += len(row) - rank
    return [[other for other, _ in each.most_common(NEIGHBOURS)] for each in named]


def by_bits(subjects: Sequence[Subject]) -> Answer:
    """Ask faiss for the nearest signs of random projections of whole recordings: 1,024 bits each, all compared."""
    import faiss

    draw = np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32)
    bits = np.packbits(vectors([each.whole for each in subjects], 512) @ draw > 0, axis=1)
    index = faiss.IndexBinaryFlat(1024)
    index.add(bits)
    _, places = index.search(bits, 4 * NEIGHBOURS)
    return Answer(_most_named(places, np.arange(len(bits)), len(bits)), len(faiss.serialize_index_binary(index)))


def _low_bits(key: int) -> int:
    """Return the low bits of a key that is already a hash: datasketch's hashes have 32 bits."""
    return key & 0xFFFFFFFF


def by_minhash(subjects: Sequence[Subject]) -> Answer:
    """Ask datasketch's MinHashLSH for recordings with similar sets of quads."""
    from datasketch import MinHash, MinHashLSH

    index, near = MinHashLSH(threshold=LIKENESS, num_perm=PERMUTATIONS), []
    hashes: list[MinHash] = []
    for number, each in enumerate(subjects):
        sketch = MinHash(num_perm=PERMUTATIONS, hashfunc=_low_bits)
        sketch.update_batch(each.whole.tolist())
        candidates = sorted(index.query(sketch), key=lambda other: -sketch.jaccard(hashes[other]))
        near.append(candidates[:NEIGHBOURS])
        index.insert(number, sketch)
        hashes.append(sketch)
    return Answer(near, len(pickle.dumps((index, hashes))))


LIBRARIES: dict[str, Callable[[Sequence[Subject]], Answer]] = {
    "DuckDB, a join of quads": by_duckdb,
    "datasketch MinHashLSH": by_minhash,
    "faiss, 1,024 bits a recording": by_bits,
    "faiss IVF, a vector a recording, 1/16 of its lists": partial(by_vectors, share=1 / 16),
    "faiss IVF, a vector a recording, all its lists": partial(by_vectors, share=1.0),
    "faiss IVF, a vector for ten seconds, 1/16 of its lists": partial(by_windows, share=1 / 16),
    "faiss IVF, a vector for ten seconds, all its lists": partial(by_windows, share=1.0),
}


@dataclass(frozen=True)
class Taken:
    """Cost and answer of a library."""

    answer: Answer
    seconds: float
    memory: int
    """Peak memory in bytes, beyond what there was before it was asked."""


def _ask(name: str, subjects: Sequence[Subject], answers: "Queue[Taken]") -> None:
    Path("/proc/self/clear_refs").write_text("5")  # otherwise the peak would be that of reading the input
    before = _highest_memory()
    begun = time.process_time()
    answer = LIBRARIES[name](subjects)
    seconds = time.process_time() - begun
    answers.put(Taken(answer, seconds, _highest_memory() - before))


def _highest_memory() -> int:
    """Return the peak memory of this process in bytes (Linux)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def ask(name: str, subjects: Sequence[Subject], originals: dict[int, int]) -> list[str]:
    """Ask a library in a process of its own, and return its row of the table."""
    context = multiprocessing.get_context("spawn")
    answers: Queue[Taken] = context.Queue()  # type: ignore[assignment]
    process = context.Process(target=_ask, args=(name, subjects, answers))
    process.start()
    taken = answers.get()
    process.join()
    near = taken.answer.near
    found = sum(original in near[copy] for copy, original in originals.items())
    pairs = sum(map(len, near)) / len(subjects)
    memory, size = taken.memory / 1e6, taken.answer.size / len(subjects) / 1e3
    return [
        name,
        f"{found} of {len(originals)}",
        f"{pairs:.1f}",
        f"{taken.seconds:.1f}",
        f"{memory:,.0f}",
        f"{size:.1f}",
    ]


def main() -> None:
    """Print the table of docs/originality.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("--recordings", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--seconds", type=float, default=240.0)
    arguments = parser.parse_args()
    bases = bases_of(Store(arguments.store))
    heads = ("recordings", "library", "planted found", "pairs each", "CPU s", "memory, MB", "index, kB each")
    for count in arguments.recordings:
        prints, originals = collection(bases, count, arguments.seconds)
        subjects = [subject(each) for each in prints]
        for number, name in enumerate(LIBRARIES):  # each as it is ready: the last take the longest
            rows = table(heads, [[f"{count:,}", *ask(name, subjects, originals)]])
            print("\n".join(rows.splitlines()[2 * (number > 0) :]), flush=True)


if __name__ == "__main__":
    main()
