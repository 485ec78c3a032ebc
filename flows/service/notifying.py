"""Notifying somebody that a run failed, through a block of Prefect or the address of a webhook.

Flows use `tell_failure` as their hook. Secrets, such as the address of a Slack channel, are in a block on the server;
the parameters, which everybody sees, have only the block's name.
"""

import asyncio
import json
import urllib.request
from collections.abc import Callable
from typing import Any

from prefect import Flow
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.blocks.webhook import Webhook
from prefect.client.schemas.objects import FlowRun, State
from prefect.logging.loggers import flow_run_logger
from prefect.settings import PREFECT_UI_URL

from flows.recipes.parameters import settings_of

SEND_SECONDS = 15.0
"""Seconds that the receiver has to answer."""

Send = Callable[[str, str], None]
"""Sends a message, given its subject and its body."""


def tell_failure(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Notify the receiver in `settings.on_failure` that a run failed or crashed. If that fails, the run's log says
    so."""
    settings = settings_of(flow_run)
    where = settings.get("on_failure")
    if not where:
        return
    page = PREFECT_UI_URL.value()
    lines = [
        " ".join((state.message or "no message").split()),
        f"store: {settings.get('store', 'the default')}",
        f"run: {page}/runs/flow-run/{flow_run.id}" if page else f"run: {flow_run.id}",
    ]
    try:
        sender(where)(f"Segue: {flow_run.name}: {state.name}", "\n".join(lines))
    except Exception as error:  # a fault of the receiver must not fail the run
        log = flow_run_logger(flow_run, flow)
        log.warning("settings.on_failure: expected %s to accept a message, got %s", where, type(error).__name__)


def sender(where: str) -> Send:
    """Return the function that sends messages to a receiver.

    Args:
        where: a block's type and name, such as `slack-webhook/ops`, or an http(s) address.

    Raises:
        ValueError: there is no such block, or it cannot send messages.
    """
    if where.startswith(("http://", "https://")):
        return lambda subject, body: _post(where, subject, body)
    try:
        block: Any = Block.load(where)
    except Exception as error:
        raise ValueError(
            "expected settings.on_failure to name a block of Prefect, such as slack-webhook/ops, or an http(s) URL, "
            f"got {where!r}, which cannot be loaded: make it on the page, under Blocks"
        ) from error
    if isinstance(block, NotificationBlock):
        return lambda subject, body: _notify(block, subject, body)
    if isinstance(block, Webhook):
        return lambda subject, body: _call(block, subject, body)
    raise ValueError(f"expected a block for notifications or webhooks in settings.on_failure, got {where!r}")


def _notify(block: Any, subject: str, body: str) -> None:
    block.notify(body, subject)


def _call(block: Any, subject: str, body: str) -> None:
    asyncio.run(block.call(_message(subject, body))).raise_for_status()


def _post(address: str, subject: str, body: str) -> None:
    data = json.dumps(_message(subject, body)).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=SEND_SECONDS):
        pass


def _message(subject: str, body: str) -> dict[str, str]:
    """Return a message in the form that Slack, Mattermost and most others understand."""
    return {"subject": subject, "text": f"{subject}\n{body}"}
