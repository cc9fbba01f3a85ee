"""A process that logs: `log_writer.py FILE NAME COUNT PART_BYTES`; for what is called `fork…` a child logs as well."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from gpu_mesh.services.logfile import LogFile

#: Makes it about as long as a line of the mesh's.
PAD = "x" * 200


def main() -> None:
    path, name, count, part_bytes = sys.argv[1:]
    file = LogFile(Path(path), days=7, max_bytes=1e9, part_bytes=float(part_bytes))
    write(file, name, 1, first=-1)  # the file is open when it forks
    child = os.fork() if name.startswith("fork") else None
    write(file, f"child-{name}" if child == 0 else name, int(count))
    if child == 0:
        os._exit(0)
    if child is not None:
        os.waitpid(child, 0)


def write(file: LogFile, name: str, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        file.write(f'{{"time":"", "process": "{name}", "number": {number}, "message": "{PAD}"}}\n'.encode())


if __name__ == "__main__":
    main()
