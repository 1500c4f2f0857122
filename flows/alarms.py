"""Who is told when a night goes wrong: automations for runs that failed, crashed or are late, and for a missing night.

    python -m flows.alarms https://hooks.example.com/...      # takes {"text": ...}, as Slack's and Mattermost's do

Run it again with another address or other hours; it replaces what it made. A server that is down tells of nothing: let
something outside ask its `/api/health`.
"""

import argparse
import contextlib
from datetime import timedelta
from typing import Final, cast

from prefect.automations import Automation
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture

BLOCK: Final = "refine-ops-operator"
TOLD_OF: Final = ("refine-batch", "drift-report", "train-lora", "refine-eval", "build-dataset", "detect-regions")
"""Flows whose runs somebody should hear of; a lost lane of `refine-shards` is mended by its parent."""


def deploy_alarms(url: str, quiet: timedelta) -> list[str]:
    """Make or replace the webhook and the automations; returns their names.

    Args:
        url: Answers a POST of `{"text": ...}`.
        quiet: How long no `refine-batch` may have completed; a night's rhythm and two hours.
    """
    block = CustomWebhookNotificationBlock(name=BLOCK, url=url, json_data={"text": "{{subject}}: {{body}}"})
    tell = SendNotification(
        block_document_id=block.save(BLOCK, overwrite=True),
        subject="{{ automation.name }}",
        body="{{ flow_run.name }} of {{ flow.name }}: {{ flow_run.state.message }} {{ flow_run|ui_url }}",
    )
    nobody = tell.model_copy(
        update={"body": f"no refine-batch has completed for {quiet}: is the schedule active, is a worker running?"}
    )
    alarms = [
        _alarm("refine-ops: a run failed", {"Failed", "Crashed", "TimedOut"}, TOLD_OF, tell),
        _alarm("refine-ops: a run is late", {"Late"}, TOLD_OF, tell),
        _alarm("refine-ops: no night completed", {"Completed"}, ("refine-batch",), nobody, quiet),
    ]
    for alarm in alarms:
        with contextlib.suppress(ValueError):  # there is none yet
            cast(Automation, Automation.read(name=alarm.name)).delete()
        alarm.create()
    return [alarm.name for alarm in alarms]


def _alarm(
    name: str, states: set[str], flows: tuple[str, ...], action: SendNotification, quiet: timedelta | None = None
) -> Automation:
    """An alarm on any of these events or, with `quiet`, on their absence for so long."""
    trigger = EventTrigger(
        posture=Posture.Reactive if quiet is None else Posture.Proactive,
        expect={f"prefect.flow-run.{state}" for state in states},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": list(flows)},
        threshold=1,
        within=quiet or timedelta(0),
    )
    return Automation(name=name, description=__doc__.splitlines()[0], trigger=trigger, actions=[action])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.alarms")
    parser.add_argument("url", help="a webhook that takes {'text': ...}")
    parser.add_argument("--hours", type=float, default=26.0, help="without a completed refine-batch (default 26)")
    given = parser.parse_args()
    print("\n".join(deploy_alarms(given.url, timedelta(hours=given.hours))))


if __name__ == "__main__":
    main()
