"""One real Redis for the whole session, and the helpers every level of tests shares.

The environment is set before `gpu_mesh` is imported anywhere: the app reads its settings once per process.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings as examples

if TYPE_CHECKING:
    from gpu_mesh.store.embedded import Address

# A busy machine is no fault of the code: no test is timed.
examples.register_profile("untimed", deadline=None)
examples.load_profile("untimed")

SUPPORT = Path(__file__).parent / "support"
STATE = Path(tempfile.mkdtemp(prefix="gpu-mesh-tests-"))
atexit.register(shutil.rmtree, STATE, ignore_errors=True)

sys.path.insert(0, str(SUPPORT))
for name in [name for name in os.environ if name.startswith("GPU_MESH_")]:
    del os.environ[name]
# The processes that tests start, hundreds of them, compile our modules once and not each anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.update(
    GPU_MESH_STATE_DIR=str(STATE),
    GPU_MESH_LOCK_DIR=str(STATE / "locks"),
    GPU_MESH_INCLUDE="sample_tasks",
    # No test meets an Ollama of the machine by accident.
    GPU_MESH_ENGINES="local",
    # Nor depends on the hour of the day.
    GPU_MESH_PEAK_HOURS="none",
    # Nor two tests for its port.
    GPU_MESH_API_ENABLED="false",
    NODE_NAME="test-node",
    PYTHONPATH=os.pathsep.join(filter(None, (str(SUPPORT), os.environ.get("PYTHONPATH")))),
)


def pytest_collection_finish() -> None:
    """A `.env` in the developer's folder is none of the tests' business."""
    os.chdir(STATE)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Address]:
    """The session's Redis; the app of this process is configured for it."""
    from gpu_mesh.store.embedded import EmbeddedRedis

    with EmbeddedRedis(STATE) as server:
        server.prepare()
        yield server.start()
        # Results that tests left in reference cycles unsubscribe when collected: while there is a Redis. A socket left
        # in one is told of in the tests, not to whichever test was last.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.fixture(scope="module")
def empty_redis(redis_server: Address) -> Address:
    """It, without what the tests of another file left: a queue that they closed, say."""
    _flush()
    return redis_server


@pytest.fixture
def broker(redis_server: Address) -> str:
    """Its address, with an empty database."""
    _flush()
    return redis_server.url


def _flush() -> None:
    from gpu_mesh.settings import settings
    from gpu_mesh.store.client import connect

    with connect(settings()) as client:
        client.flushdb()


@pytest.fixture
def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
