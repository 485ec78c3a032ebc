"""Low-rank adaptation of a language model (LoRA, arXiv:2106.09685), by `peft`.

While it learns, updates stand beside the frozen matrices of the decoder. Before it is written they are merged into
them, so that whatever reads the checkpoint reads a plain model; the updates alone lie beside it in peft's own form.
"""

from pathlib import Path
from typing import Any

import peft
from peft.tuners.lora import LoraLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file

from model.music_model import MusicModel
from model.optim.config import LoraConfig
from stages.checkpoints.disk_errors import disk_errors

LAYERS = {
    "attention": r"self_attention\.(in|out)_projection",
    "cross_attention": r"cross_attention\.(in|out)_projection",
    "feedforward": r"(expand|contract)",
}
"""The matrices of a decoder layer by the kind of layer that `LoraConfig.targets` names."""


def add_adapter(model: MusicModel, config: LoraConfig) -> None:
    """Freeze the model but for new low-rank updates of its decoder, and for its conditioners if they are to learn.

    The updates begin at zero, so the model says what it said. Their other factor is drawn from torch's generator.

    Raises:
        ValueError: the decoder has none of the layers that are to be adapted.
    """
    targets = "|".join(LAYERS[kind] for kind in config.targets)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=rf"transformer\.layers\.\d+\.({targets})",
    )
    if config.targets == ("cross_attention",) and not model.config.language_model.cross:
        raise ValueError(
            "expected train.lora.targets among the layers of the decoder, got cross_attention for one without it"
        )
    if not config.conditioners:
        model.requires_grad_(False)
    peft.inject_adapter_in_model(settings, model.language_model)  # which freezes all else of the decoder


@disk_errors()
def save_adapter(model: MusicModel, folder: Path) -> None:
    """Write the updates of an adapted model into a new folder, as `peft.PeftModel.from_pretrained` reads them for the
    decoder (`MusicModel.language_model`) that training began with."""
    folder.mkdir()
    settings: Any = model.language_model.peft_config
    settings["default"].save_pretrained(str(folder))
    updates = peft.get_peft_model_state_dict(model.language_model)
    named = {f"base_model.model.{name}": value.detach().cpu().contiguous() for name, value in updates.items()}
    save_file(named, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})


def merge_adapter(model: MusicModel) -> None:
    """Add the updates to the matrices that they belong to, and leave a plain model."""
    decoder = model.language_model
    adapted = [(name, module) for name, module in decoder.named_modules() if isinstance(module, LoraLayer)]
    for name, module in adapted:
        module.merge(safe_merge=True)
        above, _, own = name.rpartition(".")
        setattr(decoder.get_submodule(above), own, module.get_base_layer())
    del decoder.peft_config
