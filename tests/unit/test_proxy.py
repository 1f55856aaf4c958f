"""Which host is asked through which proxy, and that passwords are not shown."""

from __future__ import annotations

from base64 import b64decode

import pytest

from agent.errors import MachineError
from agent.find import CommandLine, booted_with
from agent.proxy import Proxies, Proxy


def test_a_proxy_shows_itself_without_its_credentials() -> None:
    proxy = Proxy.parse("http://fleet:s3%3Acr%40t@proxy.example.com:3128")
    assert str(proxy) == "http://proxy.example.com:3128"
    assert "s3" not in repr(proxy) + repr(Proxies.through(proxy))
    scheme, _, value = proxy.headers["Proxy-Authorization"].partition(" ")
    assert (scheme, b64decode(value)) == ("Basic", b"fleet:s3:cr@t")
    assert Proxy.parse("http://[2001:db8::1]").headers == {}
    assert str(Proxy.parse("http://[2001:db8::1]")) == "http://[2001:db8::1]:80"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "proxy.example.com:3128",
        "socks5://s3cret@proxy.example.com",
        "https://user:s3cret@proxy.example.com",
        "http://",
        "http://user:s3cret@proxy:99999",
        "http://user:s3cret@proxy:0",
        "http://user:s3cret@proxy/path",
        "http://user:s3cret@[broken",
        "http://a%3Ab:s3cret@proxy",
        "http://user:s3cret@proxy\n",
        "http://üser:s3cret@proxy",
    ],
)
def test_what_is_no_proxy_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ValueError, match=r"must be such as|RFC 7617") as caught:
        Proxy.parse(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "host", "direct"),
    [
        ("*", "anything", True),
        ("example.com", "example.com", True),
        ("example.com", "images.EXAMPLE.com", True),
        (".example.com", "images.example.com", True),
        ("example.com.", "images.example.com.", True),
        ("example.com", "notexample.com", False),
        ("example.com:443", "example.com", True),
        ("example.com:80", "example.com", False),
        ("192.0.2.0/24", "192.0.2.77", True),
        ("192.0.2.7/24", "192.0.2.77", True),
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7:443", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.77", False),
        ("2001:db8::/32", "2001:db8::5", True),
        ("[2001:db8::5]", "2001:db8::5", True),
        ("192.0.2.0/24", "images.example.com", False),
        ("", "example.com", False),
        (".", "example.com", False),
    ],
)
def test_hosts_that_are_asked_without_a_proxy(entry: str, host: str, direct: bool) -> None:
    proxies = Proxies.through(Proxy("proxy", 3128), [entry])
    assert (proxies.to("https", host, 443) is None) == direct


def test_the_kernel_command_line_names_the_live_image_s_proxy() -> None:
    line = "quiet bedplate.proxy=http://u:p@proxy:3128 bedplate.no_proxy=a.example,10.0.0.0/8"
    proxies = booted_with(CommandLine.parse(line))
    assert str(proxies.http) == str(proxies.https) == "http://proxy:3128"
    assert proxies.direct == ("a.example", "10.0.0.0/8")
    assert booted_with(CommandLine.parse("quiet")) == Proxies()
    with pytest.raises(MachineError, match=r"^kernel command line: bedplate\.proxy= is not") as bad:
        booted_with(CommandLine.parse("bedplate.proxy=socks5://u:s3cret@proxy"))
    assert "s3cret" not in str(bad.value)


def test_the_environment_is_read_as_curl_reads_it() -> None:
    proxies = Proxies.of_environment(
        {
            "http_proxy": "plain:1",
            "HTTPS_PROXY": "http://u:p@secure:2/",
            "no_proxy": "a.example, 10.0.0.0/8,",
        }
    )
    assert str(proxies.http) == "http://plain:1"
    assert str(proxies.https) == "http://secure:2"
    assert proxies.direct == ("a.example", "10.0.0.0/8")
    assert Proxies.of_environment({"HTTP_PROXY": "evil:1"}) == Proxies()
    both = Proxies.of_environment({"all_proxy": "any:3", "https_proxy": ""})
    assert str(both.http) == str(both.https) == "http://any:3"
    with pytest.raises(ValueError, match=r"^https_proxy: is not the URL of an http proxy"):
        Proxies.of_environment({"https_proxy": "socks5://x"})
