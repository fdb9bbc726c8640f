"""Passwords, tokens and secret parts of queries are never shown, whatever marks are in them."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from benchmark.errors import StorageError, masked
from benchmark.utils.guard import described

QUICK = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
SLOW = settings(QUICK, max_examples=2_000)
PROFILES = [pytest.param(QUICK, id="quick"), pytest.param(SLOW, id="slow", marks=pytest.mark.slow)]

SECRET = st.text(alphabet="SECRT", min_size=4, max_size=6)
"""Secrets are in capitals, everything else in small letters."""
MARKS = st.sampled_from(["@", ":", "/", "#", "?", "&", "=", "%40", "%2F", "%", "+", ";", "!", "$", ".", "-", "[", "]"])
PASSWORDS = st.lists(st.one_of(SECRET, MARKS), min_size=1, max_size=7).map("".join).filter(re.compile("[A-Z]").search)
SCHEMES = st.sampled_from(["postgresql", "postgresql+psycopg", "mysql", "http", "https", "mssql+pyodbc"])
USERS = st.sampled_from(["me", "me%40home", "a.b", ""])
PLACES = st.sampled_from(["host", "host:5432", "[::1]:5432", "10.0.0.1"])
PATHS = st.sampled_from(["", "/", "/db", "/a/b"])
KEYS = st.sampled_from(
    [
        *("password", "sslpassword", "passwd", "pwd", "token", "access_token", "api_key", "apikey", "client_secret"),
        *("x-amz-signature", "x-amz-credential", "key", "pass%77ord", "auth", "sig"),
    ]
)
PLAIN = st.sampled_from(["sslmode=require", "a=b", "options=-c%20x", "connect_timeout=3"])


def query(secret: str, keys: list[str], plain: list[str]) -> str:
    """Secret values are quoted, as they must be in a query."""
    pairs = [*plain, *(f"{key}={quote(secret, safe='/:@!$')}" for key in keys)]
    return f"?{'&'.join(pairs)}" if pairs else ""


@st.composite
def urls(draw: st.DrawFn) -> tuple[str, str]:
    """An address, and its password."""
    password = draw(PASSWORDS)
    user, place, path = draw(USERS), draw(PLACES), draw(PATHS)
    info = draw(st.sampled_from([f"{user}:{password}@", f"{user}:{quote(password, safe='')}@", f"{user}@", ""]))
    keys = draw(st.lists(KEYS, min_size=0 if password in info else 1, max_size=2))
    return f"{draw(SCHEMES)}://{info}{place}{path}{query(password, keys, draw(st.lists(PLAIN, max_size=2)))}", password


MESSAGES = st.sampled_from(
    [
        "tracking store {0} cannot be reached",
        "cannot be reached: {0}",
        "--storage {0}: (psycopg.OperationalError) [Errno -2] with {0!r} (see {0})",
        'could not translate host name "{1}" to address',
        "invalid literal for int() with base 10: {1!r}",
        "password authentication with '{1}' failed for {0}",
    ]
)


@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_of_a_password_is_shown_beside_its_address(profile: settings) -> None:
    def check(found: tuple[str, str], message: str) -> None:
        address, password = found
        text = message.format(address, re.split("[@/:#?]", password)[-1] or password)
        shown = masked(text, address)
        assert not re.search("[A-Z]{3,}", shown.replace("OperationalError", "")), shown
        assert masked(shown, address) == shown or "***" in shown

    profile(given(urls(), MESSAGES)(check))()


@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_of_a_password_is_shown_where_the_address_is_not_known(profile: settings) -> None:
    """As in an error of a tracker or a plugin, which goes into the ledger and to stderr."""

    def check(found: tuple[str, str], before: str) -> None:
        address, _ = found
        for shown in (
            masked(f"{before}{address}"),
            str(StorageError(f"{before}{address} is gone")),
            described(OSError(f"{before}{address} is gone")).removeprefix("OSError"),
        ):
            assert not re.search("[A-Z]", shown), shown
            assert "://" in shown

    profile(given(urls(), st.sampled_from(["", "cannot reach ", "(", "'", "uri="]))(check))()


@given(PASSWORDS)
@example("SECR ET")
def test_the_place_stays_readable(password: str) -> None:
    address = f"postgresql://me:{password}@host:5432/studies?sslmode=require&sslpassword=XYZ"
    assert masked(address, address) == "postgresql://me:***@host:5432/studies?sslmode=require&sslpassword=***"


@pytest.mark.parametrize(
    "text",
    [
        *("sqlite:////home/a@b/mlflow.db", "/data/studies.log", "http://127.0.0.1:5000/#/experiments/1", "me@host"),
        *("hf://datasets/a/b", "tar://a.jpg::/data/0.tar", "models:/name/1", "postgresql://me@host/db", "a: b://", ""),
        *("https://host/x?limit=3&split=test", "rtn-w4-vision?key", "visual.token_embedding: 3 tokens"),
    ],
)
def test_what_has_no_secret_stays_as_it_is(text: str) -> None:
    assert masked(text) == text
    assert masked(text, text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://ghp_abc@github.com/x", "https://***@github.com/x"),
        ("connection failed: host=a password=tiger user=b", "connection failed: host=a password=*** user=b"),
        ("mssql://h/x?odbc_connect=DRIVER%3DA%3BPWD%3Dtiger", "mssql://h/x?odbc_connect=***"),
        ("--storage=mysql://me:a#b@h/x", "--storage=mysql://me:***@h/x"),
        ("mysql://me:ti ger@h/x", "mysql://me:***@h/x"),
        ("postgresql://me@host?api_key=CCCC:@", "postgresql://me@host?api_key=***"),
    ],
)
def test_other_places_of_secrets(text: str, shown: str) -> None:
    assert masked(text, text) == shown
