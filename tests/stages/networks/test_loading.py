"""Networks from files: several threads may load at the same time, because shards do."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch
from transformers import PreTrainedModel, T5Config, T5EncoderModel
from transformers.utils import logging

from stages.networks.loading import load_network, save_network
from tests.worlds.bars import no_bars_of_transformers

THREADS = 4


def test_a_network_is_saved_and_loaded_without_bars_and_those_of_others_stay(tmp_path, capfd, monkeypatch):
    network = T5EncoderModel(T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    with no_bars_of_transformers():
        save_network(network, tmp_path)
        loaded = load_network(T5EncoderModel, tmp_path, "eager")
    assert torch.equal(loaded.shared.weight, network.shared.weight)
    monkeypatch.setattr(logging, "_tqdm_active", True)
    network.save_pretrained(tmp_path / "by another")
    assert "Writing model shards" in capfd.readouterr().err


def test_threads_loading_at_once_leave_transformers_and_torch_unchanged(tmp_path):
    config = T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=6, num_heads=2)
    T5EncoderModel(config).save_pretrained(tmp_path)
    before = (PreTrainedModel.tie_weights, PreTrainedModel.init_weights, torch.nn.init.normal_)
    barrier = Barrier(THREADS)

    def load(_: int) -> list[torch.Tensor]:
        barrier.wait()
        return [load_network(T5EncoderModel, tmp_path, "eager").shared.weight for _ in range(8)]

    with ThreadPoolExecutor(THREADS) as threads:
        loaded = [weight for weights in threads.map(load, range(THREADS)) for weight in weights]
    assert (PreTrainedModel.tie_weights, PreTrainedModel.init_weights, torch.nn.init.normal_) == before
    assert all(torch.equal(weight, loaded[0]) for weight in loaded)
