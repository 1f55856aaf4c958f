"""How the disks are encrypted, what opens them at boot, and who can when nothing else does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, StrictBool, StrictInt, StrictStr

from agent.plan.advertisement import Advertised
from agent.plan.certificate import Certificate
from agent.plan.part import Fault, Kind, Part, one_of, shown
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
    "needs a thumbprint (tang-show-keys prints it) or an advertisement: otherwise whichever server "
    "answers at that address would be trusted, and the agent never takes one unseen"
)


def parse_thumbprint(text: str) -> str:
    """Return the SHA-256 thumbprint of a Tang signing key, base64url without padding."""
    if _S1.fullmatch(text):
        raise ValueError(f"{shown(text)} is a SHA-1 thumbprint: give the SHA-256 one (-a S256)")
    if not _S256.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a thumbprint: 43 characters of base64url")
    return text


Thumbprint = Annotated[StrictStr, Kind("thumbprint"), AfterValidator(parse_thumbprint)]


class Tang(Part):
    """A Tang server, and why to believe it is the right one.

    With an advertisement the server need not be reachable during the installation. With a
    thumbprint it must be, and must show a signing key that has it. With both, the advertisement
    must have that key. One of the two is needed: nobody is there to look at a key and say yes.
    """

    example: ClassVar[str] = """\
url: http://10.0.0.7:7500
thumbprint: JZXd7eACA60ReRHo5ykcz0UgYrPOzjXDTdyWTz0hNjQ
"""

    url: Url = Field(description="address; with an IP address the initrd needs no name server")
    thumbprint: Thumbprint | None = Field(
        None, description="SHA-256 thumbprint of its signing key, as `tang-show-keys` prints it"
    )
    advertisement: Advertised | None = Field(
        None, description="what its `/adv` answers; trusted as it is"
    )

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return self._trust(), self._agree()

    def _trust(self) -> Iterator[Fault]:
        if self.thumbprint is None and self.advertisement is None:
            yield Fault((), WHY_TRUST)

    def _agree(self) -> Iterator[Fault]:
        thumbprint, advertisement = self.thumbprint, self.advertisement
        if thumbprint and advertisement and not advertisement.signed_by(thumbprint):
            message = f"no signing key of the advertisement has the thumbprint {thumbprint}"
            yield Fault(("thumbprint",), message)


class Tpm2(Part):
    """What the TPM checks before it hands out its share.

    `seal: first-boot` binds to this machine's TPM during the installation, and adds the registers
    when the installed system first runs and they hold its own values; until then the report says
    `provisional`. `seal: now` takes the values of the live image, which is right where both measure
    the same: one key signs both chains, or Secure Boot is off.
    """

    example: ClassVar[str] = """\
pcrs: [7]
seal: first-boot
"""

    pcrs: tuple[StrictInt, ...] = Field(
        (7,), description="registers of the SHA-256 bank; 7 holds the state of Secure Boot"
    )
    seal: Annotated[Seal, one_of(("first-boot", "now"), later=("predict",))] = Field(
        "first-boot", description="when the registers' values are taken"
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
    """The recovery key that every encrypted installation has, in a key slot of its own.

    It leaves the machine once, in a CMS envelope that the key of any one of these certificates
    opens with plain `openssl cms -decrypt`; the installation ends only after a report's server has
    acknowledged it. Certificates must have an RSA key of 3072 bits or more, or one on P-256, P-384
    or P-521, and must not be those of an authority.
    """

    example: ClassVar[str] = """\
escrow_to:
  - |
    -----BEGIN CERTIFICATE-----
    MIIBnTCCAUKgAwIBAgIUEtO/HsuCpn/7Ooi7XL3EjGr/RI8wCgYIKoZIzj0EAwIw
    HTEbMBkGA1UEAwwSZXNjcm93LmV4YW1wbGUuY29tMB4XDTI2MTEyMjE3MDcxN1oX
    DTM2MTExOTE3MDcxN1owHTEbMBkGA1UEAwwSZXNjcm93LmV4YW1wbGUuY29tMFkw
    EwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEvmSbX40pOx2HGi92IS+xN6BlND1rApiE
    AAtNTNt+msj/G4f/8IfnMDPrNad7DA58/FUexCnv5ZpR5hG781XiSaNgMF4wHQYD
    VR0OBBYEFK/ciVjT+QuluDXbrMbJbaU40l/0MB8GA1UdIwQYMBaAFK/ciVjT+Qul
    uDXbrMbJbaU40l/0MAwGA1UdEwEB/wQCMAAwDgYDVR0PAQH/BAQDAgMIMAoGCCqG
    SM49BAMCA0kAMEYCIQCC56891QiRCqZ6lRlG9m/X+8DclcL4vCX7BY7yyROGZAIh
    APZlvic8C6QLTVN9ACz5aRWzLSWlLROCOtim4KAgECXd
    -----END CERTIFICATE-----
"""

    escrow_to: tuple[Certificate, ...] = Field(
        description="who may open the recovery key's envelope", min_length=1, max_length=16
    )


class Encryption(Part):
    """One LUKS2 container below all volumes, so that a boot unlocks once.

    `unlock` is one of

        tpm2 and tang           the TPM and the Tang server must both answer
        tpm2 or tang            either is enough
        tpm2                    the TPM alone
        tang                    the Tang server alone
        tpm2 and 1 of tang      with several servers: how many of them must answer
    """

    example: ClassVar[str] = f"""\
unlock: tpm2 and tang
tang:
  - url: http://10.0.0.7:7500
    thumbprint: JZXd7eACA60ReRHo5ykcz0UgYrPOzjXDTdyWTz0hNjQ
recovery:
  {"  ".join(Recovery.example.splitlines(keepends=True))}"""

    unlock: Unlock = Field(description="what opens the disks at boot without a person")
    tang: tuple[Tang, ...] = Field((), description="the Tang servers", max_length=16)
    tpm2: Tpm2 = Field(Tpm2(), description="how the TPM takes part")
    fips: StrictBool = Field(
        False,
        description="true allows only what FIPS 140 knows: PBKDF2 in every key slot, AES-XTS with "
        "a 512-bit key. The installed system runs in FIPS mode by `configure.fips`",
    )
    recovery: Recovery = Field(description="who opens the disks when nothing else does")

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return self._tang_answers(), self._tpm2_is_used(), self._servers_differ()

    def _tang_answers(self) -> Iterator[Fault]:
        policy, servers = self.unlock, len(self.tang)
        if policy.tang and not servers:
            message = f'is missing: unlock is "{policy}", so name at least one server'
            yield Fault(("tang",), message)
        elif policy.tang > servers:
            message = f"{policy.tang} Tang servers must answer, the plan names {servers}"
            yield Fault(("unlock",), message)
        elif policy.tang and servers > 1 and not policy.counted:
            yield Fault(
                ("unlock",),
                f'"{policy}" does not say how many of the {servers} Tang servers must answer: '
                f"write 1 of tang or {servers} of tang",
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
