from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import MachineError
from agent.secret import Secret
from agent.server.operators import SESSION_SECONDS, Operator, Operators, read, write

KEY = b"k" * 32


class Hands:
    """A clock wound by hand."""

    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def alice() -> Operator:
    return Operator.make("alice", Secret("sesame é"))


@pytest.fixture
def file(tmp_path: Path, alice: Operator) -> Path:
    write(tmp_path / "operators", {"alice": alice})
    return tmp_path / "operators"


@pytest.fixture
def operators(file: Path) -> Operators:
    return Operators(file, KEY)


def test_the_file_holds_no_password_and_is_not_for_others(file: Path, alice: Operator) -> None:
    assert "sesame" not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert read(file) == {"alice": alice}
    assert Operator.make("alice", Secret("sesame é")).line != alice.line  # salted


def test_only_the_right_name_and_password_are_admitted(file: Path) -> None:
    operators = Operators(file, KEY)
    assert operators.admits("alice", "sesame é")
    assert operators.admits("alice", "sesame é")
    wrong = [("alice", "sesame"), ("alice", ""), ("Alice", "sesame é"), ("nobody", ""), ("", "")]
    assert [operators.admits(*each) for each in wrong] == [False] * 5


def test_a_session_ends_with_its_time(file: Path) -> None:
    clock = Hands()
    operators = Operators(file, KEY, clock)
    cookie = operators.session("alice")
    assert operators.of_session(cookie) == "alice"
    assert Operators(file, KEY, clock).of_session(cookie) == "alice"  # another server, or a restart
    assert Operators(file, b"x" * 32, clock).of_session(cookie) is None
    clock.now += SESSION_SECONDS
    assert operators.of_session(cookie) is None


def test_a_session_ends_with_a_new_password_or_without_the_operator(file: Path) -> None:
    operators = Operators(file, KEY)
    cookie = operators.session("alice")
    write(file, {"alice": Operator.make("alice", Secret("other"))})
    assert operators.of_session(cookie) is None
    assert not operators.admits("alice", "sesame é")
    cookie = operators.session("alice")
    write(file, {})
    assert operators.of_session(cookie) is None


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_cookie_is_none(operators: Operators, data: st.DataObject) -> None:
    cookie = operators.session("alice")
    at = data.draw(st.integers(0, len(cookie) - 1))
    other = data.draw(st.characters().filter(lambda c: c != cookie[at]))
    assert operators.of_session(cookie[:at] + other + cookie[at + 1 :]) is None
    assert operators.of_session(data.draw(st.text())) is None


@pytest.mark.parametrize(
    "line",
    [
        "alice",
        "alice:sesame",
        "alice:scrypt:32768:8:1:!!:!!",
        "alice:scrypt:99999999999:8:1:c2FsdA==:aA==",
        "a b:scrypt:1024:8:1:c2FsdA==:aA==",
        "alice:md5:1:1:1:c2FsdA==:aA==",
        "alice:scrypt:1024:8:1::",
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "operators").write_text(f"# comment\n\n{line}\n")
    with pytest.raises(MachineError, match="line 3 was not written by bedplate operator add"):
        Operators(tmp_path / "operators", KEY)
    with pytest.raises(MachineError, match="No such file"):
        Operators(tmp_path / "missing", KEY)
