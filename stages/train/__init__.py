"""Training the language model: a transformer over codec codes learns to follow text, melody and other conditions.

MusicGen (arXiv:2306.05284): windows of tracks drawn uniformly, the delay pattern, conditions dropped at random so that
generation can be guided, AdamW, and averaged weights, which are the ones that are kept. Every draw is a function of the
seed, the step and the item, and the state is kept every few steps: a training that was killed and run again ends with
the same weights, on the CPU bit for bit. Where there are several GPUs, each has a process of its own, and they train
one model together. It may start from any checkpoint, and then learn all weights or low-rank updates of them.
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
    """Return the tables that a training reads: of those of conditions the model's."""
    unread = [table for name, table in CONDITION_TABLES.items() if name not in config.model.conditions]
    return tuple(table for table in READS if table not in unread)


def columns(config: Config) -> dict[str, tuple[str, ...]]:
    """Return the columns of `tracks` that a training reads, whatever else is written there: what texts and conditions
    are made of, where the model reads them."""
    texts = ("description", "paraphrases", *MERGED) if config.model.description or config.joint_text else ()
    read = ("track_id", "split", *texts, *config.model.fields)
    return {TRACKS.name: tuple(name for name in TRACKS.identity or () if name in read)}


def dependencies(config: Config, weights: Callable[[WeightsRef], LocalWeights]) -> Dependencies:
    """Leave out the tables of conditions that the model does not read, and what else is said of tracks; name the text
    encoder that `initial` only names, where the recipe leaves it to that.

    Raises:
        NotTrainedYet: an earlier stage is still to train `initial`.
        ValueError: it is no checkpoint, or cannot be had.
    """
    if config.initial is not None and config.text_encoder is None and config.model.description is not None:
        config = config.model_copy(update={"text_encoder": named_text_encoder(weights(config.initial).path)})
    return Dependencies(config, (), reads(config), columns(config))


def preview(config: Config, context: Context) -> Preview:
    """Tell what would be learned from: hours, splits, conditions, tempi, keys, licences, and what the texts hold."""
    from stages.train.data_report import data_report  # with numpy, which other plans do without

    report, remarks = data_report(config, context), Remarks()
    report.remark(remarks)
    return Preview(report.lines(), remarks.all())


def reduce(config: Config, context: Context) -> ReduceResult:
    """Train, on every GPU of the machine, and return one row of `checkpoints` with the rows of `training` beside it.

    Raises:
        ValueError: the data cannot be trained on (none, too short, of another codec, without the conditions that the
            model reads), the loss stays not finite, no weight moved, or more processes are asked for than there can be.
        ProcessFailed, ProcessDied: one of several processes met another error, or died.
        Stopped: the run was asked to stop; the state is kept.
    """
    from stages.train.training import train_language_model  # with torch, which a plan does without

    return train_language_model(config, context)
