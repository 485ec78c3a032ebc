"""Asking on Prefect's page: a deployed run that needs an answer is suspended until somebody gives it there.

An artifact says what is asked, why, and how much work it is about. The form behind Resume on the page takes the answer,
`keep` or `remake`. A suspended run has no process and holds no concurrency slot of its deployment. Once resumed,
it begins again, with the answer.
"""

from collections.abc import Sequence
from typing import Literal
from uuid import UUID

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.context import FlowRunContext
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.states import Cancelled, Suspended

from flows.service.notifying import tell_failure

KEY = "segue-upgrade"
"""The artifact's key on the page, which shows the newest artifact with this key and earlier ones."""

WAIT_SECONDS = 7 * 86_400
"""Seconds after which a run without an answer fails: a week."""


class Answer(RunInput):
    """What to do with the tables that a release changed."""

    on_upgrade: Literal["keep", "remake"]


def ask_on_page(lines: Sequence[str]) -> str:
    """Suspend the current flow run until somebody answers on Prefect's page, and return the answer once it is resumed.

    Only the newest run of a deployment waits; earlier ones that wait for the same answer are cancelled. When the first
    one begins to wait, the receiver in `settings.on_failure` is notified.

    Args:
        lines: what a release changed, and what making it again takes.

    Returns:
        `keep` or `remake`; empty for a run without a deployment, which cannot be suspended.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow is None:
        return ""
    text = _text(lines)
    if context.flow_run.deployment_id is None:
        create_markdown_artifact(key=KEY, markdown=text, description="Waits for an answer")
        return ""
    if KEY not in (context.flow_run.empirical_policy.pause_keys or ()):  # else the run was resumed and has its answer
        create_markdown_artifact(key=KEY, markdown=text, description="Waits for an answer")
        if not _cancel_waiting(context.flow_run.deployment_id):
            message = f"a release changed {'; '.join(lines)}: resume the run with an answer, keep or remake"
            tell_failure(context.flow, context.flow_run, Suspended(message=message))
    form = Answer.with_initial_data(description=text)
    return suspend_flow_run(wait_for_input=form, timeout=WAIT_SECONDS, key=KEY).on_upgrade


def _text(lines: Sequence[str]) -> str:
    changes = "\n".join(f"    {' '.join(line.split())}" for line in lines)  # indented: not Markdown
    return (
        f"# A release changed what made this store's tables\n\n{changes}\n\n"
        "Nothing was done yet. **Resume** this run with an answer:\n\n"
        "- `keep`: continue with what is there; new rows are added to it\n"
        "- `remake`: make it again\n\n"
        "`settings.on_upgrade` of the deployment gives the answer for all its runs.\n"
    )


def _cancel_waiting(deployment: UUID) -> int:
    """Cancel the suspended runs of a deployment, and return how many there were."""
    suspended = FlowRunFilter(state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Suspended"])))
    ours = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    with get_client(sync_client=True) as client:
        waiting = client.read_flow_runs(flow_run_filter=suspended, deployment_filter=ours)
        for run in waiting:
            client.set_flow_run_state(run.id, Cancelled(message="A later run waits for the same answer."), force=True)
    return len(waiting)
