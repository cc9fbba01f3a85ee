"""Settings: where they come from, what is refused and in which words, what is shown (SPEC N1, N2, DESIGN §4)."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gpu_mesh.domain.addresses import BROKER_SCHEMES
from gpu_mesh.domain.queues import CONTROL_QUEUE, GPU_QUEUES
from gpu_mesh.errors import InvalidSetting
from gpu_mesh.services.settings_table import rows
from gpu_mesh.settings import PREFIX, Settings, env_name, load, mask

PLAIN = {
    "NODE_NAME": "GPU_MESH_NODE_NAME",
    "NODE_ROLE": "GPU_MESH_NODE_ROLE",
    "GPU_ENABLED": "GPU_MESH_GPU_ENABLED",
    "MESH_COORDINATOR_URL": "GPU_MESH_COORDINATOR_URL",
}


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """An environment without any of our names."""
    for field in Settings.model_fields:
        monkeypatch.delenv(env_name(field), raising=False)
    for name in PLAIN:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def read(monkeypatch, tmp_path):
    """Settings from these variables and this `.env`."""

    def read(file: str = "", **variables: str) -> Settings:
        (tmp_path / ".env").write_text(file)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return load(tmp_path / ".env")

    return read


@pytest.fixture
def refused(read):
    """What is refused of these variables and this `.env`."""

    def refused(file: str = "", **variables: str) -> InvalidSetting:
        with pytest.raises(InvalidSetting) as caught:
            read(file, **variables)
        return caught.value

    return refused


@pytest.fixture
def shown(read, tmp_path):
    """Rows, by name, of the settings of these variables and this `.env`."""

    def shown(file: str = "", **variables: str):
        return {row.name: row for row in rows(read(file, **variables), tmp_path / ".env")}

    return shown


def test_nothing_need_be_set(read):
    """N1: zero configuration; a node name that is one, whatever the machine is called."""
    found = read()
    assert found.broker_url is None
    assert found.devices == "auto"
    assert found.node_role == "compute"
    assert read(NODE_NAME=found.node_name).node_name == found.node_name


def test_they_are_frozen(read):
    """STYLE: read once, never changed."""
    found = read()
    with pytest.raises(ValidationError, match="frozen"):
        found.embed_chunk = 3


# Where from


def test_the_environment_is_read(read):
    """N2: each type, also in small letters."""
    found = read(
        GPU_MESH_LABELS="trust=owned, site=office",
        GPU_MESH_GPU_COSTS="RTX 4090=0.4,A40=1",
        GPU_MESH_CPU_QUEUES="mail, reports,mail",
        GPU_MESH_INCLUDE="shop.tasks,blog",
        gpu_mesh_memory_margin_gb="2.5",
        GPU_MESH_STATE_DIR="/var/lib/mesh",
    )
    assert found.labels == {"trust": "owned", "site": "office"}
    assert found.gpu_costs == {"RTX 4090": 0.4, "A40": 1.0}
    assert found.cpu_queues == ("mail", "reports")
    assert found.include == ("shop.tasks", "blog")
    assert found.memory_margin_gb == 2.5
    assert found.state_dir == Path("/var/lib/mesh")


def test_the_file_is_read_and_the_environment_wins(read):
    """N2: `.env` below the environment."""
    file = "GPU_MESH_EMBED_CHUNK=7\nGPU_MESH_DEVICES=cpu:2\n# a comment\nSHOP_SECRET=x\n"
    found = read(file, GPU_MESH_DEVICES="cpu")
    assert (found.embed_chunk, found.devices) == (7, "cpu")


def test_no_file_is_no_error(tmp_path):
    """N1: nor is no place for one."""
    assert load(tmp_path / "absent").devices == load(None).devices == "auto"


@pytest.mark.parametrize(
    ("plain", "value", "field", "read_as"),
    [
        ("NODE_NAME", "office-1", "node_name", "office-1"),
        ("NODE_ROLE", "lead", "node_role", "lead"),
        ("GPU_ENABLED", "false", "gpu_enabled", False),
        ("MESH_COORDINATOR_URL", "http://lead:8001", "coordinator_url", "http://lead:8001"),
    ],
)
def test_the_plain_names(read, shown, plain: str, value: str, field: str, read_as: object):
    """N2: as ordered, from the environment and from `.env`."""
    assert getattr(read(f"{plain}={value}\n"), field) == read_as
    assert shown(f"{plain}={value}\n")[PLAIN[plain]].source == f".env: {plain}"
    assert getattr(read(**{plain: value}), field) == read_as
    assert shown(**{plain: value})[PLAIN[plain]].source == f"environment: {plain}"


def test_our_own_names_win_over_the_plain_ones(read, shown):
    """N2: within one place; between two, the environment wins, by whichever name."""
    assert read(NODE_NAME="plain", GPU_MESH_NODE_NAME="ours").node_name == "ours"
    assert shown()["GPU_MESH_NODE_NAME"].source == "environment: GPU_MESH_NODE_NAME"


def test_the_environments_plain_name_wins_over_the_files_own(read, shown):
    """N2: as `gpu-mesh config` says."""
    file = "GPU_MESH_NODE_NAME=ours\nNODE_NAME=plain\n"
    assert read(file).node_name == "ours"
    assert read(file, NODE_NAME="env").node_name == "env"
    assert shown(file)["GPU_MESH_NODE_NAME"].source == "environment: NODE_NAME"


EMPTY = ["BROKER_URL", "RESULT_URL", "COORDINATOR_URL", "TLS_CA_FILE", "TLS_CERT_FILE", "TLS_KEY_FILE"]


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_variable_is_none(read, name: str, value: str):
    """N2: compose hands over `${GPU_MESH_BROKER_URL:-}`."""
    assert getattr(read(**{PREFIX + name: value}), name.lower()) is None


@pytest.mark.parametrize("name", [*(env_name(field) for field in Settings.model_fields), *PLAIN])
def test_an_empty_variable_is_an_unset_one(read, shown, name: str):
    """N2: for every setting and plain name: the default holds, and is named as the source."""
    default = read()
    assert read(f"{name}=\n", **{name: ""}) == default
    assert shown(f"{name}=\n")[PLAIN.get(name, name)].source == "default"


def test_an_empty_variable_hides_no_other(read, shown, refused):
    """N2: neither the plain name beside it nor the file; a wrong value beside it is named."""
    assert read(GPU_MESH_NODE_NAME="", NODE_NAME="plain").node_name == "plain"
    assert read("GPU_MESH_EMBED_CHUNK=7\n", GPU_MESH_EMBED_CHUNK="").embed_chunk == 7
    assert shown("GPU_MESH_EMBED_CHUNK=7\n")["GPU_MESH_EMBED_CHUNK"].source == ".env: GPU_MESH_EMBED_CHUNK"
    assert refused(NODE_NAME="a b").field == "NODE_NAME"


@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0", "::", "localhost", "192.0.2.7"])
def test_what_redis_may_listen_on(read, listen: str):
    """N1: an address of this machine, as `--listen` takes it."""
    assert read(GPU_MESH_LISTEN=listen).listen == listen


def test_a_file_that_may_not_be_seen_is_none():
    """N1: in a folder this user may not enter `is_file` raises; so it does for a name too long."""
    assert load("x" * 5000).devices == "auto"


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    """STYLE 18: one line, not a traceback."""
    (tmp_path / ".env").write_bytes(b"GPU_MESH_LABELS=\xff\xfe\n")
    with pytest.raises(InvalidSetting, match=r"UTF-8") as caught:
        load(tmp_path / ".env")
    assert caught.value.value == str(tmp_path / ".env")


# What is refused


def test_an_unknown_name_is_refused(refused):
    """STYLE 18: a typing error must not pass in silence; the name, the value, what was meant."""
    error = refused(GPU_MESH_BROKR_URL="redis://:s3cret@h")
    assert (error.field, error.value) == ("GPU_MESH_BROKR_URL", "redis://:***@h")
    assert str(error) == ("GPU_MESH_BROKR_URL='redis://:***@h': no such setting; did you mean GPU_MESH_BROKER_URL?")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("GPU_MESH_DEVICE", "GPU_MESH_DEVICES"),
        ("gpu_mesh_node_nmae", "GPU_MESH_NODE_NAME"),
        ("GPU_MESH_MESH_COORDINATOR_URL", "GPU_MESH_COORDINATOR_URL"),
    ],
)
def test_what_was_meant(refused, name: str, meant: str):
    """STYLE 18: from the environment and from `.env`, in either case of letters."""
    for error in (refused(f"{name}=x\n"), refused(**{name: "x"})):
        assert error.field == name
        assert error.remedy == f"no such setting; did you mean {meant}?"


@pytest.mark.parametrize("name", ["GPU_MESH_X", "GPU_MESH_", "GPU_MESH_QUUX", "GPU_MESH_COLOUR"])
def test_no_guess_where_nothing_is_near(refused, name: str):
    """STYLE 18: the prefix alone makes no two names alike."""
    assert refused(**{name: "1"}).remedy == "no such setting; `gpu-mesh config` lists the names there are"


@pytest.mark.parametrize("name", ["GPU_MESH_REDIS_PASSWORD", "GPU_MESH_API_TOKEN", "GPU_MESH_SECRET"])
def test_an_unknown_secret_is_not_repeated(refused, name: str):
    """STYLE 18: errors end up in logs."""
    assert "hunter2" not in str(refused(**{name: "hunter2"}))


def test_other_programs_names_are_not_ours(read):
    """N2: GPU_MESHES, or an application's own in `.env`."""
    assert read("SHOP_URL=x\nGPU_COUNT=2\n", GPU_MESHES="1").devices == "auto"


HOST = "host and a port from 1 to 65535"
HTTP = "http:// or https:// address with a host"
REFUSED = [
    ("PEAK_HOURS", "25:00-26:00", "00:00 to 23:59"),
    ("PEAK_HOURS", "09:00-09:00", "a start that is not the end"),
    ("PEAK_HOURS", "mun 09:00-18:00", "days as mon"),
    ("PEAK_HOURS", "office hours", "HH:MM-HH:MM"),
    ("TIMEZONE", "Mars/Phobos", "Europe/Berlin"),
    ("TIMEZONE", "../../etc/passwd", "Europe/Berlin"),
    *((name, "localhost:6379", "redis://, rediss://, redis+socket://, sentinel://") for name in EMPTY[:2]),
    *((name, "amqp://h", "begins with redis://") for name in EMPTY[:2]),
    ("BROKER_URL", "redis:/h", "begins with redis://"),
    ("BROKER_URL", "REDIS://h", "begins with redis://"),
    ("BROKER_URL", "redis://h;", "begins with redis://"),
    ("BROKER_URL", "redis://h;amqp://h", "begins with redis://"),
    ("BROKER_URL", "redis://", HOST),
    ("BROKER_URL", "redis://:6379", HOST),
    ("BROKER_URL", "redis://h:99999", HOST),
    ("BROKER_URL", "redis://h:0", HOST),
    ("BROKER_URL", "redis://h:port", HOST),
    ("BROKER_URL", "redis://[::1", HOST),
    ("BROKER_URL", "redis://h;redis://g:99999", HOST),
    ("BROKER_URL", "redis://h/tasks", "number of a database"),
    ("BROKER_URL", "redis+socket://", "redis+socket:///run/redis.sock"),
    ("BROKER_URL", "rediss://h", "GPU_MESH_TLS_CA_FILE"),
    ("BROKER_URL", "redis://h;rediss://h", "GPU_MESH_TLS_CA_FILE"),
    ("RESULT_URL", "rediss://h:6380/1?timeout=3", "GPU_MESH_TLS_CA_FILE"),
    ("COORDINATOR_URL", "lead:8001", HTTP),
    ("COORDINATOR_URL", "http://", HTTP),
    ("COORDINATOR_URL", "http://lead:99999", HTTP),
    ("COORDINATOR_URL", "http://[::1", HTTP),
    ("MEMORY_MARGIN_GB", "-1", "greater than or equal to 0 (GB)"),
    ("MEMORY_MARGIN_GB", "nan", "finite number (GB)"),
    ("MEMORY_MARGIN_GB", "inf", "finite number (GB)"),
    ("MEMORY_MARGIN_GB", "1 GB", "number (GB)"),
    ("MEMORY_MARGIN_GB", "24576", "less than or equal to 1000 (GB)"),
    ("DEVICES", "gpu:3", "Allowed: auto, or a comma-separated list of nvidia"),
    *(("CPU_QUEUES", name, "other than the mesh's own") for name in (*GPU_QUEUES, CONTROL_QUEUE)),
    ("CPU_QUEUES", "mail,ai batch", "letters, digits"),
    ("CPU_QUEUES", "mail:3", "letters, digits"),
    ("NODE_NAME", "a b", "letters, digits, '.', '_' and '-', at most 63"),
    ("NODE_NAME", "a@b", "letters, digits"),
    ("NODE_NAME", "x" * 64, "at most 63"),
    ("NODE_ROLE", "boss", "'lead' or 'compute'"),
    ("GPU_ENABLED", "perhaps", "boolean"),
    ("LABELS", "owned", "name=value"),
    ("LABELS", "trust=", "name=value"),
    ("CPU_COUNTS", "maybe", "'auto', 'yes' or 'no'"),
    ("CPU_CONCURRENCY", "0", "greater than or equal to 1"),
    ("EMBED_CHUNK", "1.5", "integer (texts)"),
    ("NODE_TTL_S", "5", "longer than GPU_MESH_NODE_REFRESH_S (5 s)"),
    ("NODE_TTL_S", "1", "longer than GPU_MESH_NODE_REFRESH_S (5 s)"),
    ("LOG_LEVEL", "LOUD", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
    ("MAX_PAYLOAD_MB", "512", "less than or equal to 400 (MB)"),
    ("SUBMIT_TIMEOUT_S", "0", "greater than 0 (s)"),
    ("STATE_DIR", " ", "a folder"),
    ("LISTEN", "lead.example", "0.0.0.0 for all of them, or localhost"),
    ("LISTEN", "1.2.3", "an IP address"),
    ("INCLUDE", "shop tasks", "shop.tasks"),
    ("INCLUDE", "shop/tasks.py", "shop.tasks"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), REFUSED)
def test_a_wrong_value_is_refused(refused, name: str, value: str, allowed: str):
    """STYLE 18: the variable, the value, what is allowed."""
    error = refused(**{PREFIX + name: value})
    assert error.field == PREFIX + name
    assert error.value == value
    assert allowed in error.remedy
    assert "pydantic" not in str(error).lower()


@pytest.mark.parametrize(("name", "value", "allowed"), REFUSED[::8])
def test_a_wrong_value_in_the_file_is_refused(refused, name: str, value: str, allowed: str):
    """STYLE 18: in the same words."""
    error = refused(f'{PREFIX}{name}="{value}"\n')
    assert (error.field, error.value) == (PREFIX + name, value)
    assert allowed in error.remedy


NUMBERS = [env_name(name) for name, info in Settings.model_fields.items() if info.annotation in (float, int)]


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_may_be_absurd(refused, name: str):
    """STYLE 17: every one has a lower and an upper bound, or is a whole number; none is infinite or NaN."""
    for value in ("nan", "inf", "-1", "many"):
        assert refused(**{name: value}).field == name
    assert len(NUMBERS) > 5


@pytest.mark.parametrize("plain", ["NODE_NAME", "NODE_ROLE", "GPU_ENABLED", "MESH_COORDINATOR_URL"])
def test_a_wrong_plain_name_is_named_as_typed(refused, plain: str):
    """N2: who wrote NODE_NAME knows no GPU_MESH_NODE_NAME."""
    assert refused(f'{plain}="x y"\n').field == plain
    assert refused(**{plain: "x y"}).field == plain


def test_a_wrong_pair_is_named(refused):
    """STYLE 18: one of several."""
    error = refused(GPU_MESH_GPU_COSTS="RTX 4090=0.4,A40=-1")
    assert (error.field, error.value) == ("GPU_MESH_GPU_COSTS", "A40=-1")
    assert refused(GPU_MESH_GPU_COSTS="A40=nan").value == "A40=nan"


@pytest.mark.parametrize(
    "address",
    [
        "redis://h",
        "redis://h:6379/3",
        "redis://:p%40ss%2F@h:6379/0",
        "redis://user:pw@[::1]:6379/0",
        "redis+socket:///run/redis.sock",
        "redis+socket:///run/redis.sock?virtual_host=2",
        "sentinel://a:26379;sentinel://b:26379/1",
        "redis://a:6379;redis://b:6379",
        "rediss://h?ssl_cert_reqs=required",
        "rediss://h:6380/0?ssl_cert_reqs=CERT_NONE",
    ],
)
def test_addresses_that_are_right(read, address: str):
    """DESIGN §4: every scheme of stock Celery, several for failover; space around them is dropped."""
    assert read(GPU_MESH_BROKER_URL=f" {address} ").broker_url == address
    assert read(GPU_MESH_RESULT_URL=address.replace(";", " ; ")).result_url == address
    assert address.partition("://")[0] in BROKER_SCHEMES


def test_tls_with_an_authority(read):
    """DESIGN §4: `rediss://` needs certificate settings; ours will do."""
    found = read(GPU_MESH_BROKER_URL="rediss://h", GPU_MESH_TLS_CA_FILE="/etc/ca.pem")
    assert found.tls_ca_file == Path("/etc/ca.pem")


def test_no_cpu_queue_at_all(read):
    """Q6: an operator may want none."""
    assert read(GPU_MESH_CPU_QUEUES="none").cpu_queues == ()


# What is shown

PASSWORDS = ["s3cret", "p@ss", "p%40ss", "a/b", "a:b", "a;b", "a b", "a#b", "a?b", "://", "x://y", "@", "ä€", "p&q=r"]


@pytest.mark.parametrize("password", PASSWORDS)
def test_passwords_are_hidden(password: str):
    """STYLE 18: however odd, wherever in a list of addresses; the rest stays readable."""
    for scheme, user in product([*BROKER_SCHEMES, "http", "https"], ["", "me"]):
        one = f"{scheme}://{user}:{password}@host:6379/0"
        hidden = f"{scheme}://{user}:***@host:6379/0"
        assert mask(one) == hidden
        assert mask(f"{one};{one}") == f"{hidden};{hidden}"
        assert mask(f"at {one} and {scheme}://h") == f"at {hidden} and {scheme}://h"


@hypothesis_settings(deadline=None, max_examples=30)
@given(st.text("ab@:/;? #%&=*", min_size=1, max_size=6), st.booleans())
@example("x@redis://y", False)
def test_no_password_leaks(noise: str, is_quoted: bool):
    """STYLE 18: raw or percent-encoded."""
    password = quote(f"Q{noise}Q", safe="") if is_quoted else f"Q{noise}Q"
    urls = [f"redis://:{password}@host", f"redis://u:{password}@host:1/0"]
    if ":" not in password:  # else it begins with a user
        urls.append(f"redis://{password}@host")
    for url in urls:
        assert "Q" not in mask(f"sentinel://one;{url};redis://:x@two")


@pytest.mark.parametrize(
    ("url", "hidden"),
    [
        ("redis://h?password=s3cret&db=1", "redis://h?password=***&db=1"),
        ("redis://h?db=1&PASSWORD=s3@cret", "redis://h?db=1&PASSWORD=***"),
        ("rediss://h?ssl_keyfile_password=s3cret", "rediss://h?ssl_keyfile_password=***"),
        ("redis+socket:///run/r.sock?password=s3cret", "redis+socket:///run/r.sock?password=***"),
        ("redis://s3cret@h", "redis://***@h"),
        ("redis+socket://:s3cret@/run/r.sock", "redis+socket://:***@/run/r.sock"),
    ],
)
def test_secrets_elsewhere_in_an_address(url: str, hidden: str):
    """STYLE 18: redis-py reads `?password=`; a lone user is taken for a password in the wrong place."""
    assert mask(url) == hidden


@pytest.mark.parametrize("text", ["", "auto", "me@example.com", "redis://h:6379/0", "redis://a;redis://b:1/2", "a:b"])
def test_what_holds_no_password_stays(text: str):
    """STYLE 18: as it was."""
    assert mask(text) == text


def test_a_password_in_a_refused_value_is_masked(refused):
    """STYLE 18: errors end up in logs."""
    for name in ("GPU_MESH_BROKER_URL", "GPU_MESH_RESULT_URL"):
        for url in ("redis://:hunter2@h:99999", "amqp://u:hunter2@h", "redis://:hun/ter2@h", "rediss://:hunter2@h"):
            error = refused(**{name: url})
            assert "ter2" not in str(error)
            assert "ter2" not in repr(error.args)


def test_rows_give_value_source_and_unit(shown):
    """A5: every setting once, in words an operator can type back."""
    found = shown("GPU_MESH_EMBED_CHUNK=64\n", GPU_MESH_MEMORY_MARGIN_GB="3", GPU_MESH_LABELS="trust=owned,site=a")
    assert list(found) == [env_name(field) for field in Settings.model_fields]
    chunk, margin, labels = (found[PREFIX + name] for name in ("EMBED_CHUNK", "MEMORY_MARGIN_GB", "LABELS"))
    assert (chunk.value, chunk.source, chunk.unit) == ("64", ".env: GPU_MESH_EMBED_CHUNK", "texts")
    assert (margin.value, margin.source, margin.unit) == ("3", "environment: GPU_MESH_MEMORY_MARGIN_GB", "GB")
    assert (labels.value, labels.default) == ("trust=owned,site=a", "")
    assert (found["GPU_MESH_DEVICES"].source, found["GPU_MESH_GPU_ENABLED"].value) == ("default", "true")
    assert all(row.description for row in found.values())


def test_every_figure_has_a_unit_in_its_row(shown):
    """STYLE 17: times in s, sizes in GB or MB."""
    for name, row in shown().items():
        for ending, unit in (("_S", "s"), ("_GB", "GB"), ("_MB", "MB")):
            assert not name.endswith(ending) or row.unit == unit


def test_what_rows_show_can_be_typed_back(shown, read):
    """A5: values as `gpu-mesh config` shows them are read as the same."""
    first = {name: row.value for name, row in shown(GPU_MESH_GPU_COSTS="A40=0.4", NODE_ROLE="lead").items()}
    again = shown(**{name: value for name, value in first.items() if value})
    assert {name: row.value for name, row in again.items()} == first


def test_secrets_are_masked_where_settings_are_shown(shown, read):
    """A5: in `gpu-mesh config`, and in whatever prints the object."""
    secrets = {
        "GPU_MESH_BROKER_URL": "redis://:hunter2@a;redis://me:hun%40ter2@b",
        "GPU_MESH_RESULT_URL": "redis://h?password=hunter2",
        "GPU_MESH_COORDINATOR_URL": "https://me:hunter2@lead",
    }
    found = shown(**secrets)
    assert found["GPU_MESH_BROKER_URL"].value == "redis://:***@a;redis://me:***@b"
    assert not any("ter2" in row.value for row in found.values())
    assert "ter2" not in repr(read(**secrets))
    assert "ter2" not in str(read(**secrets))


def test_a_name_that_is_given_twice_is_refused(refused):
    """N1: which of the two was meant nobody can tell."""
    said = str(refused(GPU_MESH_WATCH_URLS="a=http://x:1, b=http://y:1,a=http://z:1"))
    assert "each name once; a is there twice" in said


def test_a_log_file_that_is_a_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else that machine would have no log, and only a line on its terminal would say so."""
    (tmp_path / "log").mkdir()
    monkeypatch.setenv("GPU_MESH_LOG_FILE", "log")
    monkeypatch.setenv("GPU_MESH_STATE_DIR", str(tmp_path))
    with pytest.raises(InvalidSetting, match=r"GPU_MESH_LOG_FILE=.*log.*a folder is there"):
        load(None)
