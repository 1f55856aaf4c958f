"""One machine's BMC, as far as virtual media, the next boot and the power switch go.

sushy speaks Redfish and knows what vendors do differently; here its errors become ours, each
naming the BMC and what to do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import sushy
from requests.exceptions import SSLError
from sushy import exceptions as wrong
from sushy.auth import SessionOrBasicAuth
from sushy.connector import Connector

from agent.errors import MachineError, Problem
from agent.redfish.slot import Slot, shown
from agent.secret import Secret

log = logging.getLogger(__name__)

CD = frozenset({sushy.VIRTUAL_MEDIA_CD, sushy.VIRTUAL_MEDIA_DVD})
DELAY = 2.0
"""Seconds between two attempts at a BMC that does not answer, or is busy with itself."""
ATTEMPTS = 3


@dataclass(frozen=True)
class Login:
    """Who asks, and whom to believe: `verify` is a CA's file, or whether to look at all."""

    user: str
    password: Secret
    verify: bool | str = True


class Bmc:
    """A BMC and one of its systems. Made by `session`, which also says goodbye to the BMC."""

    def __init__(self, url: str, root: Any, system: Any) -> None:
        self.url, self._root, self._system = url, root, system
        self._media: Any = None

    @property
    def system(self) -> str:
        """What the BMC calls the machine."""
        return f"{self._system.name or self._system.identity}"

    # -- power ---------------------------------------------------------------------------------

    def is_on(self) -> bool:
        with self._asked("power state"):
            self._system.refresh(force=True)
            return bool(self._system.power_state == sushy.POWER_STATE_ON)

    def start(self) -> str:
        """Switch on, or restart by force what is on; returns which it was, in words."""
        if not self.is_on():
            with self._asked("power on"):
                self._system.reset_system(sushy.RESET_TYPE_ON)
            return "powered on"
        with self._asked("restart"):
            allowed = self._system.get_allowed_reset_system_values()
            # Not every BMC can do it in one go; PowerCycle is the same with a pause.
            for how in (sushy.RESET_TYPE_FORCE_RESTART, sushy.RESET_TYPE_POWER_CYCLE):
                if how in allowed:
                    self._system.reset_system(how)
                    return "restarted"
        offered = ", ".join(sorted(each.value for each in allowed)) or "nothing"
        raise self._error("restart", f"can be reset by {offered} only; switch the machine off")

    # -- virtual media -------------------------------------------------------------------------

    def slots(self) -> list[Slot]:
        """Return the slots that take a CD, in the order they would be used."""
        return [_slot(where, medium) for where, medium in self._mediums()]

    def insert(self, url: str) -> Slot:
        """Put the image at `url` into the first slot for a CD, taking out what is in there.

        Raises `MachineError` where there is no such slot, or the BMC does not take the image.
        """
        where, medium = self._slot_for_a_cd()
        self._media = medium
        if medium.inserted:
            log.info("%s: %s is taken out of %s", self.url, medium.image, medium.identity)
            with self._asked(f"virtual media {medium.identity}"):
                medium.eject_media()
        try:
            medium.insert_media(url)
            medium.refresh(force=True)
        except wrong.HTTPError as error:
            if isinstance(error, wrong.AccessError):
                raise self._named("virtual media", error) from None
            raise self._not_taken(medium, url, _said(error)) from None
        except wrong.SushyError as error:
            raise self._named(f"virtual media {medium.identity}", error) from None
        if medium.inserted is False:
            raise self._not_taken(medium, url, "it took the order, and the slot is empty")
        return _slot(where, medium)

    def eject(self) -> list[str]:
        """Empty the slot that was filled, or every slot for a CD; returns the images taken out."""
        mediums = [self._media] if self._media else [medium for _, medium in self._mediums()]
        taken = []
        for medium in mediums:
            with self._asked(f"virtual media {medium.identity}"):
                medium.refresh(force=True)
                if medium.inserted or medium.image:
                    taken.append(str(medium.image))
                    medium.eject_media()
        return taken

    # -- the next boot -------------------------------------------------------------------------

    def boot_from_cd_once(self) -> None:
        """Let the next boot, and only that, be from the CD, by UEFI."""
        with self._asked("one-time boot from CD"):
            try:
                self._boot(sushy.BOOT_SOURCE_TARGET_CD, sushy.BOOT_SOURCE_MODE_UEFI)
            except wrong.BadRequestError as error:
                # Some refuse to be told a mode they cannot leave.
                log.info("%s: boot mode UEFI: %s; tried without", self.url, _said(error))
                self._boot(sushy.BOOT_SOURCE_TARGET_CD, None)

    def boot_from_disk(self) -> None:
        """End an override that is still there: not every BMC forgets it after one boot."""
        with suppress(wrong.SushyError):
            self._system.refresh(force=True)
            boot = self._system.boot
            if boot.target in (sushy.BOOT_SOURCE_TARGET_CD, sushy.BOOT_SOURCE_TARGET_USB_CD):
                try:
                    self._system.set_system_boot_options(
                        target=sushy.BOOT_SOURCE_TARGET_NONE,
                        enabled=sushy.BOOT_SOURCE_ENABLED_DISABLED,
                    )
                except wrong.SushyError:
                    self._boot(sushy.BOOT_SOURCE_TARGET_HDD, None)

    def next_boot(self) -> str:
        """Return what the BMC says of the next boot, in words."""
        with self._asked("boot override"):
            self._system.refresh(force=True)
        boot = self._system.boot
        enabled = boot.enabled.value if boot.enabled else "Disabled"
        if enabled == "Disabled" or boot.target is None:
            return "as the firmware likes"
        mode = f", {boot.mode.value}" if boot.mode else ""
        return f"{boot.target.value} ({enabled.lower()}{mode})"

    # -- inside --------------------------------------------------------------------------------

    def _boot(self, target: Any, mode: Any) -> None:
        self._system.set_system_boot_options(
            target=target, enabled=sushy.BOOT_SOURCE_ENABLED_ONCE, mode=mode
        )

    def _slot_for_a_cd(self) -> tuple[str, Any]:
        with self._asked("virtual media"):
            found = list(self._mediums())
        if found:
            return found[0]
        types = {str(getattr(kind, "value", kind)) for kind in self._types()}
        have = f"only for {', '.join(sorted(types))}" if types else "none at all"
        raise self._error(
            "virtual media",
            f"has no slot for a CD or DVD, {have}; a licence may be missing",
        )

    def _mediums(self) -> Iterator[tuple[str, Any]]:
        for where, medium in self._all():
            if CD.intersection(medium.media_types):
                yield where, medium

    def _types(self) -> Iterator[Any]:
        for _, medium in self._all():
            yield from medium.media_types

    def _all(self) -> Iterator[tuple[str, Any]]:
        """Yield every medium, with who has it; the system's first, as the newer specs want."""
        with suppress(wrong.MissingAttributeError, wrong.ResourceNotFoundError):
            found = [("system", medium) for medium in self._system.virtual_media.get_members()]
            if found:
                yield from found
                return
        with suppress(wrong.MissingAttributeError, wrong.ResourceNotFoundError):
            for manager in self._system.managers:
                with suppress(wrong.MissingAttributeError, wrong.ResourceNotFoundError):
                    for medium in manager.virtual_media.get_members():
                        yield "manager", medium

    def _not_taken(self, medium: Any, url: str, why: str) -> MachineError:
        return self._error(
            f"virtual media {medium.identity}",
            f"the BMC did not take {shown(url)}: {why}; it fetches the image by itself, "
            "so the address must be reachable from the BMC's network",
        )

    def _error(self, what: str, why: str) -> MachineError:
        return MachineError([Problem(f"{self.url} ({what})", why)])

    def _named(self, what: str, error: wrong.SushyError) -> MachineError:
        return MachineError([Problem(f"{self.url} ({what})", _reason(error))])

    @contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        try:
            yield
        except wrong.SushyError as error:
            raise self._named(what, error) from None


@contextmanager
def session(
    url: str, login: Login, system: str | None = None, *, delay: float = DELAY
) -> Iterator[Bmc]:
    """Log in to the BMC at `url` (https://HOST[:PORT]) for the length of the context.

    `system` chooses by Id, name or UUID where a BMC has several machines. Raises `MachineError`
    naming a wrong password, a certificate that is not trusted, a BMC that does not answer.
    """
    url = _address(url)
    auth = SessionOrBasicAuth(username=login.user, password=login.password.text)
    connector = Connector(
        url,
        verify=login.verify,
        server_side_retries=ATTEMPTS,
        server_side_retries_delay=delay,
    )
    # A ~/.netrc entry would replace our credentials, a proxy of the environment be asked for a
    # machine of the management network, REQUESTS_CA_BUNDLE win over --ca.
    connector._session.trust_env = False
    try:
        root = sushy.Sushy(url, auth=auth, connector=connector)
        yield Bmc(url, root, _chosen(url, root, system))
    except wrong.AccessError:
        why = f"refuses {login.user}: wrong name or password, or not allowed to do this"
        raise MachineError([Problem(url, why)]) from None
    except wrong.SushyError as error:
        raise MachineError([Problem(url, _reason(error))]) from None
    finally:
        with suppress(wrong.SushyError, OSError):
            auth.close()
        connector.close()


def _chosen(url: str, root: Any, wanted: str | None) -> Any:
    systems: Sequence[Any] = root.get_system_collection().get_members()
    names = [f"{each.identity} ({each.name})" for each in systems]
    if wanted is None and len(systems) == 1:
        return systems[0]
    found = [
        each
        for each in systems
        if wanted is not None
        and wanted.lower() in {str(n).lower() for n in (each.identity, each.name, each.uuid)}
    ]
    if len(found) == 1:
        return found[0]
    if wanted is None:
        why = f"has {len(systems)} systems, name one by --system: {', '.join(names) or 'none'}"
    else:
        why = f"has {len(found) or 'no'} system {wanted}; there are {', '.join(names) or 'none'}"
    raise MachineError([Problem(url, why)])


def _address(url: str) -> str:
    message = "must be such as https://bmc17.example.com, without name and password"
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        raise MachineError([Problem("--bmc", message)]) from None
    if not good or "@" in parts.netloc:
        raise MachineError([Problem("--bmc", message)])
    return f"{parts.scheme}://{parts.netloc}"


def _slot(where: str, medium: Any) -> Slot:
    return Slot(medium.identity, where, str(medium.image or ""), bool(medium.inserted))


def _said(error: wrong.HTTPError) -> str:
    """Return the BMC's own words, which are often the only hint there is."""
    detail = " ".join(str(error.detail or "").split())
    return f"{error.status_code}: {detail[:300]}" if detail else f"status {error.status_code}"


def _reason(error: BaseException) -> str:
    """Say what went wrong, in the operator's words; the innermost cause counts."""
    if isinstance(error, wrong.AccessError):
        return f"refuses: wrong name or password, or not allowed to do this ({error.status_code})"
    if isinstance(error, wrong.ResourceNotFoundError):
        return "has no Redfish there (404)"
    if isinstance(error, wrong.HTTPError):
        return f"says {_said(error)}"
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and len(causes) < 20:
        causes.append(cause)
    if any(isinstance(cause, SSLError) for cause in causes):
        words = (getattr(each, "verify_message", None) for each in reversed(causes))
        why = next((word for word in words if word), _plain(causes[-1]))
        return f"its certificate is not trusted: {why}; give --ca FILE, or --insecure"
    if isinstance(error, wrong.ConnectionError):
        systems = [each for each in causes if isinstance(each, OSError) and each.strerror]
        why = str(systems[-1].strerror).lower() if systems else _plain(causes[-1])
        return f"does not answer: {why}"
    return _plain(error)


def _plain(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
