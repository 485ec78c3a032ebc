"""AudioCraft's language model: patterns, logits, losses, gradients, greedy tokens, distributions."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from pack import Facts, Pack, Packs, Tensors, put
from torch import Tensor, nn

SETTINGS = (
    *("dim", "num_heads", "num_layers", "hidden_scale", "card", "n_q", "norm", "norm_first", "bias_proj", "bias_ff"),
    *("bias_attn", "activation", "causal", "positional_embedding", "max_period", "positional_scale", "layer_scale"),
    *("dropout", "memory_efficient", "cross_attention", "xpos", "qk_layer_norm", "past_context", "custom", "kv_repeat"),
)
"""The settings of a pack that are passed to AudioCraft's language model unchanged."""


class FixedConditions(nn.Module):
    """A provider of conditions that returns tensors of a pack, one set a call, in their order."""

    def __init__(self, answers: list[dict[str, tuple[Tensor, Tensor]]]) -> None:
        super().__init__()
        self.answers = list(answers)

    def tokenize(self, attributes: Any) -> Any:
        return attributes

    def forward(self, tokenized: Any) -> dict[str, tuple[Tensor, Tensor]]:
        return self.answers.pop(0)


def pattern_provider(case: Facts, codebooks: int) -> Any:
    """Return AudioCraft's provider for a pattern named by a pack."""
    from audiocraft.modules import codebooks_patterns as patterns

    kinds = {
        "delay": patterns.DelayedPatternProvider,
        "partial_stereo": patterns.DelayedPatternProvider,
        "parallel": patterns.ParallelPatternProvider,
        "unroll": patterns.UnrolledPatternProvider,
        "coarse_first": patterns.CoarseFirstPattern,
        "musiclm": patterns.MusicLMPattern,
    }
    kind = next(provider for name, provider in kinds.items() if case["provider"].startswith(name))
    return kind(codebooks, **case["args"])


def build_model(facts: Facts, case: Facts, weights: Tensors, conditions: list[Any] | None = None) -> Any:
    """Return AudioCraft's language model with the weights and settings of a case."""
    from audiocraft.models.lm import LMModel
    from audiocraft.modules.conditioners import ConditionFuser

    named: dict[str, Facts] = {
        "delay": {"provider": "delay", "args": {"delays": facts["delays"]}},
        "delay[0,0,1,1,2,2,3,3]": {"provider": "delay", "args": {"delays": [0, 0, 1, 1, 2, 2, 3, 3]}},
        "parallel": {"provider": "parallel", "args": {}},
        "unroll": {"provider": "unroll", "args": {}},
        "coarse_first": {"provider": "coarse_first", "args": {}},
        "musiclm(group_by=2)": {"provider": "musiclm", "args": {"group_by": 2}},
    }
    fusions = {how: [] for how in ("sum", "prepend", "cross", "input_interpolate")} | case.get("fuse2cond", {})
    settings = {name: facts[name] for name in SETTINGS if name in facts} | case.get("overrides", {})
    model = LMModel(
        pattern_provider(named[case.get("pattern", "delay")], settings["n_q"]),
        FixedConditions(conditions or []),
        ConditionFuser(fusions, cross_attention_pos_emb=case.get("cross_attention_pos_emb", False)),
        cfg_coef=3.0,
        **settings,
    )
    model.load_state_dict(weights)
    return model.eval()


def model_of(packs: Packs, case: Facts, conditions: list[Any] | None = None) -> Any:
    """Return the model of a case that names its pack of weights."""
    pack = packs(case["weights"])
    return build_model(pack.facts["config"], case, pack.given_under(""), conditions)


def make_weights(pack: Pack, packs: Packs) -> None:
    """Copy the weights of a network."""
    pack.given_under("")


def make_patterns(pack: Pack, packs: Packs) -> None:
    """Build sequences of codes and logits by every pattern, and revert them."""
    for case in pack.facts["cases"]:
        key, special, frames = case["key"], case["special_token"], case["timesteps"]
        pattern = pattern_provider(case, case["n_q"]).get_pattern(frames)
        codes = pack.given(f"{key}.codes", redraw=False)
        case["layout"] = [[[place.t, place.q] for place in step] for step in pattern.layout]
        case["num_sequence_steps"], case["max_delay"] = pattern.num_sequence_steps, pattern.max_delay
        case["first_step_with_timestep"] = [pattern.get_first_step_with_timesteps(t) for t in range(frames)]
        for mode, valid in (("full", False), ("valid", True)):
            sequence, indexes, mask = pattern.build_pattern_sequence(codes, special, keep_only_valid_steps=valid)
            put(pack, f"{key}.{mode}", seq=sequence, seq_indexes=indexes, seq_mask=mask)
            back = pattern.revert_pattern_sequence(sequence, -1, keep_only_valid_steps=valid)
            put(pack, f"{key}.{mode}", **dict(zip(("rev", "rev_indexes", "rev_mask"), back, strict=True)))
            put(pack, f"{key}.{mode}", **logits_turned_back(pattern, case["n_q"], sequence.shape[-1], valid))
        if f"{key}.short.logits_rev" not in pack.committed:
            continue
        short = pattern.build_pattern_sequence(codes, special, keep_only_valid_steps=True)[0].shape[-1] - 1
        put(pack, f"{key}.short", **logits_turned_back(pattern, case["n_q"], short, False))


def logits_turned_back(pattern: Any, codebooks: int, steps: int, valid: bool) -> Tensors:
    """Return the logits that a pattern reverts from ascending numbers."""
    ramp = torch.arange(2 * 3 * codebooks * steps, dtype=torch.float32).reshape(2, 3, codebooks, steps)
    back = pattern.revert_pattern_logits(ramp, float("nan"), keep_only_valid_steps=valid)
    return dict(zip(("logits_rev", "logits_rev_indexes", "logits_rev_mask"), back, strict=True))


def make_lm_forward(pack: Pack, packs: Packs) -> None:
    """Run networks over whole sequences: fused input, logits, losses and gradients."""
    from audiocraft.solvers.musicgen import MusicGenSolver

    def cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        mean, each = MusicGenSolver._compute_cross_entropy(None, logits, targets, mask)
        return mean, torch.stack(each)

    codes, lengths = pack.given("codes"), pack.given("valid_lengths", redraw=False)
    padding = torch.arange(codes.shape[-1]) < lengths[:, None, None]
    padding = padding.expand_as(codes)
    padded = torch.where(padding, codes, pack.facts["config"]["special_token_id"])
    pack.put(padding_mask=padding, padded_codes=padded)
    for case in pack.facts["cases"]:
        name, model = case["name"], model_of(packs, case)
        conditions = {
            condition: (pack.given(f"{name}.cond.{condition}"), pack.given(f"{name}.cond_mask.{condition}"))
            for condition in case["condition_order"]
        }
        seen: Tensors = {}

        def watch(module: Any, arguments: Any, fused: Any, seen: Tensors = seen) -> None:
            seen.update(fused=fused[0]) if fused[1] is None else seen.update(fused=fused[0], cross_src=fused[1])

        def watch_input(module: Any, arguments: Any, seen: Tensors = seen) -> None:
            seen.update(emb_sum=arguments[0].clone())  # the fuser adds in place

        model.fuser.register_forward_pre_hook(watch_input)
        model.fuser.register_forward_hook(watch)
        output = model.compute_predictions(codes, [], conditions)
        fused = dict(seen)
        mean, each = cross_entropy(output.logits, codes, output.mask)
        mean.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        put(pack, name, **fused, logits=output.logits, mask=output.mask, ce=mean, ce_per_codebook=each)
        put(pack, name, grad_norm=torch.stack([g.pow(2).sum() for g in gradients.values()]).sum().sqrt())
        for kept in [n for n in pack.committed if n.startswith(f"{name}.grad.")]:
            pack.put(**{kept: gradients[kept.removeprefix(f"{name}.grad.")]})
        with torch.no_grad():
            whole = model.compute_predictions(codes, [], conditions, keep_only_valid_steps=False)
            put(pack, f"{name}.full", mask=whole.mask)
            if f"{name}.full.logits" in pack.committed:
                put(pack, f"{name}.full", logits=whole.logits)
            output = model.compute_predictions(padded, [], conditions)
            mask = output.mask & padding
            mean, each = cross_entropy(output.logits, padded, mask)
            put(pack, f"{name}.padded", ce=mean, ce_per_codebook=each, mask=mask)


@contextmanager
def recorded_argmax() -> Iterator[list[Tensor]]:
    """Collect the guided logits of greedy decoding, of which AudioCraft takes the argmax."""
    steps: list[Tensor] = []
    argmax = torch.argmax

    def record(logits: Tensor, dim: int, keepdim: bool) -> Tensor:
        steps.append(logits.clone())
        return argmax(logits, dim=dim, keepdim=keepdim)

    with mock.patch.object(torch, "argmax", record):
        yield steps


def make_lm_generate(pack: Pack, packs: Packs) -> None:
    """Decode greedily, with every kind of guidance, prompt and pattern."""
    from audiocraft.modules.conditioners import ConditioningAttributes

    for case in pack.facts["cases"]:
        key = case["key"]
        answers = conditions_of(pack, key)
        model = model_of(packs, case, answers)
        with recorded_argmax() as steps:
            tokens = model.generate(
                prompt=pack.given(f"{key}.prompt") if case["prompt_len"] else None,
                conditions=[ConditioningAttributes() for _ in range(2)] if answers else [],
                num_samples=None if case["prompt_len"] or answers else 2,
                max_gen_len=case["max_gen_len"],
                use_sampling=False,
                cfg_coef=case["cfg_coef"],
                two_step_cfg=case["two_step_cfg"],
            )
        logits = torch.stack(steps, 1)
        best = logits.topk(2).values
        case["min_top2_gap"] = float((best[..., 0] - best[..., 1]).min())
        case["distinct_tokens"] = int(tokens.unique().numel())
        put(pack, key, tokens=tokens)
        if f"{key}.step_logits" in pack.committed:
            put(pack, key, step_logits=logits)


def conditions_of(pack: Pack, key: str) -> list[dict[str, tuple[Tensor, Tensor]]]:
    """Return the conditions of a case: one mapping for one pass, two for two passes."""
    answers = []
    for part in ("cfg", "cond", "null"):
        names = [n.removeprefix(f"{key}.{part}.") for n in pack.committed if n.startswith(f"{key}.{part}.")]
        if names:
            order = sorted(names, key=["description", "genre", "self_wav"].index)
            answers.append({n: (null_rows(pack, key, part, n), mask_of(pack, key, part, n)) for n in order})
    return answers


def null_rows(pack: Pack, key: str, part: str, condition: str) -> Tensor:
    """Return a condition; null rows are zeros, whatever is drawn."""
    value, committed = pack.given(f"{key}.{part}.{condition}"), pack.committed[f"{key}.{part}.{condition}"]
    return value.mul_(committed.ne(0).any(-1, keepdim=True))


def mask_of(pack: Pack, key: str, part: str, condition: str) -> Tensor:
    return pack.given(f"{key}.{part}_mask.{condition}", redraw=False)


def make_lm_variants(pack: Pack, packs: Packs) -> None:
    """Run networks of other forms: logits of a whole sequence, and greedy tokens."""
    codes = pack.given("codes")
    for case in pack.facts["cases"]:
        name = case["name"]
        model = build_model(pack.facts["config"], case, pack.given_under(f"{name}.weights."))
        with torch.no_grad():
            output = model.compute_predictions(codes, [], {})
        put(pack, name, logits=output.logits, mask=output.mask)
        put(pack, name, tokens=model.generate(num_samples=2, max_gen_len=16, use_sampling=False))


def make_sampling(pack: Pack, packs: Packs) -> None:
    """Record the distribution that AudioCraft samples from, by temperature, top-k and top-p."""
    from audiocraft.models.lm import LMModel
    from audiocraft.utils import utils

    logits = pack.given("logits")

    class Answer:
        """A model that returns the same logits for any input."""

        cfg_coef, two_step_cfg, _fsdp = 1.0, False, None

        def __call__(self, sequence: Tensor, conditions: Any, condition_tensors: Any) -> Tensor:
            return logits[:, :, None]

    def sample(**settings: Any) -> Tensor:
        return LMModel._sample_next_token(Answer(), torch.zeros(2, 4, 1), {}, {}, **settings)

    multinomial = utils.multinomial
    for case in pack.facts["cases"]:
        drawn: list[Tensor] = []

        def record(probabilities: Tensor, num_samples: int, drawn: list[Tensor] = drawn) -> Tensor:
            drawn.append(probabilities.clone())
            return multinomial(probabilities, num_samples)

        knobs = {"temp": case["temperature"], "top_k": case["top_k"], "top_p": case["top_p"]}
        with mock.patch.object(utils, "multinomial", record):
            sample(use_sampling=True, **knobs)
        probabilities = drawn[0]
        if case["top_p"] > 0:  # sampled in descending order: restore the order of the vocabulary
            order = torch.softmax(logits / case["temperature"], -1).sort(-1, descending=True).indices
            probabilities = torch.zeros_like(probabilities).scatter(-1, order, probabilities)
        put(pack, case["key"], probs=probabilities, kept=probabilities.ne(0).sum(-1))
    pack.put(argmax=sample(use_sampling=False).squeeze(-1))


def make_stereo_and_extend(pack: Pack, packs: Packs) -> None:
    """Interleave the codes of two sides, and generate clips longer than the window."""
    from audiocraft.models.encodec import InterleaveStereoCompressionModel
    from audiocraft.models.musicgen import MusicGen
    from audiocraft.modules.conditioners import ConditioningAttributes, WavCondition

    sides = [pack.given(f"stereo.{side}", redraw=False) for side in ("left", "right")]
    for name, per_timestep in (("codebooks", False), ("timesteps", True)):
        codec = mock.Mock(channels=1, num_codebooks=4)
        codec.encode.side_effect = [(codes, None) for codes in sides]
        stereo = InterleaveStereoCompressionModel.__new__(InterleaveStereoCompressionModel)
        nn.Module.__init__(stereo)
        stereo.__dict__.update(model=codec, per_timestep=per_timestep)
        pack.put(**{f"stereo.interleaved_{name}": stereo.encode(torch.zeros(2, 2, 8))[0]})

    def silent() -> Any:
        wav = WavCondition(torch.zeros(1, 1, 1), torch.tensor([0]), [32_000], [None], [0.0])
        return ConditioningAttributes(wav={"self_wav": wav})

    generated = packs("lm_generate")
    for case in pack.facts["cases"]:
        key, same = case["key"], next(c for c in generated.facts["cases"] if c["fuse2cond"] == case["fuse2cond"])
        answers = conditions_of(generated, same["key"]) * len(case["calls"])
        model = model_of(packs, {**case, "cross_attention_pos_emb": False}, answers)
        codec = mock.Mock(frame_rate=case["frame_rate"], sample_rate=32_000, channels=1)
        music = MusicGen("oracle", codec, model, max_duration=30.0)  # must be above its default stride
        music.max_duration = case["max_duration_s"]
        music.set_generation_params(
            use_sampling=False,
            duration=case["duration_s"],
            cfg_coef=case["cfg_coef"],
            extend_stride=case["extend_stride_s"],
        )
        prompt = pack.given(f"{key}.prompt") if f"{key}.prompt" in pack.committed else None
        with torch.no_grad():
            put(pack, key, tokens=music._generate_tokens([silent(), silent()], prompt))
