"""Guidance distillation: the teacher of a model that learns to predict in one pass what guidance predicts in two.

C. Meng et al., "On distillation of guided diffusion models", arXiv:2210.03142, first stage; on a language model of
music: G. Cideron et al., arXiv:2410.06084. The teacher is the checkpoint that training starts from, with the weights
that it has then.
"""

from model.objective import GuidedTeacher
from stages.pipeline.contract import Context
from stages.train.config import Config
from stages.train.initial_model import InitialModel, load_initial


def guided_teacher(config: Config, context: Context, initial: InitialModel) -> GuidedTeacher | None:
    """Load the teacher that a recipe asks for, on the run's device; None where it asks for none.

    Raises:
        ValueError: the checkpoint cannot teach the recipe's model: it reads other conditions, has other codebooks or
            another text encoder, or has learned guidance already.
    """
    if config.distill_guidance is None:
        return None
    assert config.initial is not None
    assert initial.facts is not None
    facts, expected = initial.facts, "expected, for train.distill_guidance,"
    if facts.distilled_guidance is not None:
        raise ValueError(
            f"{expected} a checkpoint in train.initial that needs guidance, got {config.initial}, which has learned "
            f"guidance {facts.distilled_guidance:g}"
        )
    if config.model.conditions != facts.model.conditions:
        raise ValueError(
            f"{expected} the conditions of train.initial = {config.initial} ({', '.join(facts.model.conditions)}), got "
            f"{', '.join(config.model.conditions)}"
        )
    if config.model.language_model.codebooks != facts.model.language_model.codebooks:
        raise ValueError(
            f"{expected} the {facts.model.language_model.codebooks} codebooks of train.initial = {config.initial}, got "
            f"{config.model.language_model.codebooks}"
        )
    encoders = facts.text_encoder_digest, initial.text_encoder_digest
    if None not in encoders and len(set(encoders)) > 1:
        raise ValueError(f"{expected} the text encoder of train.initial = {config.initial}, got another")
    teacher = load_initial(config, context, context.device).model
    return GuidedTeacher(teacher.eval().requires_grad_(False), config.distill_guidance.coefficient)
