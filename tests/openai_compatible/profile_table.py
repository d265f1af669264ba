"""The table of hosted APIs in docs/guides/hosted.md, from the profiles."""

from __future__ import annotations

from rsd_integrations.openai_compatible.hosted import HOSTED
from rsd_integrations.openai_compatible.profile import Profile
from rsd_integrations.openai_compatible.request_fields import off_options

HEAD = (
    "| profile | recognised by | token limit | never sent | thoughts are returned | switched off by | steps |\n"
    + "|---" * 7
    + "|"
)


def table() -> str:
    """The whole table."""
    return "\n".join([HEAD, *map(_row, HOSTED)])


def _row(profile: Profile) -> str:
    cells = [
        f"`{profile.name}`",
        ", ".join(f"`{host.removesuffix('/*')}`" for host in profile.hosts),
        f"`{profile.cap}`",
        ", ".join(f"`{name}`" for name in sorted(profile.refuses)) or "–",
        profile.thoughts,
        " ".join(f"`{option}`" for option in off_options(profile.without_thoughts)) or "–",
        "turns" if profile.continues is None else "steps, without thoughts",
    ]
    return f"| {' | '.join(cells)} |"
