"""The GPU run: it reports what is wrong, and where."""

import pytest
import torch

from tests.benchmarks import gpu

TRIAL = ("--device", "cpu", "--small", "--threads", "1")


def test_different_tokens_are_reported_with_request_codebook_and_frame():
    codes = [torch.zeros((4, 5), dtype=torch.long), torch.zeros((4, 3), dtype=torch.long)]
    other = [codes[0], codes[1].clone()]
    other[1][2, 1] = 7
    with pytest.raises(gpu.Wrong, match=r"in graphs, got others from codebook 2, frame 1 of request 1 on \(91\.7%"):
        gpu.must_be_equal("in graphs", other, codes)


def test_the_run_stops_at_the_first_error_and_names_its_part(monkeypatch, capsys):
    right = gpu.tokens_in_static_shapes
    monkeypatch.setattr(gpu, "tokens_in_static_shapes", lambda *given: [(codes + 1) % 2048 for codes in right(*given)])
    with pytest.raises(SystemExit, match=r"^tokens of graphs, of eager steps and of the CPU: Wrong: expected the same"):
        gpu.main(TRIAL)
    told = capsys.readouterr()
    assert "tokens alone and beside others" not in told.err
    assert "###" not in told.out


def test_a_missing_device_is_reported_at_once(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="expected a CUDA device, got none"):
        gpu.main([])


@pytest.mark.slow
def test_figures_without_time_left_are_listed_as_left_out(capsys):
    gpu.main([*TRIAL, "--budget", "0"])
    text = capsys.readouterr().out
    kept = "float32, keys and values"
    runs = [f"small at {slots} slots ({kept} bfloat16)" for slots in (1, 4)]
    runs += [f"small at 4 slots ({kept} {cache})" for cache in ("float32", "int8")]
    left = ", ".join([*runs, f"medium at 2 slots ({kept} bfloat16)", "training", "tokenizing and chroma"])
    assert f"{left} left out" in text
    assert "Tokens of captured graphs, eager steps and the CPU are equal" in text


@pytest.mark.slow
def test_parts_can_be_run_alone_with_all_their_figures(capsys):
    gpu.main([*TRIAL, "--parts", "generation", "analysis"])
    text = capsys.readouterr().out
    assert "are equal" not in text
    for figure in ("small, 4 slots, float32, keys and values int8, decoded by the codec", "medium, 2 slots", "chroma"):
        assert f"| {figure}" in text
