"""Every failure the agent reports on purpose.

    AgentError
    ├── PlanError       exit 3   the plan is wrong; nothing was touched
    ├── MachineError    exit 4   this machine cannot carry the plan; nothing was touched
    └── StepError       exit 5   a step failed; the disks were left unbootable
        ├── CommandError         a program failed, hung, or is missing
        └── ImageError           an image could not be fetched, decoded or verified

There are as many classes as there are different reactions. Anything else that escapes is a bug and
keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Problem:
    """One reason why nothing may be touched.

    `where` is the place: a path in the plan (`storage.volumes[2].size`), a file, a disk.
    `message` says what is wrong and what would be right, both values named, no full stop.
    """

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class AgentError(Exception):
    """Root of the failures that are reported on purpose; `exit_status` is the reaction."""

    exit_status = 1


class _ProblemsError(AgentError):
    def __init__(self, problems: Sequence[Problem]) -> None:
        assert problems, "an error without a problem"
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class PlanError(_ProblemsError):
    """The plan (or another document an operator wrote) is wrong. Nothing was touched."""

    exit_status = 3


class MachineError(_ProblemsError):
    """This machine cannot carry out the plan. Nothing was touched."""

    exit_status = 4


class StepError(AgentError):
    """A step failed after writing began; the disks are left unbootable."""

    exit_status = 5


class LeftOpenError(StepError):
    """The last step failed: the system is installed and bootable, its volumes were not closed."""


class CommandError(StepError):
    """A program failed, did not finish in time, or is not installed.

    `argv` never holds a secret (they travel on stdin), so the message is safe to show.
    """

    def __init__(self, argv: Sequence[str], what: str, stderr: str = "") -> None:
        self.argv = tuple(argv)
        self.what = what
        self.stderr = stderr.strip()
        tail = f": {self.stderr}" if self.stderr else ""
        super().__init__(f"{' '.join(argv)}: {what}{tail}")


class ImageError(StepError):
    """An image could not be fetched, decoded or verified."""


@contextmanager
def reading_only() -> Iterator[None]:
    """Let a `StepError` out as a `MachineError`: nothing is written inside.

    Adapters raise `StepError` also where the machine is only looked at, and that class tells the
    operator that a disk was left unbootable.
    """
    try:
        yield
    except StepError as error:
        raise MachineError([Problem("", str(error))]) from error
