"""A stage that maps tracks to chroma by the content of their text files: a number, or a way to fail.

`fail`: a wrong value. `flaky`: a connection lost the first time. `full`: a full disk. `wait`: works until it is told to
stop. `kill`: the process is killed the first time. Each try adds a line to `<file>.tries`. The stage's model is the id
of the process that loads it, which is added to `loads`.
"""

import errno
import os
import signal
import time
from functools import partial
from pathlib import Path

from schemas import Config as BaseConfig
from schemas.tables import CHROMA, TRACKS
from stages.pipeline.contract import Shard

READS, WRITES, VERSION = (TRACKS,), CHROMA, 1


class Config(BaseConfig):
    scale: float = 1.0


def shard(config, context, tracks):
    context.progress.start("tiny", tracks.num_rows, "files")
    context.borrow("model", partial(_load, Path(context.settings.source) / "loads"))
    for row in tracks.to_pylist():
        word, tries = Path(row["uri"]).read_text(), _count_try(Path(row["uri"]))
        if word == "fail":
            raise ValueError(f"expected a number in {row['track_id']}, got 'fail'")
        if word == "flaky" and tries == 1:
            raise ConnectionResetError("the connection was lost")
        if word == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        if word == "kill" and tries == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        while word == "wait":
            context.check_stopped()
            time.sleep(0.02)
        number = 0.0 if word in ("flaky", "kill") else float(word)
        context.progress.advance()
        yield Shard([{"track_id": row["track_id"], "frame_rate": number * config.scale, "chroma": []}])


def _load(record):
    with open(record, "a") as lines:
        lines.write(f"{os.getpid()}\n")
    return os.getpid()


def _count_try(file):
    record = file.with_suffix(".tries")
    with open(record, "a") as lines:
        lines.write("try\n")
    return len(record.read_text().splitlines())
