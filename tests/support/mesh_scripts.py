"""An operator's scripts folder, as the tests fill it."""

from __future__ import annotations

import json
from pathlib import Path

from processes import runs

__all__ = ["SECRETS", "SPAWN", "alive", "pids_in", "write_scripts"]

#: What a worker may hold in its environment, and no script may see.
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "s3cret-aws",
    "DATABASE_URL": "postgres://u:s3cret-db@h/d",
    "GITHUB_TOKEN": "s3cret-token",
    "HF_TOKEN": "s3cret-hf",
    "HTTPS_PROXY": "http://u:s3cret-proxy@h",
    "LD_PRELOAD": "",
    "SHOP_SITE": "s3cret-not-named",
}

#: Three processes besides the script: a child, one in a session of its own, and one that lost its parent.
SPAWN = """
import json, os, pathlib, signal, subprocess, sys, threading, time
DEAF = "import signal, threading; signal.signal(signal.SIGTERM, signal.SIG_IGN); threading.Event().wait(60)"
SLEEP = [sys.executable, "-c", DEAF]
def spawn(path):
    found = [os.getpid(), subprocess.Popen(SLEEP).pid, subprocess.Popen(SLEEP, start_new_session=True).pid]
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os.setsid()
        orphan = subprocess.Popen(SLEEP, stdin=subprocess.DEVNULL, start_new_session=True)
        os.write(writer, str(orphan.pid).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    found.append(int(os.read(reader, 32)))
    part = pathlib.Path(path + ".part")
    part.write_text(json.dumps(found))
    part.rename(path)
"""

_SCRIPTS = {
    "echo.py": """
import json, os, sys
given = json.load(sys.stdin)
same = json.load(open(os.environ["MESH_ARGS_FILE"])) == given
open_files = sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else []
print("a plain line")
print(json.dumps({"result": {"args": given, "same": same, "env": dict(os.environ), "argv": sys.argv[1:],
    "path": sys.path[0], "open": open_files, "cwd": os.getcwd()}}))
""",
    "say.py": """
import json, sys
for line in json.load(sys.stdin)["lines"]:
    print(line)
""",
    "progress.py": """
import json, pathlib, sys, time
given = json.load(sys.stdin)
print(json.dumps({"progress": {"done": 3, "total": 10}}))
end = time.monotonic() + 60
while pathlib.Path(given["gate"]).exists():
    assert time.monotonic() < end
    time.sleep(0.01)
print(json.dumps({"result": "done"}))
""",
    "fail.py": """
import os, signal, sys
sys.stderr.write("x" * 1_000_000 + "\\n")
sys.stderr.write("cannot open the data\\x1b[2J\\n")
sys.stderr.flush()
how = __import__("json").load(sys.stdin)
if how.get("signal"):
    os.kill(os.getpid(), how["signal"])
sys.exit(how.get("code", 3))
""",
    "flood.py": """
import json, sys
given = json.load(sys.stdin)
for _ in range(given["lines"]):
    print("y" * given["chars"])
if given.get("result"):
    print(json.dumps({"result": "r" * given["result"]}))
else:
    print(json.dumps({"result": "flooded"}))
""",
    "tree.py": SPAWN
    + """
given = json.load(sys.stdin)
if given.get("deaf"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
elif given.get("note"):
    def note(*_):
        pathlib.Path(given["note"]).write_text("saved")
        sys.exit(0)
    signal.signal(signal.SIGTERM, note)
spawn(given["pids"])
if not given.get("ends"):
    threading.Event().wait(60)
print(json.dumps({"result": "left"}))
""",
    "steps.py": SPAWN
    + """
given = json.load(sys.stdin)
folder = pathlib.Path(given["checkpoint_dir"])
state = given["restored"] or {"step": 0, "began": []}
state["began"].append(state["step"])
files = sorted(path.name for path in folder.iterdir())
stopping = []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
def save():
    (folder / f"{state['step']:03}.bin").write_text("weights")
    print(json.dumps({"checkpoint": state}), flush=True)
spawn(given["pids"] + f".{len(state['began'])}")
while state["step"] < given["total"]:
    if state["step"] < given["total"] - 1 or not pathlib.Path(given["gate"]).exists():
        state["step"] += 1
        save()
    if stopping:
        save()
        sys.exit(0)
    time.sleep(0.01)
print(json.dumps({"result": {"began": state["began"], "epochs": given["epochs"], "found": files}}))
""",
    "shell": """#!/bin/sh
echo "$0 has $# arguments"
cat > /dev/null
echo '{"result": "from a shell"}'
""",
    "broken": "no interpreter is named\n",
    "not_executable.sh": "#!/bin/sh\n",
    ".hidden.py": "print('hidden')\n",
}


def write_scripts(folder: Path) -> Path:
    """The folder `scripts` in `folder`, and beside it one that no name may reach."""
    scripts = folder / "scripts"
    scripts.mkdir()
    for name, text in _SCRIPTS.items():
        (scripts / name).write_text(text)
    for name in ("shell", "broken"):
        (scripts / name).chmod(0o755)
    (folder / "outside.py").write_text("print('outside')\n")
    (scripts / "leads_out.py").symlink_to(folder / "outside.py")
    (scripts / "leads_in.py").symlink_to("echo.py")
    (scripts / "circle.py").symlink_to("circle.py")
    (scripts / "gone.py").symlink_to("nowhere.py")
    (scripts / "folder.py").mkdir()
    (scripts / "sub").mkdir()
    (scripts / "sub" / "deep.py").write_text("print('deep')\n")
    return scripts


def pids_in(path: Path) -> list[int]:
    """The processes that `spawn` wrote down; none before it has."""
    return json.loads(path.read_text()) if path.exists() else []


def alive(pids: list[int]) -> list[int]:
    """Those that run still."""
    return [pid for pid in pids if runs(pid)]
