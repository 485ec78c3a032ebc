"""One step of training against transformers' MusicGen on the same weights: `python -m tests.benchmarks.training`.

The published decoder 512 wide with 8 layers, examples of 500 frames. Both learn by the same AdamW, clipped to the same
norm; losses and gradients are checked equal before anything is timed, and the two take turns. Floors are what the
step's matrix products alone would take at the rate that the device multiplies large matrices, in the same run.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import MusicgenForCausalLM
from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig

from model.conditioning.configuration import ChromaConfig, MusicModelConfig
from model.configuration import LanguageModelConfig
from model.hugging_face_names import to_hugging_face
from model.learning import OptimizationConfig
from model.music_model import Attributes, MusicModel
from model.objective import Batch, Precision, accumulate_gradients
from model.training import Optimization
from model.utilisation import matmul_rate, training_flops

FRAMES, CONDITION_LENGTH = 500, 16
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
"""Largest distance of a gradient from the peer's, by the gradient's own norm."""


class Both:
    """The two models, of the same weights, with an example batch and what moves them."""

    def __init__(self, batch: int, precision: Precision) -> None:
        torch.manual_seed(0)
        decoder = LanguageModelConfig(width=512, layers=8, heads=8, cross=("chroma",))
        settings = MusicModelConfig(
            language_model=decoder, description=None, chroma=ChromaConfig(frames=CONDITION_LENGTH)
        )
        self.precision, self.decoder = precision, decoder
        self.ours = MusicModel(settings).train()
        peer = MusicgenDecoderConfig(
            vocab_size=2048,
            num_codebooks=4,
            hidden_size=512,
            num_hidden_layers=8,
            num_attention_heads=8,
            ffn_dim=2048,
            dropout=0.0,
            layerdrop=0.0,
            pad_token_id=2048,
            bos_token_id=2048,
        )
        self.theirs = MusicgenForCausalLM(peer).train()
        weights = to_hugging_face(self.ours.weights())
        named = {name.removeprefix("decoder."): weight for name, weight in weights.items() if "decoder." in name}
        self.theirs.load_state_dict(named, strict=False)
        codes = torch.randint(2048, (batch, 4, FRAMES))
        melodies = torch.eye(12)[torch.randint(12, (batch, CONDITION_LENGTH))]
        self.batch = Batch(codes, torch.full((batch,), FRAMES), [Attributes(chroma=melody) for melody in melodies])
        sequence = self.ours.language_model.pattern(FRAMES).build(codes, 2048, "valid")
        self.inputs = sequence[:, :, :-1].reshape(batch * 4, -1)
        self.labels = sequence[:, :, 1:].transpose(1, 2).clone()  # transformers leaves out its padding token
        with torch.no_grad():
            embedded = self.ours.condition(self.ours.prepare(self.batch.attributes))
        self.source = embedded["chroma"].embedding
        self.optimization = Optimization(self.ours, OptimizationConfig(precision=precision, warmup_steps=0))
        self.adam = torch.optim.AdamW(self.theirs.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)

    def gradients_of_ours(self) -> Tensor:
        return accumulate_gradients(self.ours, self.batch, len(self.batch.codes), self.precision).mean()

    def gradients_of_theirs(self) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
            found = self.theirs(input_ids=self.inputs, encoder_hidden_states=self.source, labels=self.labels)
        found.loss.backward()
        return found.loss.detach()

    def step_of_ours(self) -> None:
        self.gradients_of_ours()
        self.optimization.update()

    def step_of_theirs(self) -> None:
        self.gradients_of_theirs()
        nn.utils.clip_grad_norm_(self.theirs.parameters(), 1.0)
        self.adam.step()
        self.adam.zero_grad()

    def check(self) -> str:
        """Losses and gradients are the same, but for rounding: how close they are, in words."""
        ours, theirs = float(self.gradients_of_ours()), float(self.gradients_of_theirs())
        gradients = {name: value.grad for name, value in self.ours.named_parameters() if value.grad is not None}
        renamed = to_hugging_face(gradients)
        distances = [
            float((renamed[f"decoder.{name}"] - value.grad).norm() / value.grad.norm())
            for name, value in self.theirs.named_parameters()
            if value.grad is not None
        ]
        self.ours.zero_grad()
        self.theirs.zero_grad()
        if abs(ours - theirs) > 1e-3 or max(distances) > TOLERANCE[self.precision]:
            raise SystemExit(f"expected equal losses and gradients, got {ours} and {theirs}, {max(distances)} apart")
        return f"losses {ours:.5f} and {theirs:.5f}, gradients at most {max(distances):.1e} apart"


def median_seconds(
    steps: dict[str, Callable[[], None]], repetitions: int, clock: Callable[[], float]
) -> dict[str, float]:
    """What each takes by a clock, all taking turns after one of each that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repetition in range(repetitions + 1):
        for name, step in steps.items():
            begun = clock()
            step()
            if repetition:
                seconds[name].append(clock() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    """Print a line a precision, for RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=2, help="examples a step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--processors",
        action="store_true",
        help="seconds of the processors, which say more on a busy machine (1 thread)",
    )
    given = parser.parse_args()
    clock = time.process_time if given.processors else time.perf_counter
    torch.set_num_threads(given.threads)
    print(
        f"{given.threads} threads of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}"
    )
    print("| precision | transformers, s | here, s | ratio | floor of the products, s | share of the matmul rate |")
    print("| --- | --- | --- | --- | --- | --- |")
    for precision in PRECISIONS:
        both = Both(given.batch, precision)
        checked = both.check()
        rate = matmul_rate(torch.device("cpu"), getattr(torch, precision))
        found = median_seconds({"theirs": both.step_of_theirs, "ours": both.step_of_ours}, given.repetitions, clock)
        floor = given.batch * training_flops(both.decoder, FRAMES) / rate
        theirs, ours = found["theirs"], found["ours"]
        figures = f"{theirs:.3f} | {ours:.3f} | {theirs / ours:.2f} | {floor:.3f} | {floor / ours:.0%}"
        print(f"| {precision} | {figures} |  <!-- {checked}; {rate / 1e9:.0f} GFLOP/s -->", flush=True)


if __name__ == "__main__":
    main()
