"""Plans for many machines: `bedplate plan render`, and `bedplate preview --fleet`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from agent.cli.environment import site_option
from agent.cli.output import json_option, make_directory, show_json
from agent.cli.recorded import read_machines
from agent.errors import MachineError, PlanError, Problem
from agent.fleet.hosts import read_hosts
from agent.fleet.outcome import Fleet, Group, Outcome, compare, letter
from agent.fleet.render import clashes, render
from agent.inventory.model import Inventory
from agent.payload.sign import load_signing_key
from agent.plan.catalog import Catalog
from agent.plan.model import Plan
from agent.plan.parse import parse
from agent.report.text import counted

NAMED = 6
"""Members of a group shown by name; `--json` has all."""


@click.group("plan")
def plan_group() -> None:
    """Make plans for many machines, check what is in plans, sign them."""


@plan_group.command(
    "render",
    epilog="\b\nExample: bedplate plan render base.yaml hosts.csv -d plans --rollout 2026-11",
)
@click.argument("base", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("hosts", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "-d",
    "--directory",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the plans go: HOSTNAME.yaml for each host.",
)
@click.option(
    "--rollout",
    required=True,
    help="Name of this roll-out. The ids of the plans are made from it: the same name again gives "
    "the same ids, and machines that have carried them out do nothing.",
)
@click.option(
    "--schema", default="plan.schema.json", show_default=True, help="Schema named for editors."
)
@site_option
@json_option
def render_command(
    base: Path,
    hosts: Path,
    directory: Path,
    rollout: str,
    schema: str,
    *,
    site: Path,
    as_json: bool,
) -> None:
    """Make a plan for each host: BASE, with what HOSTS says of it laid over.

    HOSTS is CSV with a column for each key of a plan (`hostname`, `machine.serial`,
    `disks.where.serial[0]`), or YAML with a list of mappings. Every plan is checked, and nothing is
    written while one of them is wrong.
    """
    listed = read_hosts(hosts.read_bytes(), hosts.name)
    plans = render(base.read_bytes(), listed, rollout, schema, Catalog(site))
    make_directory(directory)
    texts = {directory / f"{one.plan.hostname}.yaml": one.text.encode() for one in plans}
    stale = [path for path, text in texts.items() if _signed_before(path, text)]
    written = [_place(path, text) for path, text in texts.items()]
    # A host that was taken off the list would still be given its old plan.
    _warn("other plan", [path for path in _files(directory) if path not in texts], directory)
    _warn("plan with the signature of an older one", stale, directory)
    if as_json:
        show_json(
            [
                {"plan": str(path), "id": str(one.plan.id), "hostname": one.plan.hostname}
                for path, one in zip(written, plans, strict=True)
            ]
        )
    else:
        click.echo(f"{len(written)} plans in {directory}")


def _signed_before(plan: Path, text: bytes) -> bool:
    """Tell whether a plan that is about to be written has the signature of another."""
    return Path(f"{plan}.sig").exists() and not (plan.exists() and plan.read_bytes() == text)


def _warn(what: str, found: Sequence[Path], directory: Path) -> None:
    if found:
        names = ", ".join(path.name for path in found[:NAMED]) + ("…" if len(found) > NAMED else "")
        count = (
            f"1 {what}" if len(found) == 1 else f"{len(found)} {what.replace('plan', 'plans', 1)}"
        )
        click.echo(f"bedplate: warning: {count} in {directory}: {names}", err=True)


@plan_group.command("sign")
@click.argument(
    "plans", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@click.option(
    "-k",
    "--key",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Private key, made by `bedplate keygen`; its public half is baked into the live image "
    "(build/keys/plan/).",
)
@site_option
@json_option
def sign_command(plans: tuple[Path, ...], key: Path, *, site: Path, as_json: bool) -> None:
    """Sign PLANS: write PLAN.sig beside each.

    The signature is over the exact bytes of the file, so sign last. Plans are read first, and if
    one of them is wrong none is signed.
    """
    signing = load_signing_key(key)
    contents = _contents(plans)
    _, problems = _read(contents, Catalog(site))
    if problems:
        raise PlanError(problems)
    signed = [_place(Path(f"{path}.sig"), signing.sign(text)) for path, text in contents.items()]
    if as_json:
        show_json({"key": signing.public.id, "signatures": [str(path) for path in signed]})
    else:
        click.echo(f"{len(signed)} plans signed by key {signing.public.id}")


@plan_group.command(
    "validate",
    epilog="\b\nExample: bedplate plan validate plans --site presets",
)
@click.argument("plans", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@site_option
@json_option
def validate_command(plans: tuple[Path, ...], *, site: Path, as_json: bool) -> None:
    """Read PLANS, files or directories of them, as a machine would; nothing else is asked.

    Says everything that is wrong, with its place and what would be right, and what two plans must
    not share. Whether a plan fits its machine is told by `bedplate preview`.
    """
    files = [path for place in plans for path in _files(place)]
    read, problems = _read(_contents(files), Catalog(site))
    problems += clashes(read)
    if problems:
        raise PlanError(problems)
    if as_json:
        show_json(
            [{"plan": where, "id": str(one.id), "hostname": one.hostname} for where, one in read]
        )
    else:
        click.echo(f"{counted(len(read), 'plan')}: nothing is wrong")


def _contents(files: Iterable[Path]) -> dict[Path, bytes]:
    try:
        return {path: path.read_bytes() for path in files}
    except OSError as error:
        reason = f"cannot be read: {(error.strerror or str(error)).lower()}"
        raise PlanError([Problem(str(error.filename), reason)]) from error


def _read(
    contents: Mapping[Path, bytes], presets: Catalog
) -> tuple[list[tuple[str, Plan]], list[Problem]]:
    """Return the plans in these files, and what is wrong with the others."""
    read: list[tuple[str, Plan]] = []
    problems: list[Problem] = []
    for path, content in contents.items():
        try:
            read.append((str(path), parse(content, presets)))
        except PlanError as error:
            problems += [Problem(str(path), str(one)) for one in error.problems]
    return read, problems


def _files(place: Path) -> Sequence[Path]:
    """Return a file, or the plans in a directory; raise `PlanError` where it has none."""
    if not place.is_dir():
        return (place,)
    files = sorted(path for path in place.iterdir() if path.suffix in {".yaml", ".yml"})
    if not files:
        raise PlanError([Problem(str(place), "holds no plan (*.yaml)")])
    return files


def _place(path: Path, content: bytes) -> Path:
    """Write a file at once or not at all: a server may be reading the directory."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_bytes(content)
        fresh.replace(path)
    except OSError as error:
        raise PlanError([Problem(str(path), f"cannot be written: {error.strerror}")]) from None
    return path


def preview_fleet(plans: Path, inventories: Path, presets: Catalog, *, as_json: bool) -> None:
    """Show what every plan of a directory comes to on the machine it is for.

    Raises `MachineError` at the end if one of them cannot be carried out.
    """
    read, broken = _read(_contents(_files(plans)), presets)
    read = [(Path(where).name, plan) for where, plan in read]
    broken = [Problem(Path(one.where).name, one.message) for one in broken]
    machines, unread = _machines(inventories)
    broken += unread
    fleet = compare(read, machines, datetime.now(UTC))
    if as_json:
        show_json(_plain(fleet, broken))
    else:
        for line in _lines(fleet):
            click.echo(line)
    problems = [*broken, *_problems(fleet)]
    if problems:
        raise MachineError(problems)


def _machines(directory: Path) -> tuple[list[Inventory], list[Problem]]:
    files = sorted(directory.glob("*.json"))
    if not files:
        message = "holds no recorded machine (*.json of bedplate inventory --json, or facts)"
        raise PlanError([Problem(str(directory), message)])
    machines: list[Inventory] = []
    broken: list[Problem] = []
    for path in files:
        try:
            machines += read_machines(path)
        except PlanError as error:
            broken += error.problems
    return machines, broken


def _problems(fleet: Fleet) -> Iterator[Problem]:
    for outcome in fleet.failed:
        yield from (Problem(outcome.where, str(problem)) for problem in outcome.problems)
    yield from fleet.clashes


def _lines(fleet: Fleet) -> Iterator[str]:
    for number, group in enumerate(fleet.groups):
        count = len(group.members)
        lost = sum(bool(member.lost) for member in group.members)
        erased = f"; {lost} of them have something on their disks to lose" if lost else ""
        done = sum(member.done for member in group.members)
        erased += f"; {done} of them are installed by these plans already" if done else ""
        yield f"{count} machine{'s' * (count != 1)}: layout {letter(number)}{erased}"
        if number:
            yield f"  {_names(group.members)}"
            for line in group.differences(fleet.groups[0]):
                yield f"  {line}"
        else:
            for line in group.lines:
                yield f"  {line}"
    if fleet.failed:
        yield f"{len(fleet.failed)} cannot be carried out: {_names(fleet.failed)}"
    elif fleet.works:
        count = sum(len(group.members) for group in fleet.groups)
        yield f"{count} plans, and each can be laid out on its machine"
    if fleet.unplanned:
        names = ", ".join(fleet.unplanned[:NAMED]) + ("…" if len(fleet.unplanned) > NAMED else "")
        yield f"{len(fleet.unplanned)} recorded machines have no plan: {names}"


def _names(members: Sequence[Outcome]) -> str:
    names = ", ".join(member.hostname for member in members[:NAMED])
    more = len(members) - NAMED
    return f"{names} and {more} more" if more > 0 else names


def _plain(fleet: Fleet, broken: Sequence[Problem]) -> dict[str, object]:
    def plain(number: int, group: Group) -> dict[str, object]:
        return {
            "layout": letter(number),
            "hosts": [member.hostname for member in group.members],
            "lines": list(group.lines),
            "lose_something": [m.hostname for m in group.members if m.lost],
            "installed_already": [m.hostname for m in group.members if m.done],
        }

    return {
        "groups": [plain(number, group) for number, group in enumerate(fleet.groups)],
        "unplanned": list(fleet.unplanned),
        "problems": [
            {"where": problem.where, "message": problem.message}
            for problem in (*broken, *_problems(fleet))
        ],
    }


plan_commands: tuple[click.Command, ...] = (plan_group,)
