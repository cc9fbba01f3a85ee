"""A worker's threads import nothing while its pool may fork (engines/importing): in a process of its own, whose modules
are not imported yet, with a real server of each kind."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from ollama_stub import OllamaStub
from openai_stub import OpenAIStub

SCRIPT = """
import json, sys, threading
import workers.hooks
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.engines import importing
from gpu_mesh.services.vitals import Vitals
from gpu_mesh.settings import Settings

free = []
class Finder:
    def find_spec(self, name, path=None, target=None):
        if threading.current_thread() is not threading.main_thread() and not importing._lock._is_owned():
            free.append(name)

url = sys.argv[1]
device = Device(name="gpu0", node="n", kind=DeviceKind.FAKE, gpu_type="A40", memory_gb=40.0, engine_url=url)
vitals, taken = Vitals(Settings(), "gpu0@n", device), []
sys.meta_path.insert(0, Finder())
thread = threading.Thread(target=lambda: taken.extend(vitals.take() for _ in range(2)))
thread.start()
thread.join()
print(json.dumps({"reachable": [one["reachable"] for one in taken[1]["engines"]], "free": free}))
"""


@pytest.mark.parametrize("stub", [OllamaStub, OpenAIStub])
def test_a_report_imports_nothing_while_the_pool_may_fork(stub: type[OllamaStub | OpenAIStub], broker: str) -> None:
    with stub() as server:
        ran = subprocess.run(
            [sys.executable, "-c", SCRIPT, server.url], capture_output=True, text=True, timeout=60, check=False
        )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == {"reachable": [True], "free": []}
