"""A process that forks while a thread imports (DESIGN §6: the pool forks; threads of its parent ask engines)."""

from __future__ import annotations

import os
import threading

from gpu_mesh.engines.importing import unforked


def test_a_fork_waits_for_an_import_in_another_thread():
    """Else the child would wait for ever for the module's lock."""
    imports, done, forked = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        with unforked():
            imports.set()
            done.wait(10)

    def fork() -> None:
        if (pid := os.fork()) == 0:
            with unforked():  # the child may import too
                os._exit(7)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        forked.set()

    codes: list[int] = []
    threading.Thread(target=work, daemon=True).start()
    assert imports.wait(10)
    forker = threading.Thread(target=fork, daemon=True)
    forker.start()
    assert not forked.wait(0.1)
    done.set()
    assert forked.wait(10)
    assert codes == [7]
