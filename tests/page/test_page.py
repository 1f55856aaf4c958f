"""The fleet page in a real browser."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, Locator, Page, expect

from agent.report.event import State
from agent.secret import Secret
from agent.server import Options, running
from agent.server.operators import Operator, write
from tests.page.conftest import PATIENCE, Look
from tests.page.fleet import RECORDED, Memory, failed, roll_out, told, until
from tests.page.serving import app_of, board_of, served
from tests.unit.report.receivers import event

expect.set_options(timeout=PATIENCE)
MEASURED = Path(__file__).parents[2] / "build" / "page.json"


def rows(page: Page) -> Locator:
    return page.locator("#rows tr:not([hidden])")


def names(page: Page) -> list[str]:
    return rows(page).locator("td.name a").all_text_contents()


@pytest.fixture
def fleet(memory: Memory) -> Memory:
    """Four machines: one of each state but silent."""
    begun = until(told("p-fail", "CZ3", memory.now - 90), "write-image", State.PROGRESS)
    for plan, name in {
        "p-wait": "web01.example.com",
        "p-run": "db02.example.com",
        "p-done": "db10.example.com",
        "p-fail": "app01.example.com",
    }.items():
        memory.plan(plan, name)
    memory.tell(told("p-done", "CZ2", memory.now - 400))
    memory.tell(until(told("p-run", "CZ4", memory.now - 40), "write-image", State.PROGRESS))
    memory.tell(failed(begun, "chunk 7: sha256 differs", ["first line", "the log's last line"]))
    return memory


def test_rows_are_there_without_any_script(fleet: Memory, look: Look) -> None:
    page = look(rows=False, java_script_enabled=False)
    assert page.locator("#rows tr").count() == 4
    assert page.locator("#sentence").inner_text() == (
        "4 machines: 1 installed, 1 waiting, 1 running, 1 failed."
    )
    assert page.locator("#rows tr").first.inner_text().startswith("app01.example.com")
    assert page.locator("#find").is_hidden()
    assert page.locator("meta[http-equiv=refresh]").count() == 1


def test_the_urgent_come_first_and_a_click_sorts(fleet: Memory, look: Look) -> None:
    page = look()
    order = ["app01.example.com", "db02.example.com", "web01.example.com", "db10.example.com"]
    assert names(page) == order
    page.get_by_role("button", name="Machine", exact=True).click()
    by_name = ["app01.example.com", "db02.example.com", "db10.example.com", "web01.example.com"]
    assert names(page) == by_name
    page.get_by_role("button", name="Machine", exact=True).click()
    assert names(page) == by_name[::-1]
    assert page.locator("th[data-by=name]").get_attribute("aria-sort") == "descending"


def test_words_and_states_filter(fleet: Memory, look: Look) -> None:
    page = look()
    page.locator("#filter").fill("DB example")
    expect(rows(page)).to_have_count(2)
    assert page.locator("#shown").inner_text() == "2 of 4 shown"
    page.locator("#totals button.installed").click()
    assert names(page) == ["db10.example.com"]
    page.locator("#filter").fill("nobody")
    expect(page.locator("#nothing")).to_be_visible()
    page.keyboard.press("Escape")
    assert names(page) == ["db10.example.com"]
    page.locator("#totals button.all").click()
    expect(rows(page)).to_have_count(4)


def test_everything_can_be_done_with_keys(fleet: Memory, look: Look) -> None:
    page = look()
    page.keyboard.press("/")
    page.keyboard.type("db")
    expect(rows(page)).to_have_count(2)
    page.keyboard.press("ArrowDown")
    expect(page.locator("#rows tr.chosen")).to_contain_text("db02")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#detail h2")).to_contain_text("db10.example.com")
    assert page.url.endswith("#p-done")
    page.keyboard.press("ArrowUp")  # the detail follows
    expect(page.locator("#detail h2")).to_contain_text("db02.example.com")
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    assert page.evaluate("document.activeElement.textContent") == "db02.example.com"
    page.keyboard.press("Escape")
    expect(rows(page)).to_have_count(4)


def test_a_change_is_written_into_the_row_that_is_there(fleet: Memory, look: Look) -> None:
    page = look()
    page.evaluate("for (const line of document.querySelectorAll('#rows tr')) line.marked = true")
    fleet.tell([event(900, plan="p-run", run="run-p-run", step="configure-host", message="Now")])
    expect(page.locator("#rows tr[data-id=p-run] .title")).to_have_text("Now")
    assert page.evaluate("[...document.querySelectorAll('#rows tr')].every((line) => line.marked)")


def test_plans_come_and_go(fleet: Memory, look: Look) -> None:
    page = look()
    fleet.plan("p-new", "new01.example.com")
    fleet.tell([event(1, plan="p-new", message="Find the plan")])
    expect(page.locator("#rows tr[data-id=p-new] .title")).to_have_text("Find the plan")
    fleet.now += 6
    fleet.forget("p-wait")
    expect(page.locator("#rows tr[data-id=p-wait]")).to_have_count(0)
    expect(page.locator("#totals button.all b")).to_have_text("4")


EVIL = [
    "<img src=x onerror=alert(1)>",
    "</td></tr></table><script>alert(2)</script>",
    "javascript:alert(3)//\"'`${alert(4)}",
    "a\u202egnp.exe\u2066",
]


@pytest.mark.parametrize("evil", EVIL)
def test_hostile_texts_are_text(memory: Memory, look: Look, evil: str) -> None:
    shown = evil.replace("\u202e", "\\u202e").replace("\u2066", "\\u2066")
    evidence = {evil: {"deep": [evil]}, "layout": [evil], "placed": {"disks": [{"path": evil}]}}
    machine = re.sub(r"[^ -~]", "", evil)
    memory.plan("p-evil", evil)
    memory.tell(
        [
            event(1, plan="p-evil", machine=machine, message=evil),
            event(2, State.FINISHED, plan="p-evil", machine=machine, evidence=evidence),
            event(3, plan="p-evil", machine=machine, step="x", message=evil),
            event(4, State.FAILED, plan="p-evil", step="x", message=evil, evidence={"log": [evil]}),
            event(
                5,
                State.FAILED,
                plan="p-evil",
                step="install",
                message=evil,
                evidence={"log": [evil], "advice": [evil], "report": {evil: evil}},
            ),
        ]
    )
    page = look()
    expect(page.locator("#rows .name a")).to_have_text(shown)
    page.locator("#rows tr").click()
    expect(page.locator("#detail h2")).to_contain_text(shown)
    expect(page.locator("#detail .log")).to_have_text(shown)
    page.locator("#detail summary").first.click()
    expect(page.locator("#detail .evidence").first).to_contain_text(shown)
    assert page.locator("body script, body img").count() == 0
    assert page.locator("#rows tr").count() == 1
    assert "\u202e" not in page.locator("body").inner_text()


def test_the_detail_shows_steps_evidence_layout_and_seal(fleet: Memory, look: Look) -> None:
    page = look("/#p-done")
    steps = page.locator("#detail .steps li")
    expect(steps).to_have_count(23)
    expect(steps.filter(has_text="Write the image")).to_contain_text("9 s")
    expect(steps.last).to_contain_text("Seal to this machine")
    steps.filter(has_text="Bind /dev/md/root").locator("summary").click()
    expect(steps.filter(has_text="Bind /dev/md/root")).to_contain_text("tpm2 and tang")
    expect(page.locator("#detail svg.layout .disk")).to_have_count(2)
    expect(page.locator("#detail svg.layout .volume")).to_have_count(7)
    expect(page.locator("#detail .facts")).to_contain_text("sealed")
    # It goes on while it is open, and what was unfolded stays so.
    fleet.tell([event(990, State.FINISHED, plan="p-done", run="again", step="find")])
    expect(page.locator("#detail > section").last).to_contain_text("Earlier run")
    page.go_back()
    page.wait_for_url("about:blank")


def test_further_arrays_and_whole_disk_images_are_drawn_too(memory: Memory, look: Look) -> None:
    layout = RECORDED[-2]["evidence"]["report"]["layout"]
    disks = [
        {"path": f"/dev/sd{letter}", "size": 2**40, "partitions": [part]}
        for letter in "cdef"
        for part in [{"role": "data", "start": 2**20, "size": 2**40 - 2**21}]
    ]
    data = {
        "name": "pgdata",
        "level": "raid10",
        "disks": disks,
        "arrays": [{"name": "pgdata", "members": ["c", "d", "e", "f"], "metadata": "1.2"}],
        "luks": layout["luks"],
        "volume_group": {"name": "pgdata", "size": 2**41, "free": 0},
        "volumes": [{"name": "pg", "mount": "/var/lib/pgsql", "size": 2**41, "kind": "xfs"}],
    }
    whole = {
        "disks": [{"path": "/dev/vda", "size": 2**35}, {"path": "/dev/vdb", "size": 2**35}],
        "arrays": [{"name": "image", "members": ["a", "b"], "metadata": "1.0"}],
        "image": {"device": "/dev/md/image", "size": 2**35},
    }
    for plan, placed in {"p-data": {**layout, "data": [data]}, "p-whole": whole}.items():
        sent = event(1, State.FINISHED, plan=plan, step="check", evidence={"placed": placed})
        memory.tell([sent])
    page = look("/#p-data")
    drawn = page.locator("#detail svg.layout")
    expect(drawn).to_contain_text("RAID10 over 4 disks")
    expect(drawn.locator(".disk")).to_have_count(6)
    expect(drawn.locator(".volume")).to_have_count(8)
    ends = drawn.evaluate(
        """(each) => [...each.querySelectorAll("rect")].map(
             (rect) => rect.x.baseVal.value + rect.width.baseVal.value)"""
    )
    assert max(ends) <= 640.1
    page.keyboard.press("ArrowDown")
    expect(page.locator("#detail h2")).to_contain_text("52:54:00:12:34:56")
    expect(page.locator("#detail .id")).to_contain_text("p-whole")
    expect(page.locator("#detail svg.layout .disk")).to_have_count(2)
    expect(page.locator("#detail svg.layout")).to_contain_text("image of a whole disk")


def test_the_detail_of_a_failure_says_why_and_shows_the_log(fleet: Memory, look: Look) -> None:
    page = look()
    page.locator("#rows tr.failed").click()
    expect(page.locator("#detail .failure")).to_contain_text("chunk 7: sha256 differs")
    expect(page.locator("#detail .failure")).to_contain_text("nothing was touched")
    expect(page.locator("#detail .log")).to_have_text("first line\nthe log's last line")
    page.locator("#detail .close").click()
    expect(page.locator("#detail")).to_be_hidden()
    page.go_back()
    expect(page.locator("#detail")).to_be_visible()


def test_the_detail_is_patched_live(fleet: Memory, look: Look) -> None:
    page = look("/#p-run")
    expect(page.locator("#detail .steps li.progress")).to_contain_text("Write the image")
    done = event(
        901,
        State.FINISHED,
        plan="p-run",
        run="run-p-run",
        step="write-image",
        evidence={"seconds": 5},
    )
    fleet.tell([done])
    expect(
        page.locator("#detail .steps li.finished").filter(has_text="Write the image")
    ).to_contain_text("5 s")


def test_a_lost_connection_is_said_and_mended(browser: Browser) -> None:
    before, after = Memory(), Memory()
    before.plan("p-1", "before")
    after.plan("p-1", "after")
    context = browser.new_context()
    page = context.new_page()
    with served(app_of(board_of(before))) as url:
        page.goto(url)
        expect(page.locator("#link")).to_have_text("live")
    expect(page.locator("#link")).to_contain_text("connection lost")
    assert names(page) == ["before"]
    with served(app_of(board_of(after)), int(url.rpartition(":")[2])):
        expect(page.locator("#link")).to_have_text("live")
        expect(page.locator("#rows .name a")).to_have_text("after")
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(fleet: Memory, look: Look, scheme: str) -> None:
    page = look(viewport={"width": 360, "height": 740}, has_touch=True, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator("#rows tr.failed").tap()
    expect(page.locator("#detail .log")).to_be_visible()
    assert page.locator("#detail").evaluate("(each) => each.scrollWidth <= each.clientWidth")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", paper)[:3])) > 3 * 128
    assert light == (scheme == "light")


def test_the_roll_out_is_drawn(memory: Memory, look: Look) -> None:
    roll_out(memory, 60)
    page = look()
    expect(page.locator("#timeline path.installed")).to_have_count(1)
    expect(page.locator("#timeline path.failed")).to_have_count(1)


def _plan(number: int) -> str:
    return f"{number:08x}-52f1-4c0e-9d55-a7b1c0de0001"


def test_a_thousand_rows_are_quick_and_one_change_touches_one_row(
    memory: Memory, look: Look
) -> None:
    roll_out(memory)
    for number in range(170, 1000):
        memory.plan(_plan(number), f"app{number}.r{number // 20 + 1}.example.com")
        begun = event(1, plan=_plan(number), message="Write the image")
        moved = event(2, State.PROGRESS, plan=_plan(number), done=number, total=1000, unit="bytes")
        memory.tell([begun, moved])
    page = look()
    first = page.evaluate("performance.getEntriesByName('bedplate-first-rows')[0].startTime")
    built = page.evaluate("performance.getEntriesByName('bedplate-fleet')[0].duration")
    assert rows(page).count() == 1000
    page.evaluate(
        """() => {
          window.touched = new Set();
          new MutationObserver((found) => {
            for (const each of found) {
              const line = (each.target.closest ?? (() => null)).call(each.target, "tr");
              if (line && !each.target.closest(".heard, .eta")) window.touched.add(line.dataset.id);
            }
          }).observe(document.getElementById("rows"), { childList: true, subtree: true });
        }"""
    )
    plan = _plan(500)
    began = time.monotonic()
    memory.tell([event(990, plan=plan, run="again", step="find", message="Find the plan again")])
    expect(page.locator(f"#rows tr[data-id='{plan}'] .title")).to_have_text("Find the plan again")
    seen = time.monotonic() - began
    assert page.evaluate("[...window.touched]") == [plan]
    patched = page.evaluate("performance.getEntriesByName('bedplate-change').at(-1).duration")
    page.locator("#filter").fill("r7.")
    filtered = rows(page).count()
    assert 0 < filtered < 1000
    assert first < 30_000
    assert patched < 10_000
    found = {
        "rows": 1000,
        "ms_from_navigation_to_rows": round(first),
        "ms_to_build_rows": round(built),
        "ms_to_patch_one_change": round(patched, 1),
        "s_from_event_to_row": round(seen, 2),
    }
    MEASURED.parent.mkdir(exist_ok=True)
    MEASURED.write_text(json.dumps(found, indent=2) + "\n")


def test_an_operator_logs_in_sees_changes_and_logs_out(browser: Browser, tmp_path: Path) -> None:
    operators = tmp_path / "operators"
    write(operators, {"alice": Operator.make("alice", Secret("sesame"))})
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    with running(tmp_path, options=Options(operators=operators)) as url:
        page.goto(url)
        page.get_by_label("Name").fill("alice")
        page.get_by_label("Password").fill("sesame")
        page.get_by_role("button").click()
        expect(page.locator("#link")).to_have_text("live")
        expect(page.locator("#nothing")).to_contain_text("No plans yet")
        sent = event(1, message="Encrypt the disks").line
        requests.post(f"{url}/v1/events", sent, timeout=60).raise_for_status()
        expect(page.locator("#rows .title")).to_have_text("Encrypt the disks")
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Password")).to_be_visible()
        context.close()
