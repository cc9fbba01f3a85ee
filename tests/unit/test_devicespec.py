"""The setting GPU_MESH_DEVICES (SPEC N1, N5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_mesh.domain.devicespec import (
    AppleSpec,
    AutoSpec,
    CpuSpec,
    DeviceSpec,
    EndpointSpec,
    FakeSpec,
    NvidiaSpec,
    parse,
)
from gpu_mesh.errors import InvalidSetting


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("auto", [AutoSpec()]),
        (" AUTO ", [AutoSpec()]),
        ("nvidia", [NvidiaSpec()]),
        ("apple", [AppleSpec()]),
        ("cpu", [CpuSpec(1)]),
        ("cpu:2", [CpuSpec(2)]),
        ("fake:RTX 4090:24", [FakeSpec("RTX 4090", 24.0)]),
        ("fake: RTX 4090 : 23.5 ", [FakeSpec("RTX 4090", 23.5)]),
        ("endpoint:A40:40:http://127.0.0.1:11435", [EndpointSpec("A40", 40.0, "http://127.0.0.1:11435")]),
        ("endpoint:A40:40:https://gpu.example/ollama/", [EndpointSpec("A40", 40.0, "https://gpu.example/ollama")]),
        ("endpoint:A40:40:http://[::1]:11435", [EndpointSpec("A40", 40.0, "http://[::1]:11435")]),
        (
            "nvidia, cpu:2,fake:L4:24,fake:L4:24",
            [NvidiaSpec(), CpuSpec(2), FakeSpec("L4", 24.0), FakeSpec("L4", 24.0)],
        ),
    ],
)
def test_what_is_allowed(text: str, specs: list[DeviceSpec]) -> None:
    """N1, N5: each form, in the order written."""
    assert parse(text) == tuple(specs)


WRONG = [
    ("", "empty"),
    ("  ", "empty"),
    ("cpu,", "empty"),
    (",cpu", "empty"),
    ("gpu", "'gpu' is no kind"),
    ("cpu,cuda:0", "'cuda:0' is no kind"),
    ("auto,cpu", "auto stands alone"),
    ("auto:1", "takes nothing"),
    ("nvidia:", "takes nothing"),
    ("nvidia,nvidia", "twice"),
    ("cpu,cpu:2", "cpu:COUNT"),
    ("cpu:0", "whole number"),
    ("cpu:-1", "whole number"),
    ("cpu:1.5", "whole number"),
    ("cpu:", "whole number"),
    ("cpu:65", "1 to 64"),
    ("cpu:²", "whole number"),
    ("fake", "fake:TYPE:GB"),
    ("fake:RTX 4090", "fake:TYPE:GB"),
    ("fake:RTX 4090:24:1", "fake:TYPE:GB"),
    ("fake::24", "type"),
    ("fake:--:24", "type"),
    ("fake:a\x00b:24", "type"),
    (f"fake:{'x' * 81}:24", "80 characters"),
    ("fake:L4:0", "above 0"),
    ("fake:L4:0.0", "above 0"),
    ("fake:L4:-24", "above 0"),
    ("fake:L4:nan", "above 0"),
    ("fake:L4:inf", "above 0"),
    ("fake:L4:1e9", "above 0"),
    ("fake:L4:24GB", "above 0"),
    ("fake:L4:24576", "up to 4096"),
    ("endpoint:A40:40", "endpoint:TYPE:GB:URL"),
    ("endpoint:A40:-1:http://a", "above 0"),
    ("endpoint:A40:40:127.0.0.1:11435", "http://HOST"),
    ("endpoint:A40:40:ftp://host", "http://HOST"),
    ("endpoint:A40:40:http://", "http://HOST"),
    ("endpoint:A40:40:http://:80", "http://HOST"),
    ("endpoint:A40:40:http://a b", "http://HOST"),
    ("endpoint:A40:40:http://a:0", "http://HOST"),
    ("endpoint:A40:40:http://a:port", "no address"),
    ("endpoint:A40:40:http://a:99999", "no address"),
    ("endpoint:A40:40:http://[::1", "no address"),
    ("endpoint:A40:40:http://a\x80", "http://HOST"),
    ("endpoint:A40:40:http://a?key=1", "no user"),
    ("endpoint:A:1:http://a/,endpoint:B:2:http://A", "named twice"),
]


@pytest.mark.parametrize(("text", "hint"), WRONG)
def test_what_is_wrong_is_named(text: str, hint: str) -> None:
    """N1: the setting, the bad part and what is allowed."""
    with pytest.raises(InvalidSetting) as caught:
        parse(text)
    assert (caught.value.field, caught.value.value) == ("GPU_MESH_DEVICES", text)
    assert hint in caught.value.remedy
    assert "Allowed: auto, or a comma-separated list" in caught.value.remedy


def test_a_password_is_not_repeated() -> None:
    """N5: settings errors end up in logs."""
    with pytest.raises(InvalidSetting, match=r"//\*\*\*@tunnel.* no user") as caught:
        parse("endpoint:A40:40:http://me:s3cret@tunnel:80")
    assert "s3cret" not in str(caught.value)


FIELDS = st.sampled_from(
    [
        "auto",
        "nvidia",
        "apple",
        "cpu",
        "fake",
        "endpoint",
        "RTX 4090",
        "24",
        "-1",
        "nan",
        "0",
        "1e999",
        "2",
        "//a",
        "http",
    ]
) | st.text(max_size=4)
PARTS = st.lists(FIELDS, min_size=1, max_size=5).map(":".join)
ENDPOINTS = st.text(max_size=8).map("endpoint:A40:40:http://a{}".format)


@given(st.lists(PARTS | ENDPOINTS, max_size=3).map(",".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    """N1: never another error, never a device that could not exist."""
    try:
        specs = parse(text)
    except InvalidSetting:
        return
    assert specs
    for spec in specs:
        if isinstance(spec, FakeSpec | EndpointSpec):
            assert 0 < spec.memory_gb <= 4096
            assert spec.gpu_type.strip() == spec.gpu_type != ""
        if isinstance(spec, EndpointSpec):
            assert spec.url.startswith(("http://", "https://"))
            assert spec.url.isprintable()
        if isinstance(spec, CpuSpec):
            assert spec.count >= 1


@given(
    st.text(st.characters(exclude_characters=":,", exclude_categories=("C", "Z")), min_size=1, max_size=80).filter(
        lambda text: any(c.isalnum() for c in text)
    ),
    st.decimals(min_value="0.01", max_value=4096, places=2),
    st.integers(1, 65535),
)
def test_what_is_written_well_is_read_back(gpu_type: str, memory_gb: object, port: int) -> None:
    """N5: type, memory and address come back as written."""
    (spec,) = parse(f"endpoint:{gpu_type}:{memory_gb}:http://tunnel-1:{port}")
    assert spec == EndpointSpec(gpu_type, float(str(memory_gb)), f"http://tunnel-1:{port}")
