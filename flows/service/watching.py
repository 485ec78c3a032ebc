"""What Prefect's server says of the run at hand, which the run looks up itself.

A run is told to stop by a signal from its worker. Where the server was away when someone cancelled it, or its worker
is gone, that signal never comes: the server writes Cancelled after five minutes, gives the run's place to the next one,
and the process goes on for hours. So it asks now and then, and ends at its next batch where it should not be running.

A server that was away has heard no heartbeat meanwhile, and `flows/service/automations.yaml` has it take a silent run
for a dead one. So the run says that it lives as soon as the server answers again.
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
"""Between two looks: one small question to the server, whose answer costs it a millisecond or so."""

AWAY_SECONDS = 2.0
"""Between two looks for a server that is away."""

HEARTBEAT = "prefect.flow-run.heartbeat"


@contextmanager
def heeding_server(stop: threading.Event) -> Iterator[None]:
    """Set `stop` within this block as soon as the server says that the flow run at hand is cancelled or crashed.

    Raises:
        Abort: it says so, and the block ended for it; the server's word stands as the state of the run.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        yield
        return
    flow_run, ended, said = context.flow_run.id, threading.Event(), list[State]()
    within = copy_context()  # which has the settings of Prefect that hold here
    threading.Thread(target=within.run, args=(_watch, flow_run, stop, ended, said), daemon=True).start()
    try:
        yield
    except Exception as error:
        if not said:
            raise
        if said[0].is_cancelling():
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(flow_run, Cancelled(message="It ended at its next batch."), force=True)
        raise Abort(f"Prefect's server says that this run is {said[0].name}") from error
    finally:
        ended.set()


def _watch(flow_run: UUID, stop: threading.Event, ended: threading.Event, said: list[State]) -> None:
    away = False
    # Prefect's client would try for a minute, waiting longer each time, while the server is back already.
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
        while not ended.wait(AWAY_SECONDS if away else LOOK_SECONDS):
            was_away, away = away, True
            with suppress(Exception), get_client(sync_client=True) as client:  # of one that is away nothing is known
                state = client.read_flow_run(flow_run).state
                if state is not None and (state.is_cancelling() or state.is_cancelled() or state.is_crashed()):
                    said.append(state)
                    stop.set()
                    return
                if was_away:
                    resource = Resource({"prefect.resource.id": f"prefect.flow-run.{flow_run}"})
                    beat = Event(event=HEARTBEAT, resource=resource)
                    client.request("POST", "/events", json=[beat.model_dump(mode="json")]).raise_for_status()
                away = False
