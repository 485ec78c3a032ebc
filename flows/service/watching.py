"""Watching the state of the current run on Prefect's server, so that it ends when it should not be running.

A worker tells its run to stop by a signal. If the server was down when someone cancelled the run, or the worker is
gone, the signal never comes: after five minutes the server marks the run Cancelled and gives its slot to the next run,
while the process continues for hours. So the run asks the server now and then, and ends at its next batch if the
server says that it is cancelled or crashed.

A server that was down received no heartbeats meanwhile, and `flows/service/automations.yaml` makes it take a silent run
for dead. So the run sends a heartbeat as soon as the server answers again.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.events.schemas.events import Event, Resource
from prefect.exceptions import Abort
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled

LOOK_SECONDS = 10.0
"""Seconds between two looks. Each is one small request, which takes the server about a millisecond."""

AWAY_SECONDS = 2.0
"""Seconds between two looks while the server does not answer."""

HEARTBEAT = "prefect.flow-run.heartbeat"


@contextmanager
def watching_server(stop: threading.Event) -> Iterator[None]:
    """Set `stop` within this block as soon as the server says that the current flow run is cancelled or crashed.

    Raises:
        Abort: the server said so, and the block then ended with an error. The server's state of the run stays.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        yield
        return
    flow_run, ended, states = context.flow_run.id, threading.Event(), list[State]()
    surroundings = copy_context()  # with the Prefect settings that are in effect here
    threading.Thread(target=surroundings.run, args=(_watch, flow_run, stop, ended, states), daemon=True).start()
    try:
        yield
    except Exception as error:
        if not states:
            raise
        if states[0].is_cancelling():
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(flow_run, Cancelled(message="It ended at its next batch."), force=True)
        raise Abort(f"Prefect's server says that this run is {states[0].name}") from error
    finally:
        ended.set()


def _watch(flow_run: UUID, stop: threading.Event, ended: threading.Event, states: list[State]) -> None:
    away = False
    # Prefect's client would retry for a minute, with longer and longer waits, even if the server is back by then.
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
        while not ended.wait(AWAY_SECONDS if away else LOOK_SECONDS):
            was_away, away = away, True
            with suppress(Exception), get_client(sync_client=True) as client:  # the server may be down
                state = client.read_flow_run(flow_run).state
                if state is not None and (state.is_cancelling() or state.is_cancelled() or state.is_crashed()):
                    states.append(state)
                    stop.set()
                    return
                if was_away:
                    resource = Resource({"prefect.resource.id": f"prefect.flow-run.{flow_run}"})
                    beat = Event(event=HEARTBEAT, resource=resource)
                    client.request("POST", "/events", json=[beat.model_dump(mode="json")]).raise_for_status()
                away = False
