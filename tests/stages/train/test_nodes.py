"""A training by torchrun, on one machine and on several, of whole models and of sharded ones: it gives the model of one
process, even if processes die or are asked to stop."""

import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.train.following import world_of_torchrun
from tests.worlds.nodes import Torchrun, logs, steps_made, workers
from tests.worlds.patience import wait_for
from tests.worlds.training_world import fill, kept_rows, kept_weights, recipe, train_in, trained_alone

CHANGES = {"optimization": {"steps": 40}, "batch_size": 4, "micro_batch_size": 2, "save_every": 5, "log_every": 4}
SHORT = CHANGES | {"optimization": {"steps": 12}}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of one process."""
    return trained_alone(tmp_path_factory.mktemp("alone"), CHANGES)


@pytest.fixture(scope="module")
def alone_for_a_short_time(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_alone(tmp_path_factory.mktemp("alone"), SHORT)


@contextmanager
def torchrun(
    folder: Path, changes: Mapping[str, object] = CHANGES, nodes: int = 2, **others: Any
) -> Iterator[Torchrun]:
    """Start the agents of a number of machines; none is left afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = Torchrun(folder, changes, port, nodes, **others)
    for number in range(nodes):
        run.start_agent(number)
    try:
        yield run
    finally:
        for agent in run.agents.values():
            agent.terminate()
            agent.wait()


def wait_for_end(run: Torchrun) -> None:
    wait_for(lambda: None not in run.exit_codes, every=0.02, seen=lambda: logs(run.folder))


def same_model(folder: Path, other: Path, changes: Mapping[str, object] = CHANGES) -> None:
    expected, got = (kept_weights(place, recipe(place, **changes)) for place in (folder, other))
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-3, atol=1e-4)
    losses = [
        [row["loss"] for row in kept_rows(place, recipe(place, **changes))["training"]] for place in (folder, other)
    ]
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["data", "fully_sharded"])
@pytest.mark.parametrize(("nodes", "processes"), [(2, 1), (1, 2)])
def test_two_nodes_and_one_node_of_two_processes_train_the_model_of_one_process(
    alone_for_a_short_time: Path, tmp_path: Path, nodes: int, processes: int, parallel: str
) -> None:
    together = tmp_path
    fill(together)
    with torchrun(together, SHORT, nodes, processes=processes, parallel=parallel) as run:
        wait_for_end(run)
        assert run.exit_codes == [0] * nodes, (together / "node-0.log").read_text()
    assert set(workers(together)) == {0, 1}
    same_model(alone_for_a_short_time, together, SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["data", "fully_sharded"])
def test_a_killed_process_is_replaced_and_the_training_ends_with_the_model_of_one_process(
    alone: Path, tmp_path: Path, parallel: str
) -> None:
    nodes = tmp_path
    fill(nodes)
    with torchrun(nodes, restarts=1, parallel=parallel) as run:
        wait_for(lambda: steps_made(nodes) >= 12, every=0.02, seen=lambda: logs(nodes))
        before = workers(nodes)
        os.kill(before[1], signal.SIGKILL)
        wait_for_end(run)
        assert run.exit_codes == [0, 0], (nodes / "node-0.log").read_text()
    assert all(workers(nodes)[rank] != before[rank] for rank in (0, 1))
    same_model(alone, nodes)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["data", "fully_sharded"])
def test_a_machine_lost_with_its_agent_is_replaced_by_another(alone: Path, tmp_path: Path, parallel: str) -> None:
    nodes = tmp_path
    fill(nodes)
    with torchrun(nodes, restarts=3, parallel=parallel) as run:
        wait_for(lambda: steps_made(nodes) >= 12, every=0.02, seen=lambda: logs(nodes))
        before = workers(nodes)
        run.lose_machine(1)
        run.start_agent(1)
        wait_for_end(run)
        assert run.exit_codes == [0, 0], (nodes / "node-0.log").read_text()
    assert all(workers(nodes)[rank] != before[rank] for rank in (0, 1))
    same_model(alone, nodes)


@pytest.mark.slow
def test_stopping_one_machine_stops_all_and_one_process_continues_from_their_state(alone: Path, tmp_path: Path) -> None:
    nodes = tmp_path
    fill(nodes)
    with torchrun(nodes) as run:
        wait_for(lambda: steps_made(nodes) >= 8, every=0.02, seen=lambda: logs(nodes))
        os.kill(workers(nodes)[1], signal.SIGTERM)  # like the agent of a machine that is taken away
        wait_for_end(run)
    assert 0 not in run.exit_codes
    # The agent that ends first takes the other's rendezvous away, and that one may report this instead.
    logs = [(nodes / f"node-{number}.log").read_text() for number in range(2)]
    assert any("exitcode  : 130 " in log for log in logs), logs
    made = steps_made(nodes)
    assert 8 <= made < 40
    assert list((nodes / "store" / "scratch").glob("*/state.safetensors"))
    train_in(nodes, recipe(nodes, **CHANGES))
    same_model(alone, nodes)


def test_a_torchrun_without_the_setting_for_clean_restarts_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = {"MAX_RESTARTS": "3", "USE_AGENT_STORE": "True"}
    for name, value in told.items():
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"expected TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"), world_of_torchrun():
        pass
