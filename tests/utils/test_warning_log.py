"""Warnings inside a named block go to the log once, and Python keeps its memory of those outside."""

import warnings

import pytest

from freqkd.utils import warning_log
from freqkd.utils.warning_log import WarningLog


@pytest.fixture
def logged(monkeypatch):
    found = []
    monkeypatch.setattr(warning_log, "print_log", lambda text, *options: found.append(text))
    return found


def test_a_text_is_logged_once_under_its_name(logged):
    log = WarningLog()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        for slot in ("terms.a", "terms.a", "terms.b"):
            with log.named(slot):
                warnings.warn("too small", stacklevel=1)
    assert logged == ["terms.a: too small", "terms.b: too small"]


def test_what_is_filtered_out_stays_so(logged):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with WarningLog().named("terms.a"):
            warnings.warn("too small", stacklevel=1)
    assert logged == []


def test_a_warning_outside_is_shown_once_although_every_step_has_a_block(logged, monkeypatch):
    log, shown = WarningLog(), []
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        monkeypatch.setattr(warnings, "showwarning", lambda message, *options: shown.append(str(message)))
        for _ in range(5):
            warnings.warn("of the student", stacklevel=1)
            with log.named("terms.a"):
                pass
    assert shown == ["of the student"]
    assert logged == []


def test_an_error_in_the_block_leaves_python_as_it_was(logged):
    before = warnings.showwarning
    with pytest.raises(KeyError), WarningLog().named("terms.a"):
        raise KeyError
    assert warnings.showwarning is before
