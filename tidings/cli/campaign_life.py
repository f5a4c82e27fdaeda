"""`campaigns pause|resume|drain|stop`: what an operator says of a campaign, as control records on the log."""

from collections.abc import Callable
from typing import Any

import click

from schemas.events import CAMPAIGN_DRAINED, CAMPAIGN_PAUSED, CAMPAIGN_RESUMED, CAMPAIGN_STOPPED
from tidings.cli.output import output_option, print_rows

Tell = Callable[[str, tuple[str, ...], str | None, str, str], list[dict[str, Any]]]
"""(name of the command, ids, broker, event type, state from then on) -> what was done."""

_WORDS = {
    "pause": (
        CAMPAIGN_PAUSED, "paused",
        "Pause campaigns: nothing begins, and messages wait.",
        "Waits of running journeys go on, and goals and exits end them; a journey that comes to a message stands\n"
        "there until 'resume', as long as the message is of use (send.lifetime). What happens meanwhile begins\n"
        "nothing later.",
    ),
    "resume": (
        CAMPAIGN_RESUMED, "live",
        "Let paused or draining campaigns go on.",
        "Messages that a pause holds leave within 15 minutes, spread over them.",
    ),
    "drain": (
        CAMPAIGN_DRAINED, "draining",
        "Let campaigns begin nothing new; what runs goes on to its end.",
        "'resume', or publishing it again, lets it begin again.",
    ),
    "stop": (
        CAMPAIGN_STOPPED, "stopped",
        "Stop campaigns: nothing begins, and what runs ends, reason 'stopped'.",
        "Only publishing it again starts it, anew; its caps still hold then.",
    ),
}  # fmt: skip


def life_commands(broker_option: Callable[[Any], Any], tell: Tell) -> list[click.Command]:
    """Make the four commands; `tell` sends their records."""
    return [_command(name, broker_option, tell) for name in _WORDS]


def _command(name: str, broker_option: Callable[[Any], Any], tell: Tell) -> click.Command:
    kind, state, short, more = _WORDS[name]

    @broker_option
    @output_option
    def run(names: tuple[str, ...], broker: str | None, output: str) -> None:
        print_rows(tell(name, names, broker, kind, state), output)

    run.__doc__ = (
        f"{short}\n\n{more}\n\n\b\nExamples:\n  python -m tidings campaigns {name} thank_you\n"
        f"  python -m tidings campaigns {name} thank_you cart_reminder --output json\n"
    )
    argument = click.argument("names", metavar="CAMPAIGN...", nargs=-1, required=True)
    return click.command(name)(argument(run))
