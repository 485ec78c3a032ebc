"""A store of demo pieces in which the clip of every request is its reference played back, for tests of scores."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from model.chroma import chroma
from schemas import Settings, Store
from schemas.tables import CHROMA, CLAP, CLIPS, GENERATIONS, PIECES, REQUESTS, SCORES, TOKENS, TRACKS, VERDICTS
from schemas.weights import WeightsLibrary
from stages import evaluate
from stages.audio import encode_audio, resample
from stages.checkpoints.codecs import load_codec
from stages.demo.corpus import _piece_row
from stages.demo.synthesis import compose
from stages.demo.synthesis.rendering import render
from stages.evaluate import Config
from stages.networks.clap import load_joint_embedder
from stages.pipeline.contract import Context, Shard
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import run_stage
from tests.worlds.gate_world import passed
from tests.worlds.generation_world import model_config, put_checkpoint
from tests.worlds.tiny_clap import clap_folder
from tests.worlds.tiny_codec import CARDINALITY, FRAME_RATE, codec_folder

VERSIONS = {
    "clips": "p",
    "requests": "r",
    "generations": "g",
    "verdicts": "v",
    "tracks": "t",
    "chroma": "h",
    "clap": "e",
    "tokens": "k",
    "pieces": "d",
}
RATE = 7.8125
COUNT = 4
"""Number of pieces; the first and the last are held out."""
SECONDS = 6.0


class ScoredWorld:
    """A store with demo pieces as tracks; the clip of every request is its reference played back."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(str(folder / "store"))
        self.codec = codec_folder(folder / "codec")
        self.clap = clap_folder(folder / "clap", 6)
        codec, embedder = load_codec(self.codec), load_joint_embedder(self.clap)
        tables: dict[Any, list[dict]] = {
            table: [] for table in (TRACKS, PIECES, CHROMA, CLAP, TOKENS, REQUESTS, GENERATIONS, CLIPS)
        }
        for number in range(COUNT):
            piece = compose(0, number)
            mix = render(piece).sum(0).numpy()[None, : round(SECONDS * 16_000)]
            asked = chroma(torch.from_numpy(resample(mix, 16_000, 32_000)))[0]
            codes = (
                codec.encode_track(torch.from_numpy(resample(mix, 16_000, codec.sample_rate))).numpy().astype(np.uint16)
            )
            track = f"{number:064x}"
            split = "valid" if number in (0, COUNT - 1) else "train"
            self.store.write_bytes(f"demo/{number}.flac", encode_audio(mix, 16_000, "flac"))
            uri = self.store.path(f"demo/{number}.flac")
            described = {"title": piece.title, "artist": piece.artist, "key": piece.key.name, "bpm": piece.tempo}
            described |= {"sample_rate": 16_000, "seconds": piece.seconds}  # the rest of the piece is not needed
            tables[TRACKS].append({"track_id": track, "uri": uri, "split": split, "shard": number % 2} | described)
            tables[PIECES].append(_piece_row(piece, Path(f"{number}.flac"), 16_000) | {"uri": uri})
            windows = embedder.embed_audio(mix, 16_000, 10.0)
            tables[CLAP].append({"track_id": track, "starts": windows.starts, "embeddings": list(windows.embeddings)})
            tables[CHROMA].append({"track_id": track, "frame_rate": RATE, "chroma": list(asked.numpy())})
            tables[TOKENS].append(
                {"track_id": track, "frame_rate": FRAME_RATE, "cardinality": CARDINALITY, "codes": list(codes)}
            )
            key = {"request_id": f"{number:016x}", "take": 1}
            tables[REQUESTS].append(
                {"request_id": key["request_id"], "line": number + 2, "seconds": SECONDS, "seed": number, "shard": 0}
                | {"melody": f"track:{track}" if number < 3 else None, "description": "slow jazz piano", "takes": 1}
                | {
                    "guidance": 3.0,
                    "temperature": 1.0,
                    "top_k": 250,
                    "top_p": 0.0,
                    "key": piece.key.name,
                    "bpm": piece.tempo,
                }
            )
            with_melody = {"chroma_frame_rate": RATE, "chroma": list(asked.numpy())} if number < 3 else {}
            tables[GENERATIONS].append(
                key
                | {"checkpoint_id": "one", "frame_rate": FRAME_RATE, "cardinality": CARDINALITY, "seed": number}
                | {"frames": codes.shape[1], "prompt_frames": 0, "codes": list(codes)}
                | with_melody
            )
            path = f"audio/version=p/{key['request_id']}-0.flac"
            self.store.write_bytes(path, encode_audio(mix, 16_000, "flac"))
            tables[CLIPS].append(key | {"checkpoint_id": "one", "path": path, "silence": 0.25, "clipping": 0.0})
        for table, rows in tables.items():
            # The tables of tracks have two shards, those of requests one.
            for shard in {"0", "1"} if table in (TRACKS, CHROMA, CLAP, TOKENS) else {"0"}:
                own = [
                    row
                    for n, row in enumerate(rows)
                    if len(rows) and (n % 2 == int(shard) or table in (PIECES, REQUESTS, GENERATIONS, CLIPS))
                ]
                shown = pa.Table.from_pylist(own, schema=table.schema)
                self.store.write_shard(table, VERSIONS[table.name], shard, shown, "made by a test")
        self.store.write_shard(VERDICTS, VERSIONS[VERDICTS.name], "0", passed(tables[GENERATIONS]), "made by a test")
        put_checkpoint(self.store, folder, "one", model_config())

    def config(self, **changes: Any) -> Config:
        values = {"codec": str(self.codec), "clap": str(self.clap), "vocabulary": None} | changes
        return Config.model_validate(values)

    def context(self, version: str = "s") -> Context:
        settings = Settings(store=self.store.url, device="cpu", max_refused=1.0)
        return Context(self.store, settings, "run", "evaluate", version, VERSIONS, WeightsLibrary(self.store))

    def parts(self, **changes: Any) -> Generator[Shard, None, None]:
        """The parts that the stage yields for the shard of clips."""
        context = self.context()
        tables = [context.rows(table) for table in evaluate.READS]
        yield from evaluate.shard(self.config(**changes), context, *tables)

    def run(self, version: str = "s", **changes: Any) -> dict[int, dict]:
        """Scores by the number of the request."""
        run_stage(ConfiguredStage("evaluate", evaluate, self.config(**changes)), self.context(version))
        return {int(row["request_id"], 16): row for row in self.store.read(SCORES, version).to_pylist()}
