"""How the disks are encrypted, what opens them at boot, and who can when nothing else does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, StrictBool, StrictInt, StrictStr

from agent.plan.advertisement import Advertised
from agent.plan.certificate import Certificate
from agent.plan.part import Fault, Part, one_of, shown
from agent.plan.text import Url
from agent.plan.unlock import Unlock

Seal = Literal["first-boot", "now"]
_S256 = re.compile(r"[A-Za-z0-9_-]{43}")
_S1 = re.compile(r"[A-Za-z0-9_-]{27}")

# What the live image measures differently from the system it installs: its loader, kernel, command
# line and initrd. Only the firmware's own registers can be right before the first boot.
DIFFER_AFTER_INSTALL = frozenset({4, 5, 8, 9, 10, 11, 12, 13, 14, 15})
RESETTABLE = frozenset({16, 23})  # TCG PC Client profile: any program may reset these

WHY_TRUST = (
    "needs a thumbprint (jose jwk thp, tang-show-keys) or an advertisement: whichever server "
    "answered at that address would be trusted otherwise"
)


def parse_thumbprint(text: str) -> str:
    """Return the SHA-256 thumbprint of a Tang signing key, base64url without padding."""
    if _S1.fullmatch(text):
        raise ValueError(f"{shown(text)} is a SHA-1 thumbprint: give the SHA-256 one (-a S256)")
    if not _S256.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a thumbprint: 43 characters of base64url")
    return text


Thumbprint = Annotated[StrictStr, AfterValidator(parse_thumbprint)]


class Tang(Part):
    """A Tang server and why to believe it is the right one."""

    url: Url = Field(description="address; an IP address spares the initrd a name server")
    thumbprint: Thumbprint | None = Field(
        None, description="SHA-256 thumbprint of its signing key, as tang-show-keys prints it"
    )
    advertisement: Advertised | None = Field(
        None,
        description="what its /adv answers, as JSON: trusted as it is, and the server "
        "need not be reachable during the installation",
    )

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return (self._trust(),)

    def _trust(self) -> Iterator[Fault]:
        if self.thumbprint is None and self.advertisement is None:
            yield Fault((), WHY_TRUST)
        if (
            self.thumbprint
            and self.advertisement
            and not self.advertisement.signed_by(self.thumbprint)
        ):
            yield Fault(
                ("thumbprint",), f"no key of the advertisement has the thumbprint {self.thumbprint}"
            )


class Tpm2(Part):
    """What the TPM checks before it hands out its share."""

    later: ClassVar[frozenset[str]] = frozenset({"pcr_bank", "pcr_digest", "pin", "public_key"})

    pcrs: tuple[StrictInt, ...] = Field(
        (7,), description="registers of the SHA-256 bank that must be as they were when sealed"
    )
    seal: Annotated[Seal, one_of(("first-boot", "now"), later=("predict",))] = Field(
        "first-boot",
        description="first-boot binds to the TPM alone and adds the registers when the installed "
        "system first runs; now takes their present values, right where the live image and the "
        "installed system measure the same",
    )

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return self._registers(), self._sealed_now()

    def _registers(self) -> Iterator[Fault]:
        if not self.pcrs:
            yield Fault(("pcrs",), "is empty: 7 is the register of Secure Boot's state")
        for number, pcr in enumerate(self.pcrs):
            if not 0 <= pcr <= 23:
                yield Fault(("pcrs", number), f"{pcr} is not a register: there are 0 to 23")
            elif pcr in RESETTABLE:
                yield Fault(("pcrs", number), f"{pcr} can be reset by any program: take 7")
            elif pcr in self.pcrs[:number]:
                yield Fault(("pcrs", number), f"{pcr} is there twice")

    def _sealed_now(self) -> Iterator[Fault]:
        for number, pcr in enumerate(self.pcrs):
            if self.seal == "now" and pcr in DIFFER_AFTER_INSTALL:
                yield Fault(
                    ("pcrs", number),
                    f"{pcr} holds the live image's own start, which the installed system never "
                    "repeats: use seal: first-boot",
                )


class Recovery(Part):
    """Who can open the disks when neither Tang nor the TPM does."""

    escrow_to: tuple[Certificate, ...] = Field(
        description="PEM certificates; each of their keys opens the recovery key's envelope",
        min_length=1,
        max_length=16,
    )


class Encryption(Part):
    """One LUKS2 container below all volumes."""

    later: ClassVar[frozenset[str]] = frozenset({"passphrase", "cipher", "integrity", "discard"})

    unlock: Unlock = Field(description="what opens the disks at boot without a person")
    tang: tuple[Tang, ...] = Field((), description="the Tang servers", max_length=16)
    tpm2: Tpm2 = Field(Tpm2(), description="how the TPM takes part")
    fips: StrictBool = Field(
        False, description="only algorithms FIPS 140 knows: PBKDF2, AES-XTS with 512-bit keys"
    )
    recovery: Recovery = Field(description="the recovery key that every installation has")

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return self._tang_answers(), self._tpm2_is_used(), self._servers_differ()

    def _tang_answers(self) -> Iterator[Fault]:
        policy, servers = self.unlock, len(self.tang)
        if policy.tang and not servers:
            yield Fault(("tang",), f'is missing: unlock is "{policy}", so name at least one server')
        elif policy.tang > servers:
            yield Fault(
                ("unlock",), f"{policy.tang} Tang servers must answer, the plan names {servers}"
            )
        elif policy.tang and servers > 1 and not policy.counted:
            yield Fault(
                ("unlock",),
                f'"{policy}" does not say how many of the {servers} Tang servers must answer: '
                f"write it as 1 of tang or {servers} of tang",
            )
        if servers and not policy.tang:
            yield Fault(("tang",), f'is never used: unlock is "{policy}"')

    def _tpm2_is_used(self) -> Iterator[Fault]:
        if not self.unlock.tpm2 and "tpm2" in self.model_fields_set:
            yield Fault(("tpm2",), f'is never used: unlock is "{self.unlock}"')

    def _servers_differ(self) -> Iterator[Fault]:
        urls = [server.url for server in self.tang]
        for number, url in enumerate(urls):
            if url in urls[:number]:
                yield Fault(("tang", number, "url"), f"{url} is there twice")
