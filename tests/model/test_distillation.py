"""Guidance learned by a student: the target is the guided prediction, the loss a divergence, and the gradient the
student's alone."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from model.guidance import apply_guidance, condition_passes
from model.lm.language_model import Prediction
from model.music_model import MusicModel
from model.objective import Batch, GuidedTeacher, LossModule, accumulate_gradients, divergence
from tests.worlds.every_condition import ITEMS, config, music_model
from tests.worlds.steps import micro_batches_of
from tests.worlds.tiny_model import random_codes

FRAMES, COEFFICIENT = 6, 3.0
LENGTHS = torch.tensor([6, 6, 5, 6, 6, 4, 6])


def batch_of(model: MusicModel) -> Batch:
    return Batch(random_codes(7, FRAMES, codebooks=2, cardinality=11), LENGTHS, ITEMS).prepared(model, True)


def test_the_teacher_predicts_for_each_item_what_guided_generation_samples_from() -> None:
    model = music_model()
    batch = batch_of(model)
    got = GuidedTeacher(model, COEFFICIENT).logits(batch)
    mask = model(batch.codes, batch.attributes, batch.lengths).mask
    for number, item in enumerate(ITEMS):
        (conditions,) = condition_passes(model, item, "one_pass", COEFFICIENT, 1.0)
        codes, lengths = batch.codes[[number, number]], batch.lengths[[number, number]]
        logits = model.language_model(codes, conditions, lengths).logits
        guided = logits[1] + COEFFICIENT * (logits[0] - logits[1])
        torch.testing.assert_close(got[number][mask[number]], guided[mask[number]], rtol=1e-4, atol=1e-4)


def test_the_divergence_is_a_mean_over_predicted_codes_and_zero_for_equal_predictions() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(3, 2, 5, 4), torch.randn(3, 2, 5, 4)
    mask = torch.rand(3, 2, 5) < 0.6
    got = divergence(Prediction(logits, mask), target)
    for book in range(2):
        naive = [
            sum(p * (p.log() - q.log()) for p, q in zip(target[i].softmax(-1), logits[i].softmax(-1), strict=True))
            for i in zip(*(mask[:, book].nonzero().T), strict=True)
            for i in [(i[0], book, i[1])]
        ]
        torch.testing.assert_close(got[book], torch.stack(naive).mean())
    assert divergence(Prediction(target + 2.0, mask), target).abs().max() < 1e-6
    padding = torch.where(mask[..., None], logits, 1e4)
    torch.testing.assert_close(divergence(Prediction(padding, mask), target), got)


def test_the_gradient_is_that_of_the_cross_entropy_with_the_teachers_probabilities() -> None:
    torch.manual_seed(1)
    logits, target = torch.randn(2, 3, 4, 5, requires_grad=True), torch.randn(2, 3, 4, 5)
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    divergence(Prediction(logits, mask), target).mean().backward()
    got, logits.grad = logits.grad, None
    F.cross_entropy(logits.flatten(0, 2), target.softmax(-1).flatten(0, 2)).backward()
    torch.testing.assert_close(got, logits.grad)


def test_only_the_student_has_a_gradient_and_micro_batches_add_up_to_the_batch() -> None:
    student = music_model(config(quantized=False))
    teacher = GuidedTeacher(copy.deepcopy(student).requires_grad_(False), COEFFICIENT)
    module = LossModule(student, "float32", teacher)
    assert {name for name, _ in module.named_parameters()} == {
        f"model.{name}" for name, _ in student.named_parameters()
    }
    raw = Batch(random_codes(7, FRAMES, codebooks=2, cardinality=11), LENGTHS, ITEMS)
    gradients, losses = [], []
    for size in (7, 3):
        parts = [
            replace(part, batch=part.batch.prepared(student, True)) for part in micro_batches_of(student, raw, size)
        ]
        losses.append(accumulate_gradients(module, parts))
        gradients.append({name: value.grad for name, value in student.named_parameters() if value.requires_grad})
        student.zero_grad()
    torch.testing.assert_close(*losses)
    assert losses[0].min() > 0
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-3, atol=1e-6)
    assert all(value.grad is None for value in teacher.model.parameters())


def test_a_student_learns_to_predict_alone_what_its_teacher_predicts_with_guidance() -> None:
    student = music_model(config(quantized=False))
    teacher = GuidedTeacher(copy.deepcopy(student), COEFFICIENT)
    module, batch = LossModule(student, "float32", teacher), batch_of(student)
    optimizer = torch.optim.AdamW(student.parameters(), 3e-3, weight_decay=0.0)
    course = []
    for _ in range(60):
        loss = module(batch).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        course.append(loss.item())
    assert course[-1] < 0.1 * course[0]


@pytest.mark.parametrize("guidance_text", [1.0, 2.0])
def test_without_guidance_a_request_takes_one_row_and_with_double_guidance_three(guidance_text: float) -> None:
    model = music_model()
    (conditions,) = condition_passes(model, ITEMS[0], "one_pass", 1.0, guidance_text)
    rows = 1 if guidance_text == 1 else 3
    assert {len(condition.embedding) for condition in conditions.values()} == {rows}
    logits = torch.randn(4, rows, 2, 11)
    if rows == 1:
        assert torch.equal(apply_guidance(logits, torch.ones(4), torch.ones(4)), logits[:, 0])
