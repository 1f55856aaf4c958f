"""What opens the disks, in sentences: an unlock policy as an operator would explain it."""

from __future__ import annotations

from collections.abc import Iterator

from agent.plan.encryption import Encryption


def unlock_in_words(encryption: Encryption) -> Iterator[str]:
    """Yield what opens the disks at boot, what becomes of it, and who else can open them."""
    policy, servers = encryption.unlock, [server.url for server in encryption.tang]
    tpm = "this machine's TPM" + _registers(encryption)
    if not policy.tang:
        asked = tpm
    elif policy.counted and policy.tang < len(servers):
        asked = f"{policy.tang} of the {len(servers)} Tang servers {', '.join(servers)}"
    else:
        asked = " and ".join(f"the Tang server {url}" for url in servers)
    if policy.tpm2 and policy.tang:
        both = "both" if len(servers) == 1 or policy.tang < len(servers) else "all of these"
        join, must = ("and", f"{both} must") if policy.together else ("or", "either is enough to")
        yield f"at boot {tpm} {join} {asked}: {must} answer"
    else:
        yield f"at boot {asked} must answer; nobody types anything"
    if policy.tpm2 and encryption.tpm2.seal == "first-boot":
        yield (
            "until the installed system has started once the TPM asks for no register; then it is "
            "sealed to them, and the report says so"
        )
    keepers = len(encryption.recovery.escrow_to)
    who = "the holder of the one certificate" if keepers == 1 else f"any of {keepers} keepers"
    yield f"when nothing answers, the recovery key opens them: {who} can read it from its envelope"


def _registers(encryption: Encryption) -> str:
    pcrs = encryption.tpm2.pcrs
    return f" (PCR {', '.join(map(str, pcrs))})" if pcrs else ""
