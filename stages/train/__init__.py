"""Training the language model: a transformer over codec codes learns to follow text, melody and other conditions.

MusicGen (arXiv:2306.05284): windows of tracks drawn uniformly, the delay pattern, conditions dropped at random so that
generation can be guided, AdamW, and averaged weights, which are the weights that are kept. Every draw is a function of
the seed, the step and the item, and the state is saved every few steps. So a training that is killed and run again ends
with the same weights; on the CPU they are the same bit for bit. Where there are several GPUs, each has its own process,
and the processes train one model together. Training may start from any checkpoint, and then learn either all weights or
low-rank updates of them.
"""

from collections.abc import Callable

from model.conditioning.captions import MERGED
from schemas import WeightsRef
from schemas.tables import CHECKPOINTS, CHROMA, CLAP, HARMONY, RHYTHM, TOKENS, TRACKS, Table
from schemas.weights import LocalWeights
from stages.checkpoints.loading import named_text_encoder
from stages.pipeline.contract import Context, Dependencies, Preview, ReduceResult
from stages.pipeline.remarks import Remarks
from stages.train.config import CONDITION_TABLES, KINDS, Config

READS, WRITES, VERSION = (TRACKS, CHROMA, RHYTHM, HARMONY, CLAP, TOKENS), CHECKPOINTS, 8
STREAMS = READS

__all__ = ["KINDS", "READS", "STREAMS", "VERSION", "WRITES", "Config", "dependencies", "preview", "reads", "reduce"]


def reads(config: Config) -> tuple[Table, ...]:
    """Return the tables that a training reads; tables of conditions only where the model reads the condition."""
    unread = [table for name, table in CONDITION_TABLES.items() if name not in config.model.conditions]
    return tuple(table for table in READS if table not in unread)


def columns(config: Config) -> dict[str, tuple[str, ...]]:
    """Return the columns of `tracks` that a training reads: those that texts and the model's conditions are made of.
    Other columns may change without making a checkpoint stale."""
    texts = ("description", "paraphrases", *MERGED) if config.model.description or config.joint_text else ()
    read = ("track_id", "split", *texts, *config.model.fields)
    return {TRACKS.name: tuple(name for name in TRACKS.identity or () if name in read)}


def dependencies(config: Config, weights: Callable[[WeightsRef], LocalWeights]) -> Dependencies:
    """Return what a checkpoint depends on: the tables and columns that the model reads, and the configuration.

    Where the recipe names no text encoder but `initial` names one, the configuration gets that one.

    Raises:
        NotTrainedYet: `initial` is yet to be trained by an earlier stage.
        ValueError: `initial` is not a checkpoint, or cannot be fetched.
    """
    if config.initial is not None and config.text_encoder is None and config.model.description is not None:
        config = config.model_copy(update={"text_encoder": named_text_encoder(weights(config.initial).path)})
    return Dependencies(config, (), reads(config), columns(config))


def preview(config: Config, context: Context) -> Preview:
    """Describe the data that would be learned from: hours, splits, conditions, tempi, keys, licences, and what the
    texts hold."""
    from stages.train.data_report import data_report  # imports numpy, which other plans do not need

    report, remarks = data_report(config, context), Remarks()
    report.remark(remarks)
    return Preview(report.lines(), remarks.all())


def reduce(config: Config, context: Context) -> ReduceResult:
    """Train on every GPU of the machine, and return one row of `checkpoints`, together with the rows of `training`.

    Raises:
        ValueError: the data cannot be trained on (none, too short, of another codec, without the conditions that the
            model reads), the loss stays not finite, no weight moved, or more processes are asked for than there can be.
        ProcessFailed, ProcessDied: one of several processes met another error, or died.
        Stopped: the run was asked to stop; the state is saved.
    """
    from stages.train.training import train_language_model  # imports torch, which a plan does not need

    return train_language_model(config, context)
