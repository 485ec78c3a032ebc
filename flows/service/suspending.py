"""A deployed run that waits for a word: it is suspended, an artifact says what, why and how much, and the form behind
Resume on Prefect's page takes the word.

A suspended run has no process and holds no place of its deployment. Resumed, it begins anew, with the word.
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
"""The artifact's name on the page, which shows the newest of it and those before."""

WAIT_SECONDS = 7 * 86_400
"""After a week without a word a run fails."""


class Word(RunInput):
    """What is to become of what a release changed."""

    on_upgrade: Literal["keep", "remake"]


def ask_on_page(lines: Sequence[str]) -> str:
    """Suspend the flow run at hand until somebody gives a word on Prefect's page, and return that once it is resumed.

    Only the newest run of a deployment waits: those before it that wait for the same word are cancelled. Whom
    `settings.on_failure` names is told of the first.

    Args:
        lines: what a release changed, and what it takes to make that again.

    Returns:
        `keep` or `remake`; nothing for a run without a deployment, which cannot be suspended.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow is None:
        return ""
    text = _text(lines)
    if context.flow_run.deployment_id is None:
        create_markdown_artifact(key=KEY, markdown=text, description="Waits for a word")
        return ""
    if KEY not in (context.flow_run.empirical_policy.pause_keys or ()):  # else it was resumed, and has its word
        create_markdown_artifact(key=KEY, markdown=text, description="Waits for a word")
        if not _cancel_waiting(context.flow_run.deployment_id):
            message = f"a release changed {'; '.join(lines)}: resume the run with a word, keep or remake"
            tell_failure(context.flow, context.flow_run, Suspended(message=message))
    form = Word.with_initial_data(description=text)
    return suspend_flow_run(wait_for_input=form, timeout=WAIT_SECONDS, key=KEY).on_upgrade


def _text(lines: Sequence[str]) -> str:
    told = "\n".join(f"    {' '.join(line.split())}" for line in lines)  # indented, for text of a recipe is no Markdown
    return (
        f"# A release changed what made this store's tables\n\n{told}\n\n"
        "Nothing was done yet. **Resume** this run with a word:\n\n"
        "- `keep`: go on with what is there; new rows join it\n"
        "- `remake`: make it again\n\n"
        "`settings.on_upgrade` of the deployment gives that word for all its runs.\n"
    )


def _cancel_waiting(deployment: UUID) -> int:
    """Cancel the runs of a deployment that wait, and return how many did."""
    suspended = FlowRunFilter(state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Suspended"])))
    ours = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    with get_client(sync_client=True) as client:
        waiting = client.read_flow_runs(flow_run_filter=suspended, deployment_filter=ours)
        for run in waiting:
            client.set_flow_run_state(run.id, Cancelled(message="A later run waits for the same word."), force=True)
    return len(waiting)
