"""What lets a plan fetch its image: token, proxy, media; and that secrets are not shown."""

from __future__ import annotations

from typing import Any

import pytest

from agent.plan.image import Image
from agent.plan.parse import parse
from agent.plan.render import render
from agent.proxy import Proxies, Proxy
from agent.resolve import resolve
from agent.steps.mount_target import MountTarget
from agent.steps.write_image import WriteImage
from tests.unit.fakes import SERVER, FakeHost
from tests.unit.fakes import plan as fake_plan
from tests.unit.plan.plans import problems_of, small, text_of
from tests.unit.test_resolve import NOW, host

__all__ = ["host"]
URL = "https://images.example.com/debian13.json"


def image(**keys: Any) -> Image:
    return parse(text_of(small(image={"manifest": URL, **keys}))).image


def refused(**keys: Any) -> list[str]:
    return problems_of(text_of(small(image={"manifest": URL, **keys})))


def test_token_and_proxy_are_kept_and_shown_only_where_secrets_are_asked_for() -> None:
    plan = parse(
        text_of(
            small(
                image={
                    "manifest": URL,
                    "token": "dG9rZW4tb2Y",
                    "proxy": "http://fleet:pa%3Ass%40@proxy.example.com:3128",
                    "no_proxy": ["cache.example.com", "10.0.0.0/8"],
                }
            )
        )
    )
    shown = render(plan)
    for text in (shown, repr(plan), str(plan.image)):
        assert "dG9rZW4tb2Y" not in text
        assert "pa%3Ass" not in text
        assert "pa:ss" not in text
    assert "http://(hidden)@proxy.example.com:3128" in shown
    assert sorted(problems_of(shown)) == [
        "image.proxy: has its password hidden: it was printed for people",
        "image.token: is not a bearer token: letters, digits and ._~+/- with = at the end",
    ]
    assert parse(render(plan, secrets=True).encode()) == plan


def test_a_proxy_without_credentials_is_no_secret() -> None:
    plan = parse(text_of(small(image={"manifest": URL, "proxy": "http://proxy:3128"})))
    assert plan.image.proxy == Proxy("proxy", 3128)
    assert parse(render(plan).encode()) == plan


@pytest.mark.parametrize(
    "proxy", ["socks5://u:s3cret@proxy", "http://u:s3cret@proxy/path", "s3cret", 7, ["s3cret"]]
)
def test_what_is_no_proxy_is_refused_without_being_quoted(proxy: object) -> None:
    (problem,) = refused(proxy=proxy)
    assert problem.startswith("image.proxy: ")
    assert "s3cret" not in problem


def test_hosts_without_a_proxy_need_a_proxy() -> None:
    assert refused(no_proxy="a.example") == [
        "image.no_proxy: names hosts to ask without a proxy, and there is no proxy"
    ]
    assert len(refused(proxy="http://proxy", no_proxy=["a b"])) == 1


def test_an_image_may_lie_on_a_medium() -> None:
    url = "file:///run/media/images/debian%2013.json"
    assert image(manifest=[url, URL]).manifest == (url, URL)


@pytest.mark.parametrize(
    "url",
    [
        "file:relative.json",
        "file://server/share/x.json",
        "file:///run/media/../etc/x.json",
        "file:///run/media/%2e%2e/x.json",
        "file:///run/media/",
        "file:///x.json?query",
        "file:///x y.json",
        "file:///x%00.json",
        "file://[broken/x.json",
    ],
)
def test_a_medium_s_file_is_named_in_full(url: str) -> None:
    (problem,) = refused(manifest=url)
    assert problem.startswith("image.manifest")


def test_what_lets_us_in_reaches_the_images_port_and_what_mirrors_did_the_report(
    host: FakeHost,
) -> None:
    keys = {"token": "dG9rZW4tb2Y", "proxy": "http://u:pw@proxy:3128", "no_proxy": "a.example"}
    mirrors = [URL, "https://mirror.example.com/debian13.json"]
    plan = fake_plan(image={"manifest": mirrors, **keys})
    order = resolve(plan, SERVER, host.machine(), NOW, lambda done, total: None)
    write = next(step for step in order.steps if isinstance(step, WriteImage))
    access = write.source.access
    assert access.token is not None
    assert access.token.text == "dG9rZW4tb2Y"
    proxy = Proxy.parse("http://u:pw@proxy:3128")
    assert access.proxies == Proxies.through(proxy, ["a.example"])
    assert "dG9r" not in repr(order)
    assert "pw" not in repr(access)
    mount = next(step for step in order.steps if isinstance(step, MountTarget))
    host.mounts.mounted_at[write.root] = mount.filesystems[0]
    evidence = write.apply(host.machine(), lambda done, total: None)
    assert evidence["mirrors"] == [
        {"url": URL.replace("json", "tar.zst"), "bytes": evidence["stored"], "corrupt": 0},
        {"url": mirrors[1].replace("json", "tar.zst"), "bytes": 0, "corrupt": 1},
    ]
