"""`policies.yaml` as the commands read it: found beside the campaigns they are given."""

from collections.abc import Iterable
from pathlib import Path

from schemas.errors import CampaignError, OperatorError
from schemas.findings import Finding
from schemas.policy import Policy
from streams.policies.load import load_policy
from tidings.files import policy_paths, read_text


def policy_findings(paths: Iterable[str | Path]) -> tuple[int, list[Finding]]:
    """Check every policy file below some paths: how many there are, and what is wrong with them."""
    files = policy_paths(paths)
    return len(files), [finding for file in files for finding in load_policy(read_text(file), str(file))[1]]


def the_policy_file(paths: Iterable[str | Path]) -> Path | None:
    """Find the one policy file below some paths; None where there is none.

    Raises:
        OperatorError: there are several, and one log has one set of policies.
    """
    files = policy_paths(paths)
    if len(files) > 1:
        raise OperatorError(
            f"{files[1]}: a second policy file (got {len(files)}, the first is {files[0]}); one log has one: name the"
            " directory of one of them"
        )
    return files[0] if files else None


def read_policy(path: Path) -> Policy:
    """Read a policy file.

    Raises:
        CampaignError: it has errors.
    """
    policy, findings = load_policy(read_text(path), str(path))
    if policy is None:
        raise CampaignError(findings)
    return policy


def policy_of(paths: Iterable[str | Path]) -> Policy | None:
    """Read the policies beside campaigns; None where there are none.

    Raises:
        CampaignError: the file has errors.
        OperatorError: there are several files.
    """
    file = the_policy_file(paths)
    return None if file is None else read_policy(file)
