"""Stand-ins for published weights, trained here: a separator, a CLAP and a text encoder, for machines with no network.

Each is written in the format that the loaders of the published weights read, so that nothing else differs. A model that
is in the store already, from a run that was killed later, is not trained again."""

import importlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from schemas.tables import CHECKPOINTS
from schemas.weights import folder_digest
from stages.checkpoints.rows import TrainingSummary, checkpoint_row, model_folder
from stages.demo.config import DemoModelsConfig as Config
from stages.pipeline.contract import Context, ReduceResult
from stages.pipeline.threads import computing_threads

if TYPE_CHECKING:
    from stages.demo.training import TrainingMusic

__all__ = ["KINDS", "READS", "VERSION", "WRITES", "Config", "reduce"]

READS, WRITES, VERSION = (), CHECKPOINTS, 5
KINDS = ("separator", "clap", "text_encoder")

AT_ONCE = 2
"""The first this many of `KINDS` are trained at the same time: networks as small as these do not become faster with a
second thread."""

FACTS = "training.json"
"""File beside a model's weights with the results of its training, for a later run that finds the model finished."""


class _Trainer:
    """One run of the stage. Torch is loaded, and the music of a sample rate is made, only when the first model needs
    it."""

    def __init__(self, config: Config, context: Context) -> None:
        self.config, self.context = config, context
        self._music: dict[int, TrainingMusic] = {}
        self._playing = Lock()

    def music(self, sample_rate: int) -> "TrainingMusic":
        from stages.demo.training import make_music

        config = self.config
        with self._playing:
            if sample_rate not in self._music:
                self._music[sample_rate] = make_music(
                    self.context, config.seed, config.pieces, config.held_out, sample_rate
                )
            return self._music[sample_rate]

    def separator(self, folder: Path) -> TrainingSummary:
        from model.optim.train_state import step_seed
        from stages.demo import separator

        config = self.config.separator
        music = self.music(config.sample_rate)
        on_step = self._steps("training the separator", config.training.optimization.steps)
        network = separator.train_separator(config, music, step_seed(self.config.seed, 1), self.context.device, on_step)
        separator.save_separator(network, folder)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        metrics = separator.evaluate_separator(folder, music, self.context.device)
        return TrainingSummary(config.training.optimization.steps, parameters, self.config.pieces, metrics)

    def clap(self, folder: Path) -> TrainingSummary:
        from model.optim.train_state import step_seed
        from stages.demo import clap

        config, music = self.config.clap, self.music(self.config.sample_rate)
        on_step = self._steps("training CLAP", config.training.optimization.steps)
        trained = clap.train_clap(config, music, step_seed(self.config.seed, 2), self.context.device, on_step)
        clap.save_clap(trained, folder)
        parameters = sum(parameter.numel() for parameter in trained.model.parameters())
        metrics = clap.evaluate_clap(folder, music, self.context.device)
        return TrainingSummary(config.training.optimization.steps, parameters, self.config.pieces, metrics)

    def text_encoder(self, folder: Path) -> TrainingSummary:
        from model.optim.train_state import step_seed
        from stages.demo.text_encoder import save_text_encoder

        parameters = save_text_encoder(self.config.text_encoder, step_seed(self.config.seed, 3), folder)
        return TrainingSummary(0, parameters, 0, {})

    def _steps(self, what: str, steps: int) -> Callable[[int, float], None]:
        self.context.progress.start(what, steps, "steps")

        def on_step(step: int, loss: float) -> None:
            self.context.check_stopped()
            self.context.progress.advance(1, f"loss {loss:.3f}")

        return on_step


def reduce(config: Config, context: Context) -> ReduceResult:
    """Train the models that are missing, and return a row of `checkpoints` for each model.

    Raises:
        ValueError: the sizes do not fit together, or a training does not stay finite.
        Stopped: the run was asked to stop; finished models are kept.
    """
    # Before the threads start: if two import transformers at once, one may get a module that is only partly loaded.
    for name in ("clap", "separator"):
        importlib.import_module(f"stages.demo.{name}")
    trainer = _Trainer(config, context)
    trainings = dict(zip(KINDS, (trainer.separator, trainer.clap, trainer.text_encoder), strict=True))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        rows = list(pool.map(lambda kind: _row(context, kind, trainings[kind]), KINDS[:AT_ONCE]))
    # Not beside CLAP: while CLAP is loaded for its evaluation, transformers draws no initial weights in this process.
    return ReduceResult([*rows, *(_row(context, kind, trainings[kind]) for kind in KINDS[AT_ONCE:])])


def _row(context: Context, kind: str, train: Callable[[Path], TrainingSummary]) -> dict[str, Any]:
    """Train a model, unless it is in the store, and return its row."""
    context.check_stopped()
    checkpoint_id = f"{context.identity}-{kind.replace('_', '-')}"
    path = model_folder(checkpoint_id)
    if not context.store.exists(f"{path}/{FACTS}"):
        with computing_threads(context.settings, AT_ONCE), context.store.new_folder(path) as folder:
            summary = train(folder)
            (folder / FACTS).write_text(json.dumps(summary.__dict__, indent=2) + "\n", encoding="utf-8")
    local = context.store.local(path)
    summary = TrainingSummary(**json.loads((local / FACTS).read_text(encoding="utf-8")))
    return checkpoint_row(context, checkpoint_id, kind, folder_digest(local), summary)
