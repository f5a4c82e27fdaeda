"""One delivery process, to be killed: python -m tests.agents.delivery_process <json of run_delivery's arguments>."""

import asyncio
import json
import sys
from pathlib import Path

from agents.send import run_delivery
from sinks.retry import Backoff


async def main() -> None:
    told = json.loads(sys.argv[1])
    await run_delivery(
        kafka=told["kafka"],
        smtp_url=told["smtp_url"],
        mail_from="Shop <news@shop.example>",
        templates_dir=Path(told["templates_dir"]),
        state_dir=Path(told["state_dir"]),
        unsubscribe_base_url="https://shop.example/u",
        unsubscribe_secret=b"s" * 32,
        stop=asyncio.Event(),
        backoff=Backoff(base_ms=100, cap_ms=400, attempts=20),
    )


if __name__ == "__main__":
    asyncio.run(main())
