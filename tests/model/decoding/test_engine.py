"""The decoding engine: a request's tokens do not depend on its batch and equal those of the whole forward pass."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from model.conditioning.config import MelodyConfig
from model.decoding import DecodingOptions, dynamic_shapes, sampling
from model.decoding.generation import GenerationRequest, generate
from model.decoding.memory import MAX_SLOTS
from model.guidance import GuidanceForm
from model.music_model import Attributes, MusicModel
from tests.worlds.generation_requests import assert_batch_invariant, mixed_requests
from tests.worlds.tiny_model import CLAP_WIDTH, config, melody, music_model, random_codes

ROOT = Path(__file__).resolve().parents[3]
STEREO = {"codebooks": 8, "delays": (0, 0, 1, 1, 2, 2, 3, 3)}


def test_a_request_has_the_same_tokens_alone_and_in_any_batch() -> None:
    assert_batch_invariant(partial(generate, music_model()), mixed_requests())


def _logits_of_each_step(
    model: MusicModel, requests: list[GenerationRequest], monkeypatch: pytest.MonkeyPatch
) -> torch.Tensor:
    """The guided logits [steps, rows, K, V] that a batch is sampled from; a row is the slot of a request, longest
    first.

    Rows of finished requests disappear from the end and are padded with zeros.
    """
    seen = []
    plain = sampling.next_code_probabilities

    def listen(logits: torch.Tensor, *settings: torch.Tensor) -> torch.Tensor:
        seen.append(logits.clone())
        return plain(logits, *settings)

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "next_code_probabilities", listen)
        generate(model, requests)
    return torch.nn.utils.rnn.pad_sequence(seen, batch_first=True)


def _model_and_requests(
    width: int, heads: int, shortest: int, form: GuidanceForm = "one_pass", guidance_text: float = 1.0
) -> tuple[MusicModel, list[GenerationRequest]]:
    """A prefix of 30, because every kernel is exact with few keys; the longest request first, as in the slots."""
    settings = config(width=width, heads=heads, layers=2).model_copy(update={"chroma": MelodyConfig(frames=30)})
    attributes = [
        Attributes("calm piano", melody(0, 4, 7)),
        Attributes("loud fast drums and bass", None, torch.ones(CLAP_WIDTH)),
        Attributes(None, melody(2)),
    ]
    lengths = range(shortest + 5, shortest - 1, -1)
    requests = [
        GenerationRequest(item, frames, seed=1, guidance_form=form, guidance_text=guidance_text)
        for item, frames in zip(attributes * 2, lengths, strict=True)
    ]
    return music_model(settings), requests


# A change in the last bit of a logit rarely changes a sample, so equal tokens prove little; equal logits do.
@pytest.mark.parametrize(
    ("width", "heads", "form", "guidance_text"),
    [
        *((32, 4, "one_pass", 1.0), (224, 4, "one_pass", 1.0), (320, 5, "one_pass", 1.0)),
        *((320, 5, "two_pass", 1.0), (320, 5, "one_pass", 3.0), (320, 5, "two_pass", 3.0)),
    ],
)
def test_the_bits_of_a_requests_logits_do_not_depend_on_the_rest_of_the_batch(
    width: int, heads: int, form: GuidanceForm, guidance_text: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, requests = _model_and_requests(width, heads, 7, form, guidance_text)
    together = _logits_of_each_step(model, requests, monkeypatch)
    for row, request in enumerate(requests):
        alone = _logits_of_each_step(model, [request], monkeypatch)
        assert torch.equal(alone[:, 0], together[: len(alone), row])


def test_the_bits_of_a_requests_logits_do_not_depend_on_the_batch_with_two_threads(
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
        "from model.decoding.generation import generate\n"
        "from tests.worlds.generation_requests import mixed_requests\n"
        "from tests.worlds.tiny_model import music_model\n"
        "print([codes.tolist() for codes in generate(music_model(), mixed_requests()[2:4])])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    here = generate(music_model(), mixed_requests())[2:4]
    assert done.stdout.strip() == str([codes.tolist() for codes in here])


@pytest.mark.parametrize("fusion", ["prepend", "interpolate"])
@pytest.mark.parametrize(
    "settings",
    [
        *({"pattern": "delay"}, {"pattern": "unroll"}, {"pattern": "coarse_first"}, {"pattern": "grouped", "group": 3}),
        *(STEREO, {"positions": "rotary"}, {"norm": "after"}, {"padding": "attended"}),
    ],
    ids=lambda settings: "-".join(map(str, settings)) + str(next(iter(settings.values()))),
)
def test_cached_decoding_chooses_the_codes_that_the_whole_forward_pass_would(settings: dict, fusion: str) -> None:
    sizes = config(**({"prepend": (), fusion: ("chroma",)} | settings))
    model, attributes = music_model(sizes), Attributes("calm piano", melody(0, 4), torch.ones(CLAP_WIDTH))
    codes = random_codes(1, 9, codebooks=sizes.language_model.codebooks)[0, :, :3]
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


def test_the_slot_of_a_finished_request_is_given_to_the_next_one() -> None:
    model, asked = music_model(), 0

    def count() -> bool:
        nonlocal asked
        asked += 1
        return False

    lengths = [60] + [10] * (3 * (MAX_SLOTS["cpu"] - 1))
    requests = [GenerationRequest(Attributes("bass"), frames, seed=frames) for frames in lengths]
    found = generate(model, requests, DecodingOptions(stop=count))
    assert [codes.shape[1] for codes in found] == lengths
    # The short ones follow each other beside the long one, which takes its frames and the delay of the last codebook.
    assert asked == 60 + model.config.language_model.codebooks - 1


def test_codes_from_a_cache_that_grows_equal_those_from_a_cache_with_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, requests = music_model(), mixed_requests()[:5]
    roomy = generate(model, requests)
    monkeypatch.setattr(dynamic_shapes, "BLOCK", 3)
    grown = generate(model, requests)
    assert all(torch.equal(one, other) for one, other in zip(roomy, grown, strict=True))
