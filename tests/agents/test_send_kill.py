"""kill -9 of the delivery process: nothing is lost; what arrives twice was in the named window and can be told."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from agents.send_lane import Limits
from tests.agents.delivery_lab import Lab, send_command, until

CONNECTIONS = Limits().connections


@pytest.mark.faults
async def test_kill_9_loses_nothing_and_doubles_only_inside_the_window(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    told = {
        "kafka": lab.kafka,
        "smtp_url": lab.smtp.url,
        "templates_dir": str(lab.templates),
        "state_dir": str(tmp_path / "state"),
    }
    command = [sys.executable, "-m", "tests.agents.delivery_process", json.dumps(told)]
    lab.write(*(send_command(n) for n in range(300)))
    kills = 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for goal in (60, 180):
            while lab.smtp.received < goal:
                await asyncio.sleep(0.02)
            process.kill()
            process.wait()
            kills += 1
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        await until(lambda: len({mail.recipient for mail in lab.smtp.mails}) == 300, 40)
        await asyncio.sleep(1)
        assert set(lab.statuses()) == {f"m{n}" for n in range(300)}
        doubles = lab.smtp.received - 300
        assert doubles <= kills * CONNECTIONS, f"{doubles} twice after {kills} kills"
        attempts = {event.member_id: event.data["attempt"] for event in lab.receipts() if event.type == "delivery.sent"}
        twice = {mail.recipient for mail in lab.smtp.mails if lab.smtp.repeated.get(mail.message_id)}
        assert all(attempts[f"m{recipient[1:].partition('@')[0]}"] >= 2 for recipient in twice)
        print(f"{doubles} of 300 arrived twice in {kills} kills")
    finally:
        process.kill()
        process.wait()
        lab.close()
