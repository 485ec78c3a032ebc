"""Generation against AudioCraft's greedy tokens, and that a request's tokens are its own whatever is beside it."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from model import generation
from model.conditioning.configuration import ChromaConfig
from model.generation import GenerationRequest, GenerationStoppedError, generate, generate_conditioned
from model.language_model import Condition
from model.music_model import Attributes, MusicModel
from tests.model.oracles import language_model, read_pack
from tests.model.tiny_model import CLAP_WIDTH, config, melody, music_model, random_codes

ROOT = Path(__file__).resolve().parents[2]
KEYS = [
    "none",
    "none_prompt",
    "cross",
    "cross_prompt",
    "cross_coef1",
    "cross_pos_emb",
    "prepend",
    "prepend_prompt",
    "sum",
    "sum_prepend_cross",
    "parallel",
    "parallel_prompt",
    "unroll",
    "coarse_first",
    "musiclm",
    "stereo8",
    "stereo8_prompt",
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small products on several threads are mostly waiting, above all where tests run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _oracle_tokens(folder: Path, key: str, source_frames: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Our tokens and the pack's; with `source_frames` only so many vectors of every condition are given."""
    pack = read_pack(folder, "lm_generate")
    case = next(case for case in pack.cases if case["key"] == key)
    expected, start = pack.tensors[f"{key}.tokens"], f"{key}.cfg."
    # Text first, then waveforms, as the pack's README says.
    names = sorted(
        (name.removeprefix(start) for name in pack.tensors if name.startswith(start)),
        key=lambda name: (name == "self_wav", name),
    )
    rows = len(expected)
    requests, conditions = [], []
    for row in range(rows):
        prompt = pack.tensors[f"{key}.prompt"][row] if case["prompt_len"] else None
        guidance = 1.0 if case["cfg_coef"] is None else case["cfg_coef"]
        requests.append(
            GenerationRequest(
                Attributes(), case["max_gen_len"], seed=0, guidance=guidance, temperature=0.0, prompt=prompt
            )
        )
        both = [row, rows + row]
        conditions.append(
            {
                name: Condition(
                    pack.tensors[f"{key}.cfg.{name}"][both, :source_frames],
                    pack.tensors[f"{key}.cfg_mask.{name}"][both, :source_frames].bool(),
                )
                for name in names
            }
        )
    found = generate_conditioned(language_model(folder, case), requests, conditions)
    return torch.stack(found), expected


@pytest.mark.parametrize("key", KEYS)
def test_greedy_tokens_equal_the_oracle(oracles: Path, key: str) -> None:
    found, expected = _oracle_tokens(oracles, key)
    assert torch.equal(found, expected)


def test_a_stretched_condition_equals_the_oracle_where_the_oracle_uses_its_first_vector_alone(oracles: Path) -> None:
    # AudioCraft stretches over the step at hand while it decodes, so that every step gets vector 0, unlike in training.
    # Ours keeps to what training saw; given vector 0 alone, it has nothing else to stretch.
    found, expected = _oracle_tokens(oracles, "input_interpolate", source_frames=1)
    assert torch.equal(found, expected)


def _requests() -> list[GenerationRequest]:
    """Requests of every kind: long and short texts, with and without melody, prompt and embedding, other settings."""
    words = ["calm piano", None, "loud fast drums and bass with strings at night", "bass", "", "piano in C minor"]
    generator = torch.Generator().manual_seed(9)
    requests = []
    for number in range(14):
        attributes = Attributes(
            words[number % 6],
            melody(number % 12, 4, 7) if number % 3 else None,
            torch.randn(CLAP_WIDTH, generator=generator) if number % 2 else None,
        )
        requests.append(
            GenerationRequest(
                attributes,
                frames=(12, 20, 17)[number % 3],
                seed=number,
                guidance=(3.0, 1.0, 0.0, 5.5)[number % 4],
                temperature=(1.0, 0.7, 1.6)[number % 3],
                top_k=(0, 5, 250)[number % 3],
                top_p=(0.0, 0.9)[number % 5 == 1],
                prompt=random_codes(1, 4, seed=number)[0] if number in (3, 4, 8) else None,
            )
        )
    return requests


def test_a_request_has_the_same_tokens_alone_and_in_any_batch() -> None:
    model, requests = music_model(), _requests()
    together = generate(model, requests)
    backwards = generate(model, requests[::-1])[::-1]
    for number, request in enumerate(requests):
        (alone,) = generate(model, [request])
        assert together[number].shape == (3, request.frames)
        assert torch.equal(together[number], alone)
        assert torch.equal(together[number], backwards[number])


def _logits_of_each_step(
    model: MusicModel, requests: list[GenerationRequest], monkeypatch: pytest.MonkeyPatch
) -> torch.Tensor:
    """The guided logits [steps, rows, K, V] that a batch is drawn from."""
    seen = []
    plain = generation.next_code_probabilities

    def listen(logits: torch.Tensor, *settings: torch.Tensor) -> torch.Tensor:
        seen.append(logits.clone())
        return plain(logits, *settings)

    with monkeypatch.context() as patch:
        patch.setattr(generation, "next_code_probabilities", listen)
        generate(model, requests)
    return torch.stack(seen)


def _model_and_requests(width: int, heads: int, shortest: int) -> tuple[MusicModel, list[GenerationRequest]]:
    """A prefix of 30, for on few keys every kernel is exact; the longest request last, as the rows of a batch are."""
    settings = config(width=width, heads=heads, layers=2).model_copy(update={"chroma": ChromaConfig(frames=30)})
    attributes = [
        Attributes("calm piano", melody(0, 4, 7)),
        Attributes("loud fast drums and bass", None, torch.ones(CLAP_WIDTH)),
        Attributes(None, melody(2)),
    ]
    lengths = range(shortest, shortest + 6)
    requests = [GenerationRequest(item, frames, seed=1) for item, frames in zip(attributes * 2, lengths, strict=True)]
    return music_model(settings), requests


# A change in the last bit of a logit moves a draw only rarely, so equal tokens prove little; equal logits do.
@pytest.mark.parametrize(("width", "heads"), [(32, 4), (224, 4), (320, 5)])
def test_not_a_bit_of_a_logit_depends_on_batch_mates(width: int, heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, requests = _model_and_requests(width, heads, 7)
    together = _logits_of_each_step(model, requests, monkeypatch)
    for row, request in enumerate(requests):
        alone = _logits_of_each_step(model, [request], monkeypatch)
        assert torch.equal(alone[:, 0], together[: len(alone), row])


def test_not_a_bit_of_a_logit_depends_on_batch_mates_where_there_are_two_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, requests = _model_and_requests(224, 4, 1)
    torch.set_num_threads(2)
    together = _logits_of_each_step(model, requests, monkeypatch)
    for row in (0, 5):
        alone = _logits_of_each_step(model, [requests[row]], monkeypatch)
        assert torch.equal(alone[:, 0], together[: len(alone), row])


def test_a_request_has_the_same_tokens_after_a_restart() -> None:
    program = (
        "from model.generation import generate\n"
        "from tests.model.test_generation import _requests\n"
        "from tests.model.tiny_model import music_model\n"
        "print([codes.tolist() for codes in generate(music_model(), _requests()[2:4])])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    here = generate(music_model(), _requests())[2:4]
    assert done.stdout.strip() == str([codes.tolist() for codes in here])


@pytest.mark.parametrize("pattern", ["delay", "unroll", "coarse_first", "grouped"])
@pytest.mark.parametrize("fusion", ["prepend", "interpolate"])
def test_cached_decoding_chooses_what_the_whole_forward_pass_would(pattern: str, fusion: str) -> None:
    settings = config(pattern=pattern, group=3, **{"prepend": (), fusion: ("chroma",)})
    model, attributes = music_model(settings), Attributes("calm piano", melody(0, 4), torch.ones(CLAP_WIDTH))
    codes = random_codes(1, 9)[0, :, :3]
    request = GenerationRequest(attributes, 9, seed=0, guidance=2.0, temperature=0.0, prompt=codes)
    (found,) = generate(model, [request])
    assert torch.equal(found[:, :3], codes)
    with torch.no_grad():
        conditions = model.condition(model.prepare([attributes, Attributes()]))
        # In `valid` mode a stretched condition is stretched as in training, and late codebooks lack their last frames.
        prediction = model.language_model(found.expand(2, -1, -1), conditions)
    conditioned, null = prediction.logits
    best = (null + 2 * (conditioned - null)).argmax(-1)
    free = prediction.mask[0].clone()
    free[:, :3] = False
    assert free.sum() > 9
    assert torch.equal(found[free], best[free])


def test_guidance_of_one_is_the_model_without_guidance() -> None:
    model = music_model()
    attributes = Attributes("calm piano", melody(0, 4, 7), torch.ones(CLAP_WIDTH))
    request = GenerationRequest(attributes, 10, seed=4, guidance=1.0, temperature=0.0)
    (found,) = generate(model, [request])
    with torch.no_grad():
        prediction = model(found[None], [attributes])
    mask = prediction.mask[0]
    assert torch.equal(found[mask], prediction.logits[0].argmax(-1)[mask])
    (guided,) = generate(model, [replace(request, guidance=6.0)])
    assert not torch.equal(guided, found)


def test_guidance_of_zero_does_not_hear_the_conditions() -> None:
    model = music_model()
    with_conditions = Attributes("calm piano", melody(0, 4, 7), torch.ones(CLAP_WIDTH))
    # As long as the text's own null, which is as long as the text.
    request = GenerationRequest(with_conditions, 10, seed=4, guidance=0.0)
    other = replace(request, attributes=Attributes("loud drums", melody(3), -torch.ones(CLAP_WIDTH)))
    first, second = generate(model, [request, other])
    assert torch.equal(first, second)


def test_guidance_works_for_a_joint_embedding_alone() -> None:
    model = music_model()
    found = [
        generate(model, [GenerationRequest(Attributes(clap=clap), 16, seed=1, guidance=guidance)])[0]
        for clap in (None, torch.ones(CLAP_WIDTH))
        for guidance in (1.0, 8.0)
    ]
    assert torch.equal(found[0], found[1]), "without a condition there is nothing to guide towards"
    assert not torch.equal(found[2], found[3])
    assert not torch.equal(found[0], found[2])


def test_other_seeds_give_other_tokens_and_the_same_seed_the_same() -> None:
    model = music_model()
    request = GenerationRequest(Attributes("bass"), 16, seed=1)
    first, second, third = generate(model, [request, replace(request, seed=2), request])
    assert not torch.equal(first, second)
    assert torch.equal(first, third)


def test_a_clip_begins_with_its_prompt_and_goes_on_in_range() -> None:
    model, prompt = music_model(), random_codes(1, 7)[0]
    (found,) = generate(model, [GenerationRequest(Attributes("bass"), 15, seed=1, prompt=prompt)])
    assert torch.equal(found[:, :7], prompt)
    assert found.min() >= 0
    assert found.max() < 24


def test_progress_counts_exactly_the_frames_that_were_asked_for() -> None:
    told: list[int] = []
    requests = _requests() * 2
    generate(music_model(), requests, progress=told.append)
    assert sum(told) == sum(request.frames - request.prompt_frames for request in requests)
    assert all(made > 0 for made in told)


def test_a_stop_ends_the_work_within_a_step() -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 5

    with pytest.raises(GenerationStoppedError, match="stopped at step 5 of"):
        generate(music_model(), [GenerationRequest(Attributes(), 30, seed=0)], stop=stop)
    assert asked == 5


def test_a_model_in_training_is_put_back_into_training() -> None:
    model = music_model(config(dropout=0.5)).train()
    request = GenerationRequest(Attributes("bass"), 8, seed=0)
    first, second = generate(model, [request])[0], generate(model, [request])[0]
    assert torch.equal(first, second)
    assert model.training


def test_no_requests_give_no_clips() -> None:
    assert generate(music_model(), []) == []


def test_a_broken_model_raises_instead_of_making_noise() -> None:
    model = music_model()
    with torch.no_grad():
        model.language_model.out_norm.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="expected finite logits"):
        generate(model, [GenerationRequest(Attributes(), 5, seed=0)])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frames": 0}, "expected more frames than the prompt's 0, got 0"),
        ({"frames": 4, "prompt": torch.zeros(3, 4, dtype=torch.long)}, "more frames than the prompt's 4, got 4"),
        ({"seed": -1}, "expected a seed from 0 .* got -1"),
        ({"guidance": float("nan")}, "expected a finite guidance, got nan"),
        ({"temperature": -0.1}, "expected a temperature of 0 or more, got -0.1"),
        ({"temperature": float("inf")}, "expected a temperature of 0 or more, got inf"),
        ({"top_k": -1}, "expected a top_k of 0 or more, got -1"),
        ({"top_p": 1.5}, "expected a top_p from 0 to 1, got 1.5"),
    ],
)
def test_a_request_that_cannot_be_says_why(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GenerationRequest(**({"attributes": Attributes(), "frames": 8, "seed": 0} | changes))


def test_a_request_that_the_model_cannot_meet_says_why() -> None:
    model = music_model()
    request = GenerationRequest(Attributes(), 8, seed=0)
    with pytest.raises(ValueError, match=r"expected a prompt of 3 codebooks, got \[2, 4\]"):
        generate(model, [replace(request, prompt=torch.zeros(2, 4, dtype=torch.long))])
    with pytest.raises(ValueError, match="expected codes from 0 to 23, got 24 to 24"):
        generate(model, [replace(request, prompt=torch.full((3, 4), 24))])
    with pytest.raises(ValueError, match=r"expected a CLAP embedding \[8\], got \[5\]"):
        generate(model, [replace(request, attributes=Attributes(clap=F.one_hot(torch.tensor(1), 5).float()))])
