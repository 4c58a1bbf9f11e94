"""Secrets are taken out of texts, in whatever way they are written there, and out of errors with their causes."""

from __future__ import annotations

import json

from karez.cli.log import redact
from karez.errors import Rejected
from karez.secrecy import conceal, concealed, keep_secret, passwords


def test_a_secret_is_taken_out_however_it_is_quoted() -> None:
    secret = 'pa"ss\\wörd'
    keep_secret([secret, "pa"])
    for text in (secret, repr(secret), json.dumps(secret), f"at https://x:{secret}@host"):
        assert "ss" not in concealed(text).replace("https", "")
        assert "***" in concealed(text)
    assert concealed("spa, pass") == "spa, pass"


def test_a_traceback_of_ours_shows_no_secret() -> None:
    keep_secret(["hunter2"])
    assert redact("KeyError: hunter2") == "KeyError: ***"


def test_nothing_is_changed_while_nothing_is_secret() -> None:
    assert concealed("text") == "text"
    error = ValueError("text", 1)
    conceal(error)
    assert error.args == ("text", 1)


def test_errors_and_their_causes_keep_no_secret() -> None:
    keep_secret(["hunter2"])
    error, cause = Rejected("no: hunter2"), ValueError("hunter2", 7)
    error.__cause__, cause.__context__ = cause, error
    conceal(error)
    assert (str(error), error.reason, cause.args) == ("no: ***", "no: ***", ("***", 7))


def test_passwords_of_urls_are_found() -> None:
    assert passwords("nats://karez:secret@a:4222,nats://karez:other@b http://c:80/x") == ["secret", "other"]
