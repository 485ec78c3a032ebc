"""Requests as the tasks that they become before they are decoded."""

from collections.abc import Sequence

import pytest
from torch import Tensor

from model.decoding import Task, generation
from model.decoding.generation import GenerationRequest, generate
from model.lm.language_model import LanguageModel
from model.music_model import MusicModel


def tasks_of(model: MusicModel, requests: list[GenerationRequest]) -> list[Task]:
    """The tasks of these requests."""
    seen: list[Task] = []

    def listen(model: LanguageModel, tasks: Sequence[Task], *_: object) -> list[Tensor]:
        seen.extend(tasks)
        return [task.sequence.clamp(min=0) for task in tasks]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "complete", listen)
        generate(model, requests)
    return seen
