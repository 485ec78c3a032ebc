"""One step of training against transformers' MusicGen on the same weights: `python -m tests.benchmarks.training`.

On a processor the decoder is 512 wide with 8 layers and examples have 500 frames; on an accelerator it is
musicgen-small's, and examples have the 1,500 frames of 30 seconds. Both learn by the same AdamW, clipped to the same
norm; losses and gradients are checked equal before anything is timed, and the two take turns. The limit is what the
step's matrix products alone would take at the rate that the device multiplies large matrices, in the same run; a share
of it is the model FLOPs utilisation.
"""

import argparse
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import MusicgenForCausalLM
from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig

from model.conditioning.config import MelodyConfig, MusicModelConfig
from model.kernels.choosing import ProcessMemory
from model.kernels.float32_products import choose_products
from model.lm.config import LanguageModelConfig
from model.music_model import Attributes, MusicModel
from model.objective import Batch, LossModule, MicroBatch, accumulate_gradients
from model.optim.config import OptimizationConfig, TrainingPrecision
from model.optim.mfu import training_flops
from model.optim.precision import is_single
from model.optim.train_state import TrainState
from stages.checkpoints.huggingface.names import weights_to_hugging_face
from tests.benchmarks.limits import limits
from tests.benchmarks.results import Figure, Report
from tests.benchmarks.running import alone, options
from tests.benchmarks.timing import clock_of, median_seconds

CONDITION_LENGTH = 16
PRECISIONS: tuple[TrainingPrecision, ...] = ("float32", "bfloat16")
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
"""Largest distance of a gradient from the peer's, relative to the gradient's norm."""
RATIO_GOALS = {"float32": 1.5, "bfloat16": 2.0}
"""Goals on a processor: the speed relative to transformers."""
UTILISATION_GOALS = {"float32": None, "bfloat16": 45.0}
"""Goals on an accelerator: utilisation in per cent."""


@dataclass(frozen=True)
class Size:
    """Sizes of the decoder and of a step."""

    width: int
    layers: int
    heads: int
    frames: int
    examples: int


SIZES = {"small": Size(64, 2, 2, 20, 2), "cpu": Size(512, 8, 8, 500, 4), "cuda": Size(1024, 24, 16, 1500, 16)}


class Both:
    """The two models, with the same weights, an example batch and their optimisers."""

    def __init__(self, size: Size, precision: TrainingPrecision, device: str) -> None:
        torch.manual_seed(0)
        decoder = LanguageModelConfig(width=size.width, layers=size.layers, heads=size.heads, cross=("chroma",))
        settings = MusicModelConfig(
            language_model=decoder, description=None, chroma=MelodyConfig(frames=CONDITION_LENGTH)
        )
        self.precision, self.decoder, self.device = precision, decoder, torch.device(device)
        self.ours = MusicModel(settings).train()
        peer = MusicgenDecoderConfig(
            vocab_size=2048,
            num_codebooks=4,
            hidden_size=size.width,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            ffn_dim=4 * size.width,
            dropout=0.0,
            layerdrop=0.0,
            pad_token_id=2048,
            bos_token_id=2048,
        )
        self.theirs = MusicgenForCausalLM(peer).train()
        weights = weights_to_hugging_face(self.ours.weights())
        named = {name.removeprefix("decoder."): weight for name, weight in weights.items() if "decoder." in name}
        self.theirs.load_state_dict(named, strict=False)
        codes = torch.randint(2048, (size.examples, 4, size.frames))
        melodies = torch.eye(12)[torch.randint(12, (size.examples, CONDITION_LENGTH))]
        attributes = [Attributes(chroma=melody) for melody in melodies]
        self.ours.to(self.device)
        self.theirs.to(self.device)
        self.products = "torch" if precision == "bfloat16" else choose_products(self.ours, ProcessMemory())
        batch = Batch(codes, torch.full((size.examples,), size.frames), attributes).prepared(self.ours)
        self.micro_batch = MicroBatch(batch, torch.ones(4), seed=0)
        self.loss_module = LossModule(self.ours, precision)
        sequence = self.ours.language_model.pattern(size.frames).build(codes, 2048, "valid")
        self.inputs = sequence[:, :, :-1].reshape(size.examples * 4, -1).to(self.device)
        # transformers leaves out its padding token
        self.labels = sequence[:, :, 1:].transpose(1, 2).clone().to(self.device)
        with torch.no_grad():
            embedded = self.ours.condition(self.ours.prepare(attributes))
        self.source = embedded["chroma"].embedding
        self.train_state = TrainState(self.ours, OptimizationConfig(precision=precision, warmup_steps=0))
        self.adam = torch.optim.AdamW(self.theirs.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)

    def gradients_of_ours(self) -> Tensor:
        return accumulate_gradients(self.loss_module, [self.micro_batch]).mean()

    def gradients_of_theirs(self) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            found = self.theirs(input_ids=self.inputs, encoder_hidden_states=self.source, labels=self.labels)
        found.loss.backward()
        loss: Tensor = found.loss
        return loss.detach()

    def step_of_ours(self) -> None:
        self.gradients_of_ours()
        self.train_state.step()

    def step_of_theirs(self) -> None:
        self.gradients_of_theirs()
        nn.utils.clip_grad_norm_(self.theirs.parameters(), 1.0)
        self.adam.step()
        self.adam.zero_grad()

    def check(self) -> str:
        """Check that losses and gradients are equal except for rounding; return how close they are, in words."""
        ours, theirs = float(self.gradients_of_ours()), float(self.gradients_of_theirs())
        gradients = {name: value.grad for name, value in self.ours.named_parameters() if value.grad is not None}
        renamed = weights_to_hugging_face(gradients)
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


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = options(__doc__)
    parser.add_argument("--examples", type=int, help="of a step; 4, or 16 on cuda")
    parser.add_argument("--repetitions", type=int, default=5)
    return parser


def measure(args: argparse.Namespace) -> Report:
    """Measure the time of a step in each precision, or the utilisation of an accelerator."""
    torch.set_num_threads(args.threads)
    clock, kind = clock_of(args.device, args.cpu_time), torch.device(args.device).type
    size = SIZES["small" if args.small else kind]
    size = replace(size, examples=args.examples or size.examples)
    machine = limits(args.device)
    report = Report("Training step, clipping and AdamW included", "transformers")
    emulated = kind == "cpu" and is_single(torch.device(args.device), "bfloat16")
    for precision in PRECISIONS[:1] if emulated else PRECISIONS:
        both = Both(size, precision, args.device)
        equal = both.check()
        times = median_seconds(
            {"theirs": both.step_of_theirs, "ours": both.step_of_ours}, 1 if args.small else args.repetitions, clock
        )
        least = size.examples * training_flops(both.decoder, size.frames) / getattr(machine, precision)
        if kind == "cpu":
            figure = Figure(
                precision,
                "s a step",
                times["ours"],
                "less",
                peer=times["theirs"],
                ratio_goal=RATIO_GOALS[precision],
                limit=least,
                equal=equal,
            )
        else:
            figure = Figure(
                precision,
                "% of the matmul rate",
                100 * least / times["ours"],
                "more",
                peer=100 * least / times["theirs"],
                goal=UTILISATION_GOALS[precision],
                limit=100.0,
                equal=equal,
            )
        report.add(figure)
        del both
    report.say(
        f"{size.width} wide, {size.layers} layers, {size.examples} examples of {size.frames} frames. The limit is the "
        f"time of the matrix products. {machine}."
    )
    if emulated:
        report.say(
            "bfloat16 is left out: this processor has no instructions for it, a training that asks for it computes in "
            "float32, and transformers' step would be emulated."
        )
    return report


if __name__ == "__main__":
    alone(arguments(), measure)
