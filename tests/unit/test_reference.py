"""Addresses in registries: what is taken means one thing, and the rest is refused with advice."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.reference import Reference

DIGEST = "sha256:" + "0123456789abcdef" * 4

hosts = st.from_regex(r"[a-z][a-z0-9]{0,8}(\.[a-z]{2,5}){0,2}", fullmatch=True)
ports = st.none() | st.integers(1, 65535)
parts = st.from_regex(r"[a-z0-9]{1,5}((\.|_|__|--?)[a-z0-9]{1,3}){0,2}", fullmatch=True)
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)


@given(hosts, ports, st.lists(parts, min_size=1, max_size=4), tags, st.booleans(), st.booleans())
def test_an_address_comes_back_from_its_text(
    host: str, port: int | None, path: list[str], tag: str, digest: bool, plain: bool
) -> None:
    registry = f"{host}:{port}" if port else host
    reference = Reference(registry, "/".join(path), tag, DIGEST if digest else None, plain)
    assert Reference.parse(str(reference)) == reference


@given(st.text(max_size=60) | st.from_regex(r"(oci|oci\+http|docker)://[ -~]{0,60}"))
@example("oci://[::1/x:1")
@example("oci://a:99999/x:1")
@example("docker:///")
def test_any_text_is_an_address_or_refused(text: str) -> None:
    for parse in (Reference.parse, Reference.parse_image, Reference.parse_docker):
        try:
            reference = parse(text)
        except ValueError:
            continue
        assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "base", "named"),
    [
        ("oci://r.example.com/a/b:1", "https://r.example.com/v2/a/b", "1"),
        ("oci://R.Example.com:5000/a:1", "https://r.example.com:5000/v2/a", "1"),
        ("oci+http://10.0.2.2:5000/a:v1", "http://10.0.2.2:5000/v2/a", "v1"),
        ("oci+http://[::1]:5000/a:v1", "http://[::1]:5000/v2/a", "v1"),
        (f"oci://r/a:1@{DIGEST}", "https://r/v2/a", DIGEST),
    ],
)
def test_it_says_what_the_registry_is_asked_for(text: str, base: str, named: str) -> None:
    reference = Reference.parse(text)
    assert (reference.base, reference.named) == (base, named)


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("docker://debian:13", "oci://docker.io/library/debian:13"),
        ("docker://user/app:1", "oci://docker.io/user/app:1"),
        ("docker://localhost/app:1", "oci://localhost/app:1"),
        ("docker://quay.io/a/b:1", "oci://quay.io/a/b:1"),
    ],
)
def test_docker_addresses_are_read_as_docker_does(text: str, full: str) -> None:
    assert str(Reference.parse_docker(text)) == full


def test_docker_hub_is_asked_where_it_answers() -> None:
    assert Reference.parse_docker("docker://debian:13").base == (
        "https://registry-1.docker.io/v2/library/debian"
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("https://r/a:1", "no address such as oci://"),
        ("oci://r", "names no repository"),
        ("oci:///a:1", "has the registry"),
        ("oci://user@r/a:1", "has the registry"),
        ("oci://r:0/a:1", "has the registry"),
        ("oci://[fe80::1%eth0]/a:1", "has the registry"),
        ("oci://r/A:1", "has the repository"),
        ("oci://r/a//b:1", "has the repository"),
        ("oci://r/../etc:1", "has the repository"),
        ("oci://r/" + "a" * 300 + ":1", "has the repository"),
        ("oci://r/a:", "has the tag"),
        ("oci://r/a:.x", "has the tag"),
        ("oci://r/a@sha512:" + "0" * 128, "has the digest"),
        ("oci://r/a@sha256:" + "G" * 64, "has the digest"),
        ("oci://r/a", "neither a tag nor a digest"),
    ],
)
def test_what_is_wrong_is_said(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost:5000", True),
        ("127.3.2.1", True),
        ("[::1]:5000", True),
        ("10.0.2.2", False),
        ("localhost.example.com", False),
    ],
)
def test_only_this_machine_is_loopback(host: str, here: bool) -> None:
    assert Reference.parse(f"oci://{host}/a:1").loopback is here
