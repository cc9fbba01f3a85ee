"""docker-compose.yml without an engine: the compose specification's schema, and what must hold beyond it (SPEC N2)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from compose_file import COMPOSE, ROOT, VariableMissing, interpolate, raw, seconds, services, texts
from dotenv import dotenv_values

from gpu_mesh.settings import Settings, env_name, names_of
from workers.node import STOP_GRACE_S

EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
GIVEN = {"NODE_NAME": "box", "REDIS_PASSWORD": "sesame"}
KNOWN = {env_name(field) for field in Settings.model_fields}
SECRET = re.compile(r"PASS|SECRET|TOKEN|AUTH|_KEY$")


def validate(file: Path) -> subprocess.CompletedProcess[str]:
    """Against the schema that comes with the validator: nothing is fetched."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_schema_accepts_it() -> None:
    ran = validate(COMPOSE)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_schema_refuses_a_misspelling(tmp_path: Path) -> None:
    """So that the test above says something."""
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE.read_text(encoding="utf-8").replace("healthcheck:", "health_check:", 1))
    ran = validate(wrong)
    assert ran.returncode != 0
    assert "health_check" in ran.stdout


def test_services_and_profiles() -> None:
    """SPEC N2: `coordinator` and `gpu`; a second machine runs only the latter."""
    profiles = {name: service.profiles for name, service in services(GIVEN).items()}
    lead = ["coordinator"]
    assert profiles == {"redis": lead, "control": lead, "beat": lead, "flower": lead, "worker": ["gpu"]}


@pytest.mark.parametrize("name", services(GIVEN))
def test_a_service_is_looked_after(name: str) -> None:
    """A health check, a restart policy, an init that forwards signals, and a command without a shell in between."""
    service = services(GIVEN)[name]
    assert service.health_command
    assert service.health_timeout_s < seconds(service.data["healthcheck"]["interval"])
    assert service.data["restart"] == "unless-stopped"
    assert service.data["init"] is True
    assert service.command[0] != "sh" or service.command[2].startswith("exec ")


def test_jobs_are_handed_back_before_docker_kills() -> None:
    for service in services(GIVEN).values():
        if service.name != "redis":
            grace = seconds(service.data["stop_grace_period"])
            assert grace >= Settings.model_fields["stop_timeout_s"].default + 2 * STOP_GRACE_S


def test_a_job_gets_the_gpus() -> None:
    reserved = services(GIVEN)["worker"].data["deploy"]["resources"]["reservations"]["devices"]
    assert reserved == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    assert not [name for name, service in services(GIVEN).items() if "deploy" in service.data and name != "worker"]


def test_a_second_machine_needs_no_redis_of_its_own() -> None:
    for name, service in services(GIVEN).items():
        if name != "redis":
            assert service.data["depends_on"]["redis"] == {"condition": "service_healthy", "required": False}
    there = services({**GIVEN, "REDIS_HOST": "192.168.1.10"})["worker"].environment
    assert there["GPU_MESH_BROKER_URL"] == "redis://:sesame@192.168.1.10:6379/0"


def test_environment_as_ordered() -> None:
    """SPEC N2, with the names that it orders."""
    roles = {name: service.environment.get("NODE_ROLE") for name, service in services(GIVEN).items()}
    assert roles == {"redis": None, "control": "lead", "beat": "lead", "flower": "lead", "worker": "compute"}
    worker = services({**GIVEN, "MESH_COORDINATOR_URL": "http://lead:8001"})["worker"].environment
    assert worker["NODE_NAME"] == "box"
    assert worker["GPU_ENABLED"] == "true"
    assert worker["MESH_COORDINATOR_URL"] == "http://lead:8001"
    assert worker["GPU_MESH_BROKER_URL"] == "redis://:sesame@redis:6379/0"
    assert worker["OLLAMA_HOST"] == "http://host.docker.internal:11434"
    assert services(GIVEN)["worker"].data["extra_hosts"] == ["host.docker.internal:host-gateway"]


def test_nothing_is_published_beyond_loopback() -> None:
    hosts = [host for service in services(GIVEN).values() for host in service.hosts_of_ports]
    assert hosts == ["127.0.0.1"] * 2


@pytest.mark.parametrize("name", GIVEN)
def test_what_must_be_set(name: str) -> None:
    """Without a password, or without a name, nothing starts, and it is said what to do."""
    with pytest.raises(VariableMissing, match=rf"^{name}: set {name} in .env"):
        services({**GIVEN, name: ""})


def test_no_secret_in_clear() -> None:
    """What is secret comes from a variable that has no default, within an address too."""
    for service in raw()["services"].values():
        for name, value in service["environment"].items():
            if SECRET.search(name):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), name
        for text in texts(service):
            assert not re.search(r"://[^/@$]*:[^$@/]+@", text), text
            assert {sign for _, sign in re.findall(r"\$\{(\w*(?:PASS|SECRET|TOKEN)\w*)(..)", text)} <= {":?"}, text
    assert not re.search(r"requirepass (?!\$\$REDISCLI_AUTH$)", COMPOSE.read_text(encoding="utf-8"), re.MULTILINE)


def test_redis_is_as_the_mesh_needs_it() -> None:
    """Nothing is lost at a restart, and a full Redis refuses instead of forgetting tasks."""
    redis = services(GIVEN)["redis"]
    assert redis.data["image"] == "redis:7"
    lines = redis.command[2].splitlines()
    assert {"appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"} <= set(lines)
    assert "requirepass $REDISCLI_AUTH" in lines
    assert redis.targets == ["/data"]


def test_named_volumes_are_declared() -> None:
    used = {volume.split(":")[0] for service in services(GIVEN).values() for volume in service.data["volumes"]}
    assert {source for source in used if not source.startswith((".", "/"))} == set(raw()["volumes"])


def test_settings_named_exist() -> None:
    for text in (COMPOSE.read_text(encoding="utf-8"), EXAMPLE):
        assert set(re.findall(r"\bGPU_MESH_[A-Z_]+\b", text)) <= KNOWN


def test_the_example_of_the_environment(tmp_path: Path) -> None:
    """Every name in .env.example, also a commented one, is a setting or fills in a variable of docker-compose.yml."""
    every = tmp_path / "env"
    every.write_text(re.sub(r"^#(?=\w+=)", "", EXAMPLE, flags=re.MULTILINE))
    names = set(dotenv_values(every))
    variables = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text(encoding="utf-8")))
    plain = {name for field in Settings.model_fields for name in names_of(field)}
    assert names <= variables | plain
    assert {name for name, value in dotenv_values(ROOT / ".env.example").items() if not value} == set(GIVEN)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$$A ${A} ${B}", "$A 1 "),
        ("${A:-x}${B:-x}", "1x"),
        ("${B:-a${A:?no}c}!", "a1c!"),
        ("${A:-a${B:?no}c}!", "1!"),
    ],
)
def test_variables_are_filled_in_as_compose_does(text: str, expected: str) -> None:
    """The resolver that these tests, and those that run the services, rest on."""
    assert interpolate(text, {"A": "1"}) == expected
