"""transformers' MusicGen of the published small shape with random weights, and this project's model of the same
weights, for the benchmark of generation."""

import time
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import EncodecConfig, MusicgenConfig, MusicgenForConditionalGeneration, T5Config
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig

from model.decoding import DecodingOptions
from model.decoding.generation import GenerationRequest, generate_conditioned
from model.kernels.choosing import ProcessMemory
from model.lm.config import LanguageModelConfig, Precision
from model.lm.fuser import Condition
from model.lm.language_model import LanguageModel
from model.music_model import Attributes
from stages.checkpoints.huggingface.names import weights_from_hugging_face
from tests.benchmarks.timing import Clock

GUIDANCE = 3.0
TEXT_LENGTH = 16
"""Number of vectors of a description."""
PREFIX = "language_model."


@dataclass(frozen=True)
class Run:
    """Codes [B, K, T] of a run, and the time of each of its steps, s."""

    codes: Tensor
    step_seconds: list[float]
    ready_seconds: float
    """Seconds until the first step was done."""
    seconds: float
    """Seconds of the whole call, until the device was done with it."""


KERNEL_MEMORY = ProcessMemory()
"""The kernels chosen for our model, once for all runs."""


class _Clock(StoppingCriteria):
    """Records when transformers had the codes of each step."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.times = clock, list[float]()

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        self.times.append(self.clock())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def peers(small: bool = False) -> tuple[MusicgenForConditionalGeneration, LanguageModel]:
    """Both models, with the same weights; `small` is for trying the benchmark itself."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "ffn_dim": 4096}
    if small:
        sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 256}
    width = sizes["hidden_size"]
    text = T5Config(vocab_size=8, d_model=width, d_kv=4, d_ff=4, num_layers=1, num_heads=1)
    codec = EncodecConfig(num_filters=2, hidden_size=8, codebook_dim=8, codebook_size=2048, upsampling_ratios=[2, 2])
    decoder = MusicgenDecoderConfig(vocab_size=2048, num_codebooks=4, **sizes)
    theirs = MusicgenForConditionalGeneration(MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=decoder))
    theirs.eval()
    settings = theirs.generation_config
    settings.bos_token_id = settings.pad_token_id = settings.decoder_start_token_id = 2048
    settings.num_return_sequences = 1
    config = LanguageModelConfig(width=width, layers=sizes["num_hidden_layers"], heads=sizes["num_attention_heads"])
    with torch.device("meta"):
        ours = LanguageModel(config)
    shapes = {PREFIX + name: tensor.shape for name, tensor in ours.state_dict().items()}
    tensors = {f"decoder.{name}": tensor for name, tensor in theirs.decoder.state_dict().items()}
    weights = weights_from_hugging_face(
        {name: tensors[name] for name in tensors if "embed_positions" not in name}, shapes
    )
    ours.load_state_dict({name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}, assign=True)
    return theirs, ours.eval()


@torch.no_grad()
def round_to_float16(model: torch.nn.Module) -> None:
    """Round all float32 weights of a model to the nearest numbers of float16."""
    for weight in model.parameters():
        weight.copy_(weight.half())


def descriptions(batch: int, width: int) -> Tensor:
    """Different embedded descriptions [B, L, D], one a clip."""
    return torch.randn((batch, TEXT_LENGTH, width), generator=torch.Generator().manual_seed(1))


def generate_theirs(model: MusicgenForConditionalGeneration, batch: int, frames: int, clock: Clock) -> Run:
    """Greedy codes by transformers' own `generate`, without text encoder and codec."""
    device = model.device
    embeddings = descriptions(batch, model.config.decoder.hidden_size).to(device)
    heard: list[Tensor] = []
    ticks, begun = _Clock(_without_waiting(clock, device)), clock()

    def listen(audio_codes: Tensor, **_: object) -> SimpleNamespace:
        heard.append(audio_codes[0])
        return SimpleNamespace(audio_values=torch.zeros(batch, 1, 1, device=device))

    def embed(input_ids: Tensor, attention_mask: Tensor, **_: object) -> BaseModelOutput:
        return BaseModelOutput(embeddings)

    with (
        torch.inference_mode(),
        patch.object(model.text_encoder, "forward", embed),
        patch.object(model.audio_encoder, "decode", listen),
    ):
        model.generate(
            torch.zeros((batch, TEXT_LENGTH), dtype=torch.long, device=device),
            attention_mask=torch.ones((batch, TEXT_LENGTH), dtype=torch.long, device=device),
            guidance_scale=GUIDANCE,
            do_sample=False,
            max_length=frames + 4,
            stopping_criteria=StoppingCriteriaList([ticks]),
        )
    return Run(heard[0].cpu(), _between(ticks.times), ticks.times[0] - begun, clock() - begun)


def generate_ours(model: LanguageModel, batch: int, frames: int, precision: Precision, clock: Clock) -> Run:
    """Greedy codes by this project's engine."""
    times: list[float] = []
    read = _without_waiting(clock, model.device)

    def tick() -> bool:
        times.append(read())
        return False

    begun = clock()
    requests = [GenerationRequest(Attributes(), frames, seed=0, guidance=GUIDANCE, temperature=0.0)] * batch
    embeddings = [[both_ways(one[None])] for one in descriptions(batch, model.config.width).to(model.device)]
    codes = generate_conditioned(
        model, requests, embeddings, DecodingOptions(precision, tick, kernel_memory=KERNEL_MEMORY)
    )
    return Run(torch.stack(codes), _between(times), times[0] - begun, clock() - begun)


def both_ways(embedded: Tensor) -> dict[str, Condition]:
    """A description [1, L, D] and its null; the null's vectors are read like any others, as in transformers."""
    vectors = torch.cat([embedded, torch.zeros_like(embedded)])
    return {"description": Condition(vectors, torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device))}


def _without_waiting(clock: Clock, device: torch.device) -> Clock:
    """A clock for reading at every step: the host's, if reading the given clock would wait for the device."""
    return time.perf_counter if device.type == "cuda" else clock


def _between(times: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]
