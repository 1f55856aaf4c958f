from __future__ import annotations

from pathlib import Path

import pytest

from agent.server.plans import Identity, PlanStore
from agent.server.refusal import RefusalError

MAC = "52:54:00:12:34:56"
UUID = "0b6c7c1e-6d6e-4f43-9a4e-6a2f7e0c2b11"


def plan(name: str, machine: str, more: str = "") -> str:
    return f"version: 1\nid: {name}\nhostname: {name}.example.com\nmachine: {machine}\n{more}"


@pytest.fixture
def store(tmp_path: Path) -> PlanStore:
    (tmp_path / "mac.yaml").write_text(plan("by-mac", f"{{mac: {MAC}}}"))
    (tmp_path / "serial.yml").write_text(plan("by-serial", "{serial: 0123}"))
    (tmp_path / "both.yaml").write_text(plan("by-both", "{mac: 'AA-BB-CC-00-00-01', serial: X1}"))
    (tmp_path / "uuid.yaml").write_text(plan(UUID.upper(), f"{{uuid: {UUID.upper()}}}"))
    (tmp_path / "none.yaml").write_text("version: 1\nid: for-nobody\n")
    return PlanStore(tmp_path)


@pytest.mark.parametrize(
    ("machine", "found"),
    [
        (Identity.of([MAC], "", ""), "by-mac"),
        (Identity.of(["00:00:00:00:00:01", MAC.upper().replace(":", "-")], "Z", "Z"), "by-mac"),
        (Identity.of([f"01-{MAC.replace(':', '-')}"], "", ""), "by-mac"),
        (Identity.of([], " 0123 ", ""), "by-serial"),
        (Identity.of(["aa:bb:cc:00:00:01"], "X1", ""), "by-both"),
        (Identity.of([], "", UUID), UUID),
    ],
)
def test_a_machine_finds_the_plan_whose_every_key_it_meets(
    store: PlanStore, machine: Identity, found: str
) -> None:
    assert store.match(machine).id == found


@pytest.mark.parametrize(
    "machine",
    [
        Identity.of([], "", ""),
        Identity.of(["aa:bb:cc:00:00:01"], "X2", ""),
        Identity.of(["aa:bb:cc:00:00:01"], "", ""),
        Identity.of([], "83", ""),
        Identity.of(["41135683196"], "", ""),
    ],
)
def test_a_machine_that_meets_only_half_of_a_plan_gets_none(
    store: PlanStore, machine: Identity
) -> None:
    with pytest.raises(RefusalError) as caught:
        store.match(machine)
    assert caught.value.status == 404
    assert "5 plans known" in caught.value.message


def test_two_plans_for_one_machine_are_refused_by_name(store: PlanStore, tmp_path: Path) -> None:
    (tmp_path / "again.yaml").write_text(plan("again", f"{{mac: {MAC}}}"))
    with pytest.raises(RefusalError) as caught:
        store.match(Identity.of([MAC], "", ""))
    assert caught.value.status == 409
    assert "again.yaml (id again)" in caught.value.message
    assert "mac.yaml (id by-mac)" in caught.value.message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"id: [", "expected"),
        (b"\xff\xfe\x00", ""),
        (b"just text", "has no id"),
        (b"id: ../../etc/passwd", "has no id"),
        (b"id: {a: b}", "has no id"),
        (b"id: x\n" + b"#" * (1 << 20), "is larger than"),
        (b"id: " + b"[" * 50_000, "is nested deeper than 50"),
    ],
)
def test_a_file_that_is_no_plan_is_named_and_the_others_are_served(
    store: PlanStore, tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "bad.yaml").write_bytes(content)
    assert [(p.where, reason in p.message) for p in store.problems()] == [("bad.yaml", True)]
    assert store.match(Identity.of([MAC], "", "")).id == "by-mac"
    with pytest.raises(RefusalError, match=r"not served: bad\.yaml"):
        store.match(Identity.of([], "nobody", ""))


def test_a_changed_file_is_read_anew_and_a_removed_one_is_gone(
    store: PlanStore, tmp_path: Path
) -> None:
    assert store.find("by-mac")
    (tmp_path / "mac.yaml").write_text(plan("renamed", f"{{mac: {MAC}}}"))
    assert store.find("by-mac") is None
    assert store.match(Identity.of([MAC], "", "")).id == "renamed"
    (tmp_path / "mac.yaml").unlink()
    assert store.find("renamed") is None


def test_a_file_that_is_still_being_copied_is_not_served(store: PlanStore, tmp_path: Path) -> None:
    (tmp_path / ".new.yaml").write_text(plan("new", "{serial: N}"))
    assert store.find("new") is None


def test_a_plan_is_found_by_its_id_in_any_case_or_by_its_files_name(store: PlanStore) -> None:
    for name in (UUID, UUID.upper(), "uuid"):
        found = store.find(name)
        assert found is not None
        assert found.id == UUID
    assert store.find("../uuid") is None


def test_a_plan_is_served_byte_by_byte(store: PlanStore, tmp_path: Path) -> None:
    content = plan("odd", "{serial: odd}").encode() + b"# \xc3\xa9 \r\n\n\n"
    (tmp_path / "odd.yaml").write_bytes(content)
    found = store.find("odd")
    assert found is not None
    assert found.content == content


def test_only_the_plans_own_tokens_admit_events(store: PlanStore, tmp_path: Path) -> None:
    report = "report: [{type: http, url: u, token: 0123}, {type: foreman, token: other}, 5]"
    (tmp_path / "t.yaml").write_text(plan("t", "{serial: t}", report))
    found, open_to_all = store.find("t"), store.find("by-mac")
    assert found is not None
    assert open_to_all is not None
    assert [found.admits(token) for token in ("0123", "83", "", "other", "\udcff")] == [
        True,
        *[False] * 4,
    ]
    assert open_to_all.admits("")
    assert "0123" not in repr(found.tokens)


def test_a_link_to_nothing_is_passed_over(store: PlanStore, tmp_path: Path) -> None:
    (tmp_path / "link.yaml").symlink_to("/nowhere")
    assert len(store.all()) == 5
