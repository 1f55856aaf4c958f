"""The deploy server over real sockets: what machines, operators and vandals ask of it."""

from __future__ import annotations

import http.client
import json
import logging
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import MachineError
from agent.report.event import Event, State, envelope_evidence
from agent.report.http import HttpSink
from agent.report.reporter import Reporter
from agent.server import running, serve
from tests.unit.report.receivers import event

MAC = "52:54:00:12:34:56"
PAYLOAD = bytes(range(256)) * 4096 * 3  # three MiB: more than one piece of a file
PLAN = f"""\
version: 1
id: 0b6c7c1e-6d6e-4f43-9a4e-6a2f7e0c2b11
hostname: <script>alert(1)</script>
machine: {{mac: {MAC}, serial: CZ1234}}
report: [{{type: http, url: "http://x/v1/events", token: sesame-canary}}]
# exact bytes: é
""".encode()


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass(frozen=True)
class Site:
    directory: Path
    url: str

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname
        assert parts.port
        return parts.hostname, parts.port

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Response:
        connection = http.client.HTTPConnection(*self.address, timeout=10)
        try:
            connection.request(method, path, body or None, headers or {})
            answer = connection.getresponse()
            fields = {key.lower(): value for key, value in answer.headers.items()}
            return Response(answer.status, fields, answer.read())
        finally:
            connection.close()

    def raw(self, request: bytes, patience: float = 10) -> bytes:
        """Send bytes as they are; return the status line, empty if none comes in `patience` s."""
        with socket.create_connection(self.address, timeout=patience) as connection:
            connection.sendall(request)
            try:
                return connection.recv(65536).split(b"\r\n", 1)[0]
            except (TimeoutError, ConnectionResetError):
                return b""


def furnish(directory: Path) -> None:
    (directory / "plans").mkdir()
    (directory / "images" / "sub").mkdir(parents=True)
    (directory / "plans" / "db01.yaml").write_bytes(PLAN)
    (directory / "plans" / "db01.yaml.sig").write_bytes(b"signature")
    (directory / "images" / "a.zst").write_bytes(PAYLOAD)
    (directory / "images" / "sub" / "a.json").write_bytes(b"{}")
    (directory / "outside").write_bytes(b"canary outside")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    furnish(directory)
    with running(directory) as url:
        yield Site(directory, url)


@pytest.mark.parametrize(
    "query",
    [
        f"mac={MAC}&serial=CZ1234",
        f"mac=aa:aa:aa:aa:aa:aa&mac={MAC.upper().replace(':', '-')}&serial=CZ1234&uuid=x",
        f"mac=01-{MAC.replace(':', '-')}&serial=%20CZ1234",
    ],
)
def test_a_machine_gets_its_plan_byte_by_byte(site: Site, query: str) -> None:
    found = site.ask("GET", f"/v1/plan?{query}")
    assert (found.status, found.body) == (200, PLAN)
    assert found.headers["content-location"] == "/v1/plans/0b6c7c1e-6d6e-4f43-9a4e-6a2f7e0c2b11"
    signature = site.ask("GET", found.headers["content-location"] + ".sig")
    assert (signature.status, signature.body) == (200, b"signature")


def test_a_machine_without_a_plan_is_told_what_was_looked_for(site: Site) -> None:
    missing = site.ask("GET", f"/v1/plan?mac={MAC}&serial=other%1b%5b2J")
    assert missing.status == 404
    assert f"no plan for mac={MAC} serial=other\\x1b[2J" in missing.text
    assert missing.headers["content-type"].startswith("text/plain")


def test_a_plan_is_got_by_its_id_or_its_files_name(site: Site) -> None:
    for name in ("0B6C7C1E-6d6e-4f43-9a4e-6a2f7e0c2b11", "db01"):
        assert site.ask("GET", f"/v1/plans/{name}").body == PLAN
    assert site.ask("GET", "/v1/plans/other").status == 404
    assert site.ask("HEAD", "/v1/plans/db01").body == b""


def test_two_plans_for_one_machine_are_a_conflict(tmp_path: Path) -> None:
    furnish(tmp_path)
    (tmp_path / "plans" / "twin.yaml").write_bytes(PLAN.replace(b"0b6c", b"1b6c"))
    with running(tmp_path) as url:
        answer = Site(tmp_path, url).ask("GET", f"/v1/plan?mac={MAC}&serial=CZ1234")
    assert answer.status == 409
    assert "db01.yaml" in answer.text
    assert "twin.yaml" in answer.text


def test_a_payload_is_served_whole_with_its_validators(site: Site) -> None:
    whole = site.ask("GET", "/images/a.zst")
    assert (whole.status, whole.body) == (200, PAYLOAD)
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["etag"].startswith('"')
    assert site.ask("GET", "/images/sub/a.json").headers["content-type"] == "application/json"


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)
@given(
    start=st.integers(0, len(PAYLOAD) + 10),
    length=st.integers(1, len(PAYLOAD) + 10),
    form=st.sampled_from(["closed", "open", "suffix"]),
)
def test_any_range_is_that_part_of_the_file(site: Site, start: int, length: int, form: str) -> None:
    wanted = {
        "closed": (f"{start}-{start + length - 1}", PAYLOAD[start : start + length]),
        "open": (f"{start}-", PAYLOAD[start:]),
        "suffix": (f"-{length}", PAYLOAD[-length:]),
    }
    spelled, part = wanted[form]
    answer = site.ask("GET", "/images/a.zst", headers={"Range": f"bytes={spelled}"})
    if not part:
        assert answer.status == 416
        assert answer.headers["content-range"] == f"bytes */{len(PAYLOAD)}"
        return
    first = PAYLOAD.__len__() - len(part) if form == "suffix" else start
    assert (answer.status, answer.body) == (206, part)
    assert answer.headers["content-range"] == (
        f"bytes {first}-{first + len(part) - 1}/{len(PAYLOAD)}"
    )


@pytest.mark.parametrize("spelled", ["bytes=5-2", "bytes=-", "bytes=0-1,4-5", "chunks=0-1", "x"])
def test_a_range_that_is_none_gets_the_whole_file(site: Site, spelled: str) -> None:
    answer = site.ask("GET", "/images/a.zst", headers={"Range": spelled})
    assert (answer.status, len(answer.body)) == (200, len(PAYLOAD))


def test_a_download_goes_on_only_if_the_file_is_the_same(tmp_path: Path) -> None:
    furnish(tmp_path)
    with running(tmp_path) as url:
        site = Site(tmp_path, url)
        before = site.ask("HEAD", "/images/a.zst").headers
        resume = {"Range": "bytes=10-19", "If-Range": before["etag"]}
        assert site.ask("GET", "/images/a.zst", headers=resume).body == PAYLOAD[10:20]
        by_date = resume | {"If-Range": before["last-modified"]}
        assert site.ask("GET", "/images/a.zst", headers=by_date).status == 206
        fresh = {"If-None-Match": before["etag"]}
        assert site.ask("GET", "/images/a.zst", headers=fresh).status == 304
        other = tmp_path / "images" / ".a.zst"
        other.write_bytes(PAYLOAD[::-1])
        other.rename(tmp_path / "images" / "a.zst")
        answer = site.ask("GET", "/images/a.zst", headers=resume)
        assert (answer.status, answer.body) == (200, PAYLOAD[::-1])
        assert site.ask("GET", "/images/a.zst", headers=fresh).status == 200


def test_head_tells_the_length_without_the_bytes(site: Site) -> None:
    whole = site.ask("HEAD", "/images/a.zst")
    assert (whole.headers["content-length"], whole.body) == (str(len(PAYLOAD)), b"")
    part = site.ask("HEAD", "/images/a.zst", headers={"Range": "bytes=0-9"})
    assert (part.status, part.headers["content-length"], part.body) == (206, "10", b"")


def test_many_ranges_go_over_one_connection(site: Site) -> None:
    connection = http.client.HTTPConnection(*site.address, timeout=10)
    for start in range(0, 40, 10):
        connection.request("GET", "/images/a.zst", headers={"Range": f"bytes={start}-{start + 9}"})
        local = connection.sock.getsockname()
        assert connection.getresponse().read() == PAYLOAD[start : start + 10]
        assert connection.sock.getsockname() == local
    connection.close()


def test_an_abandoned_download_does_not_go_on_being_read(tmp_path: Path) -> None:
    furnish(tmp_path)
    with (tmp_path / "images" / "huge").open("wb") as file:
        file.truncate(1 << 38)
    with running(tmp_path) as url:
        site = Site(tmp_path, url)
        with socket.create_connection(site.address) as connection:
            connection.sendall(b"GET /images/huge HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.recv(1 << 16)
        deadline = time.monotonic() + 10
        while _open_files("huge") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert _open_files("huge") == []


def _open_files(name: str) -> list[str]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except OSError:
            continue
    return [path for path in found if path.endswith(name)]


@pytest.mark.parametrize(
    "path",
    [
        "/images/../outside",
        "/images/%2e%2e/outside",
        "/images/..%2foutside",
        "/images/sub/../../outside",
        "/images//etc/passwd",
        "/images/%2fetc%2fpasswd",
        "/images/a.zst%00",
        "/images/",
        "/images/sub",
        "/v1/plans/..%2f..%2foutside",
        "/v1/plans/..%2foutside.sig",
        "/v1/events?plan=../outside",
        "/v1/events?plan=..%2f..%2foutside",
        "/../outside",
    ],
)
def test_no_path_leads_out_of_the_directory(site: Site, path: str) -> None:
    status = site.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert re.match(rb"HTTP/1\.1 (400|404) ", status)


def post(site: Site, *events: Event, token: str = "", plan: str = "") -> Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    headers |= {"Bedplate-Plan": plan} if plan else {}
    return site.ask("POST", "/v1/events", b"".join(each.line for each in events), headers)


def test_events_are_taken_and_given_back(site: Site) -> None:
    first, second = event(1, plan="told"), event(2, State.FINISHED, plan="told")
    answer = post(site, first, second)
    assert (answer.status, json.loads(answer.body)) == (200, {"accepted": 2})
    assert json.loads(post(site, first).body) == {"accepted": 1}
    back = site.ask("GET", "/v1/events?plan=told")
    assert back.body == first.line + second.line
    assert back.headers["content-type"] == "application/x-ndjson"
    assert site.ask("GET", "/v1/events?plan=nobody").status == 404
    assert site.ask("GET", "/v1/events").status == 400


def test_a_plans_token_is_asked_for(site: Site) -> None:
    ours = event(1, plan="0b6c7c1e-6d6e-4f43-9a4e-6a2f7e0c2b11")
    assert post(site, ours).status == 401
    assert post(site, ours, token="wrong").headers["www-authenticate"] == "Bearer"
    assert post(site, plan=ours.plan, token="wrong").status == 401
    assert post(site, ours, token="sesame-canary").status == 200
    probe = post(site, plan=ours.plan, token="sesame-canary")
    assert json.loads(probe.body) == {"accepted": 0, "escrow": True}


def test_the_agents_sink_escrows_here_and_the_envelope_is_the_same(site: Site) -> None:
    der = b"\x30\x82\x01\x00" + bytes(256)
    sink = HttpSink(f"{site.url}/v1/events")
    told = Reporter("escrowed", "m", [sink])
    digest = told.deliver(der, {"luks": "u"}, timeout=10)
    told.close(5)
    assert (site.directory / "escrow" / f"escrowed-{digest}.p7m").read_bytes() == der


def test_an_envelope_that_cannot_be_written_is_not_acknowledged(tmp_path: Path) -> None:
    with running(tmp_path) as url:
        (tmp_path / "escrow").rmdir()
        sent = event(1, step="escrow", evidence=envelope_evidence(b"\x30\x00", {}))
        answer = post(Site(tmp_path, url), sent)
    assert answer.status == 507
    assert "acknowledged" not in answer.text


def test_a_batch_that_is_too_large_is_refused(site: Site) -> None:
    assert site.ask("POST", "/v1/events", b"\n" * (1024 * 1024 + 1)).status == 413


def test_twenty_machines_at_once_lose_nothing(tmp_path: Path) -> None:
    def install(number: int, url: str) -> None:
        told = Reporter(f"plan-{number}", f"m{number}", [HttpSink(f"{url}/v1/events")])
        for step in range(20):
            with told.step(f"step-{step}") as run:
                run.progress(1, 2, "bytes")
        told.final({})
        told.close(20)

    with running(tmp_path) as url:
        machines = [threading.Thread(target=install, args=(n, url)) for n in range(20)]
        for machine in machines:
            machine.start()
        for machine in machines:
            machine.join()
        answers = [Site(tmp_path, url).ask("GET", f"/v1/events?plan=plan-{n}") for n in range(20)]
    for answer in answers:
        seqs = [Event.from_json(line).seq for line in answer.body.splitlines()]
        assert seqs == sorted(seqs)
        assert seqs[-1] == len(seqs) >= 41


def test_the_page_shows_hostile_names_as_text_and_may_load_nothing(site: Site) -> None:
    page = site.ask("GET", "/")
    assert page.status == 200
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text
    assert "<script>" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_it_says_that_it_is_well(site: Site) -> None:
    assert json.loads(site.ask("GET", "/healthz").body) == {"status": "ok"}
    assert site.ask("POST", "/healthz").status == 405
    assert site.ask("GET", "/elsewhere").status == 404


PATHS = st.sampled_from(
    b"/ /healthz /v1/plan /v1/plans/ /v1/plans/db01 /v1/events /images/ /images/a.zst".split()
)


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300
)
@given(
    method=st.sampled_from([b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS"]),
    path=PATHS,
    more=st.binary(max_size=20) | st.sampled_from([b"?plan=x", b"?mac=", b"?serial=%ff", b"%00"]),
    header=st.sampled_from(
        [b"Range", b"If-Range", b"Authorization", b"Bedplate-Plan", b"Content-Length", b"Expect"]
    ),
    value=st.binary(max_size=30) | st.sampled_from([b"bytes=0-0", b"Bearer \xff", b"5", b"\xe9"]),
    body=st.binary(max_size=200) | st.just(event(1, plan="fuzz").line),
)
def test_random_bytes_never_make_it_fail(
    site: Site, method: bytes, path: bytes, more: bytes, header: bytes, value: bytes, body: bytes
) -> None:
    request = b"%s %s%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s: %s\r\n" % (
        *(method, path, more, header, value),
    )
    length = b"" if header == b"Content-Length" else b"Content-Length: %d\r\n" % len(body)
    # An upload that is announced and does not come gets no answer for as long as it may take.
    status = site.raw(request + length + b"\r\n" + body, patience=0.2)
    assert not status.startswith(b"HTTP/1.1 5"), status


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50
)
@given(st.binary(max_size=300))
def test_what_is_not_http_does_not_make_it_fail_either(site: Site, request_bytes: bytes) -> None:
    assert not site.raw(request_bytes + b"\r\n\r\n", 0.2).startswith(b"HTTP/1.1 5")
    assert site.ask("GET", "/healthz").status == 200


def test_no_token_query_or_body_gets_into_the_log(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    post(site, event(1, message="body-canary"), token="sesame-canary")
    site.ask("GET", "/v1/plan?serial=query-canary&token=query-canary")
    site.ask("POST", "/v1/events", b"body-canary", {"Authorization": "Bearer sesame-canary"})
    deadline = time.monotonic() + 10  # the line is written after the answer
    while "POST /v1/events 400" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "POST /v1/events 400" in caplog.text
    assert "canary" not in caplog.text


def started(directory: Path) -> tuple[subprocess.Popen[str], Site]:
    code = "import sys; from pathlib import Path; from agent.server import serve; "
    code += "serve(Path(sys.argv[1]), '127.0.0.1:0')"
    process = subprocess.Popen(
        [sys.executable, "-c", code, directory], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    match = re.match(r"(http://127\.0\.0\.1:\d+)/ serves 1 plan and 2 image files of ", line)
    assert match, line
    return process, Site(directory, match[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_soon(tmp_path: Path, number: int) -> None:
    furnish(tmp_path)
    with (tmp_path / "images" / "a.zst").open("wb") as file:
        file.truncate(1 << 34)
    process, site = started(tmp_path)
    with (
        socket.create_connection(site.address) as idle,
        socket.create_connection(site.address) as downloading,
        socket.create_connection(site.address) as uploading,
    ):
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        idle.recv(1000)
        downloading.sendall(b"GET /images/a.zst HTTP/1.1\r\nHost: x\r\n\r\n")
        downloading.recv(1000)
        uploading.sendall(b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1")
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(timeout=10) == 0
        assert time.monotonic() - began < 5  # 1.2 s when the machine is idle
    assert process.stdout is not None
    assert process.stdout.read() == ""
    process.stdout.close()


@pytest.mark.parametrize(
    ("listen", "reason"),
    [
        ("127.0.0.1:http", "listen: must be HOST:PORT, not '127.0.0.1:http'"),
        ("127.0.0.1:70000", "listen: must be HOST:PORT"),
        ("", "listen: must be HOST:PORT"),
        ("192.0.2.1:0", "Cannot assign requested address"),
        ("no-such-host.invalid:0", "listen: no-such-host.invalid:0: "),
    ],
)
def test_an_address_that_cannot_be_used_is_named(tmp_path: Path, listen: str, reason: str) -> None:
    with pytest.raises(MachineError) as caught:
        serve(tmp_path, listen)
    assert reason in str(caught.value)


def test_a_port_in_use_and_a_missing_directory_are_named(tmp_path: Path, site: Site) -> None:
    with pytest.raises(MachineError, match="Address already in use"):
        serve(tmp_path, "{}:{}".format(*site.address))
    with pytest.raises(MachineError, match=r"missing: No such file or directory"):
        serve(tmp_path / "missing")
