"""The words that say what opens the disks at boot: "tpm2 and tang", "tpm2 and 1 of tang"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from agent.plan.part import Kind, from_text, shown

_TANG = r"(?:([0-9]{1,2}) +of +)?tang"
_WORDS = re.compile(
    rf"(?P<tpm>tpm2)|{_TANG}|tpm2 +(?P<join>and|or) +{_TANG}|{_TANG} +(?P<joined>and|or) +tpm2"
)


@dataclass(frozen=True)
class Policy:
    """What must answer before the disks open: the TPM, `tang` servers out of those given, or both.

    `tang` is 0 where Tang has no part. `counted` says that the plan named the number of servers;
    without it there must be one server. `together` is true for "and" and where only one kind has a
    part, false for "or".
    """

    tpm2: bool
    tang: int = 0
    together: bool = True
    counted: bool = False

    def __post_init__(self) -> None:
        if not self.tpm2 and not self.tang:
            raise ValueError("nothing opens the disks: name tpm2, tang or both")

    @property
    def threshold(self) -> int:
        """How many of the two kinds must answer: the outer `t` of Clevis' sss pin."""
        return 2 if self.tpm2 and self.tang and self.together else 1

    def __str__(self) -> str:
        tang = f"{self.tang} of tang" if self.counted else "tang"
        terms = ["tpm2"] * self.tpm2 + [tang] * bool(self.tang)
        return (" and " if self.together else " or ").join(terms)


def parse_policy(text: str) -> Policy:
    """Return the policy of its words; raise ValueError with the words there are."""
    match = _WORDS.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(
            f"{shown(text)} is not an unlock policy: write tpm2 and tang, tpm2 or tang, tpm2, "
            "tang, or with several servers tpm2 and 1 of tang"
        )
    if match["tpm"]:
        return Policy(tpm2=True)
    join = match["join"] or match["joined"]
    count = next((group for group in match.groups() if group and group.isdigit()), None)
    if count is not None and int(count) == 0:
        raise ValueError(f"{shown(text)} asks for no Tang server: leave tang out or ask for 1")
    return Policy(
        tpm2=join is not None,
        tang=int(count or 1),
        together=join != "or",
        counted=count is not None,
    )


Unlock = Annotated[
    Policy,
    Kind("unlock policy"),
    PlainValidator(from_text(Policy, parse_policy)),
    PlainSerializer(str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^(tpm2|(tpm2 +(and|or) +)?([0-9]+ +of +)?tang"
            r"|([0-9]+ +of +)?tang +(and|or) +tpm2)$",
            "examples": ["tpm2 and tang", "tpm2 or tang", "tpm2", "tang", "tpm2 and 1 of tang"],
        }
    ),
]
