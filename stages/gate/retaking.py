"""Retakes: takes that did not pass are generated again with other seeds, as the stage `generate` made them."""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

from schemas.tables import Row
from stages.checkpoints.adapter_files import uses_of
from stages.checkpoints.conditions import ConditionReader, clip_frames
from stages.checkpoints.generation import RequestConditions, generate_codes, generation_request
from stages.checkpoints.generation_config import GenerationConfig
from stages.checkpoints.loading import load_checkpoint
from stages.pipeline.contract import Context

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from stages.checkpoints.native import TrainedModel


class Retaker:
    """Generates takes again. The model is loaded, and a request's conditions are read, only when they are needed.

    Args:
        config: the settings that the first tries were generated with.
    """

    def __init__(self, config: GenerationConfig, context: Context) -> None:
        self._config, self._context = config, context
        self._conditions: dict[str, RequestConditions] = {}

    @cached_property
    def _trained(self) -> "TrainedModel":
        context, config = self._context, self._config
        folder = context.weights(config.checkpoint).path
        load = partial(load_checkpoint, folder, context.weights, context.device, config.text_encoder)
        return context.borrow("model", load)

    @cached_property
    def _reader(self) -> ConditionReader:
        return ConditionReader(self._context, self._trained.facts, self._config)

    def read_conditions(self, request: Row) -> None:
        """Read the conditions that a request is generated from, once for all of its takes and retakes.

        Raises:
            RequestRefused: it refers to something that does not exist any more.
        """
        if request["request_id"] not in self._conditions:
            self._reader.read_rows([request])
            self._conditions[request["request_id"]] = self._reader.read(request)

    def generate(self, requests: Sequence[Row], seeds: Sequence[int]) -> "Iterator[tuple[int, Int[Tensor, 'K _']]]":
        """Yield the number of each request and the codes of a take of it, [K, T], made with its seed, as soon as they
        are complete.

        Args:
            requests: requests whose conditions were read; each occurs once for each of its takes that is generated.
            seeds: one for each of the requests.

        Raises:
            Stopped: the run was asked to stop.
        """
        facts, config = self._trained.facts, self._config
        clips = [
            generation_request(
                request,
                self._conditions[request["request_id"]],
                facts,
                frames=clip_frames(facts, request["seconds"]),
                seed=seed,
                guidance_form=config.guidance_form,
            )
            for request, seed in zip(requests, seeds, strict=True)
        ]
        return generate_codes(
            self._context,
            self._trained.model,
            facts,
            clips,
            adapters=[uses_of(request) for request in requests],
            stride=config.stride,
            precision=config.precision,
            cache_precision=config.cache_precision,
        )
