"""Which providers carry which channel in which lane: the value that a providers' file is read to."""

from collections.abc import Mapping

import msgspec

from sinks.channels.kinds import ProviderSpec

EMAIL = "email"


class ProvidersConfig(msgspec.Struct, frozen=True):
    """`lanes`: lane -> channel -> providers in the order of preference. The next one is taken while one is down."""

    lanes: Mapping[str, Mapping[str, tuple[ProviderSpec, ...]]] = {}

    def channels(self, lane: str) -> Mapping[str, tuple[ProviderSpec, ...]]:
        """Return the providers of a lane by channel."""
        return self.lanes.get(lane, {})
