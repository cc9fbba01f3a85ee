"""Whatever is sent to the API, it answers as its OpenAPI document says, never with an error of its own (SPEC A1)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import run
from rest import api

#: Not run: that data which fits the schema is taken (an unknown task fits it), that each `Allow` names its own path's
#: methods alone (`submit` could be a task's id), what a token's absence answers (429 after many times), and that what
#: was deleted is gone (a task that was taken back is told of).
LEFT_OUT = (
    "positive_data_acceptance,unsupported_method,allow_header_conformance,ignored_auth,missing_required_header,"
    "use_after_free"
)
#: These never end.
STREAMS = "events|stream"


@pytest.fixture(scope="module")
def token(empty_redis: object) -> str:
    told = json.loads(run("token", "create", "fuzz", "--role", "admin", "--json").stdout)
    return str(told["token"])


@pytest.fixture(scope="module")
def url(token: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("fuzz")
    with api(folder, {"GPU_MESH_API_MAX_WAIT_S": "0.2"}) as client:
        yield str(client.base_url).rstrip("/"), folder / "api.log"


@pytest.mark.parametrize(
    ("options", "least"),
    [
        pytest.param(("--phases", "examples,coverage"), 500, id="every-field"),
        pytest.param(("-n", "60"), 2000, id="long", marks=pytest.mark.soak),
    ],
)
def test_no_request_breaks_it(
    url: tuple[str, Path], token: str, tmp_path: Path, options: tuple[str, ...], least: int
) -> None:
    address, log = url
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json", "--no-color"),
            *("--checks", "all", "--exclude-checks", LEFT_OUT, "--exclude-path-regex", STREAMS),
            *("-H", f"Authorization: Bearer {token}", "--continue-on-failure", "--seed", "7", *options),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=900,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-6000:]
    cases = re.search(r"(\d+) generated", ran.stdout)
    assert cases is not None
    assert int(cases[1]) >= least, ran.stdout[-2000:]
    assert "incident" not in log.read_text(errors="replace")
