"""Commands that restart engines, from a setting (SPEC H4)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_mesh.domain.commands import ANY_DEVICE, command_for, parse
from gpu_mesh.errors import InvalidSetting
from gpu_mesh.settings import load


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("systemctl --user restart ollama", {"": ("systemctl", "--user", "restart", "ollama")}),
        ("gpu0=ollama serve", {"gpu0": ("ollama", "serve")}),
        (
            "gpu0=systemctl restart a; gpu1=b 'x y';",
            {"gpu0": ("systemctl", "restart", "a"), "gpu1": ("b", "x y")},
        ),
        ("gpu0=a;b", {"gpu0": ("a",), "": ("b",)}),
        ("env OLLAMA_HOST=127.0.0.1:1 ollama serve", {"": ("env", "OLLAMA_HOST=127.0.0.1:1", "ollama", "serve")}),
        ("'/opt/my tools/restart' ';' '#1'", {"": ("/opt/my tools/restart", ";", "#1")}),
        ("/opt/a=b/run", {"": ("/opt/a=b/run",)}),
        ("gpu0= ollama serve", {"gpu0": ("ollama", "serve")}),
    ],
)
def test_words(text: str, found: dict[str, tuple[str, ...]]) -> None:
    assert parse(text) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ollama 'serve", "quotes closed"),
        ("gpu0=", "a command of gpu0"),
        ("a;;b", "a command, as in"),
        (";a", "a command, as in"),
        ("''", "a command, as in"),
        ("a; b", "one command for the node"),
        ("gpu0=a; gpu0=b", "one command for gpu0"),
        ("pkill ollama && ollama serve", "no shell"),
        ("a | b", "no shell"),
        ("a >log", "no shell"),
        ("a 2>&1", "no shell"),
        ("a &", "no shell"),
        ("kill $(pidof ollama)", "no shell"),
        ("OLLAMA_HOST=x ollama serve", "env OLLAMA_HOST=x"),
    ],
)
def test_what_is_refused(text: str, says: str) -> None:
    """H4: what a shell alone would understand must not be handed to a program as a word."""
    with pytest.raises(ValueError, match=re.escape(says)):
        parse(text)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except ValueError:
        return
    assert all(words and words[0] for words in found.values())


def test_whose_command() -> None:
    commands = {"gpu0": ("a",), ANY_DEVICE: ("b",)}
    assert [command_for(name, commands) for name in ("gpu0", "gpu1")] == [("a",), ("b",)]
    assert command_for("gpu1", {"gpu0": ("a",)}) is None


def test_a_wrong_setting_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """H4: at the start, with what is wrong."""
    monkeypatch.setenv("GPU_MESH_ENGINE_RESTART", "pkill ollama && ollama serve")
    with pytest.raises(InvalidSetting, match=r"GPU_MESH_ENGINE_RESTART=.*no shell"):
        load(None)
