"""A directory of mail: what the built-in SMTP server takes in `up`, one .eml file each, the newest kept."""

import os
import re
from collections import deque
from pathlib import Path

from tidings.smtp_server import ReceivedMail

KEPT = 10_000
_NOT_NAME = re.compile(r"[^A-Za-z0-9._-]")


class Mailbox:
    """Files named by their arrival and message id. They hold addresses: only their owner can read them."""

    def __init__(self, directory: Path, kept: int = KEPT) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        self._kept = kept
        self._files = deque(sorted(directory.glob("*.eml")))
        last = self._files[-1].name.partition("-")[0] if self._files else "0"
        self._number = int(last) if last.isdigit() else len(self._files)

    def keep(self, mail: ReceivedMail) -> None:
        """Write one mail, whole or not at all; beyond the bound the oldest goes."""
        self._number += 1
        name = f"{self._number:09d}-{_NOT_NAME.sub('_', mail.message_id.partition('@')[0])[:64]}.eml"
        path = self.directory / name
        draft = path.with_suffix(".part")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(mail.content)
        draft.replace(path)
        self._files.append(path)
        while len(self._files) > self._kept:
            self._files.popleft().unlink(missing_ok=True)
