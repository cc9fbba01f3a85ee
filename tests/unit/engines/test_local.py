"""The engine in this process: loading, threads, forks, quiet, no network."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from gpu_mesh.engines import get_engine
from gpu_mesh.engines.local import MODELS, TOKENS_AT_ONCE, LocalEngine
from gpu_mesh.errors import EngineUnavailable, InvalidValue

ROOT = Path(__file__).parents[3]

#: Seconds after which a process that a test started has failed.
DEADLINE_S = 60

#: A package whose load waits in the process that imported it, but not in a child of it.
SLOW_WORDS = """
import os, threading, types
import numpy as np

parent, loading, go = os.getpid(), threading.Event(), threading.Event()
tokenizer = types.SimpleNamespace(encode=lambda text, **_: types.SimpleNamespace(ids=[0]))

class WordLlama:
    @staticmethod
    def load(**options):
        if os.getpid() == parent:
            loading.set()
            go.wait()
        return types.SimpleNamespace(tokenizer=tokenizer, embedding=np.ones((1, 256), np.float32))
"""

#: A package that counts its loads.
COUNTED_WORDS = """
import wordllama
loads = []

class WordLlama:
    @staticmethod
    def load(**options):
        loads.append(options)
        return wordllama.WordLlama.load(**options)
"""


def run(code: str, *path: Path) -> str:
    """Run Python code in a process of its own, warnings as errors; its standard output. It must not write errors."""
    env = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    env["PYTHONPATH"] = os.pathsep.join(map(str, [ROOT, *path]))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env=env,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes a pretended package of that name and body; it finds wordllama's tokenizer in its folder."""
    spec = find_spec("wordllama")
    assert spec is not None
    assert spec.origin is not None
    tokenizers = Path(spec.origin).parent / "tokenizers"
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, body: str) -> None:
        sys.modules.pop(name, None)
        folder = tmp_path / name
        if not folder.exists():
            folder.mkdir()
            (folder / "tokenizers").symlink_to(tokenizers)
        (folder / "__init__.py").write_text(body)
        # The finder knows a folder by its time of change, too coarse for files written just now.
        importlib.invalidate_caches()

    return write


def test_importing_engines_loads_neither_numpy_nor_wordllama() -> None:
    out = run(
        """
        import sys
        from gpu_mesh.engines import get_engine, local, search, vectors
        get_engine().check()
        print(sorted({"numpy", "wordllama", "tokenizers"} & set(sys.modules)))
        """
    )
    assert out.strip() == "[]"


def test_it_is_quiet_and_needs_no_network() -> None:
    """wordllama calls basicConfig(level=INFO) when imported, which would switch on everybody's logs."""
    out = run(
        """
        import logging, sys
        from gpu_mesh.engines import get_engine

        def refuse(event, args):
            if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
                raise AssertionError(event)

        sys.addaudithook(refuse)
        root = logging.getLogger()
        print(get_engine().embed(["a"]).vectors.shape, root.handlers, root.level == logging.WARNING)
        """
    )
    assert out.strip() == "(1, 256) [] True"


def test_a_forked_child_embeds_without_warnings() -> None:
    """Celery's pool forks; the tokenizer would warn in children forked after its first parallel use."""
    out = run(
        """
        import os
        from gpu_mesh.engines import get_engine
        engine = get_engine()
        before = engine.embed(["a"] * 200).vectors
        engine._words.tokens.__closure__[0].cell_contents.encode_batch(["a b"] * 200)
        child = os.fork()
        if child == 0:
            same = (engine.embed(["a"] * 200).vectors == before).all()
            os._exit(0 if same else 1)
        print(os.waitpid(child, 0)[1], os.environ["TOKENIZERS_PARALLELISM"])
        """
    )
    assert out.strip() == "0 false"


def test_a_child_forked_while_another_thread_loads_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "slow_words.py").write_text(SLOW_WORDS)
    out = run(
        """
        import os, signal, threading
        import slow_words
        from gpu_mesh.engines.local import LocalEngine
        engine = LocalEngine("slow_words")
        thread = threading.Thread(target=engine.embed, args=(["a"],))
        thread.start()
        slow_words.loading.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            engine.embed(["a"])
            os._exit(0)
        print(os.waitpid(child, 0)[1])
        slow_words.go.set()
        thread.join()
        """,
        tmp_path,
    )
    assert out.strip() == "0"


def test_threads_load_it_once(package: Callable[[str, str], None], tmp_path: Path) -> None:
    package("counted_words", COUNTED_WORDS)
    engine = LocalEngine("counted_words")
    with ThreadPoolExecutor(8) as pool:
        vectors = list(pool.map(lambda _: engine.embed(["a", "b"]).vectors, range(32)))
    loads = sys.modules["counted_words"].loads
    assert loads == [{"cache_dir": tmp_path / "counted_words", "dim": 256, "disable_download": True}]
    assert all(np.array_equal(each, vectors[0]) for each in vectors)


def test_without_the_package_it_is_unavailable_and_says_what_to_install() -> None:
    engine = LocalEngine("no_such_words")
    with pytest.raises(EngineUnavailable, match="pip install no_such_words"):
        engine.embed(["a"])
    with pytest.raises(EngineUnavailable):
        engine.models()
    status = engine.check()
    assert not status.reachable
    assert status.error is not None
    assert "no_such_words" in status.error
    assert (status.version, status.models) == (None, ())


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("words_without_parts", "import no_such_part_of_words"),
        (
            "words_without_files",
            "class WordLlama:\n @staticmethod\n def load(**options): raise FileNotFoundError('weights')",
        ),
        ("words_damaged", "class WordLlama:\n @staticmethod\n def load(**options): raise Exception('expected ident')"),
    ],
)
def test_a_broken_package_is_unavailable_until_it_loads(
    package: Callable[[str, str], None], name: str, body: str
) -> None:
    """SPEC H2: a check after a failed load tells the truth, and sees the repair."""
    package(name, body)
    engine = LocalEngine(name)
    with pytest.raises(EngineUnavailable, match=f"force-reinstall {name}") as caught:
        engine.embed(["a"])
    assert caught.value.__cause__ is not None
    assert not engine.check().reachable
    package(name, "from wordllama import WordLlama  # repaired, and of another length")
    assert engine.check().reachable
    assert engine.embed(["a"]).vectors.shape == (1, 256)
    engine.unload()
    assert not any(model.loaded for model in engine.check().models), "healthy again, checks load nothing"


def test_generate_says_how_to_get_an_engine_that_does() -> None:
    for call in (lambda: LocalEngine().generate("x"), lambda: LocalEngine().chat([])):
        with pytest.raises(EngineUnavailable, match=r"only embeds.*Ollama.*gpu-mesh doctor"):
            call()


def test_vectors_are_those_of_wordllama() -> None:
    """The same weights, tokens and mean as the package's own embed, for each length it supports."""
    import wordllama

    engine = get_engine()
    texts = ["The cat sat on the mat.", "Invoice", "größer 大きい 😀", "two words " * 50]
    for name, dimensions in MODELS.items():
        folder = Path(wordllama.__file__).parent
        original = wordllama.WordLlama.load(cache_dir=folder, trunc_dim=dimensions, disable_download=True)
        result = engine.embed(texts, name)
        assert result.dimensions == dimensions
        assert np.abs(result.vectors - original.embed(texts, norm=True)).max() < 1e-6


def test_a_text_longer_than_one_slice_is_summed_whole() -> None:
    """The mean of a word repeated is the word: nothing is cut off or counted twice."""
    count = TOKENS_AT_ONCE * 2
    once, often, mixed, halves = (
        get_engine().embed(["word", "word " * count + "word", "word " * count + "cat " * count, "word cat"]).vectors
    )
    assert once @ often > 0.9999
    assert mixed @ halves > 0.9999
    assert mixed @ once < 0.95


def test_one_engine_per_process() -> None:
    assert get_engine() is get_engine("local")


@pytest.mark.parametrize("name", ["olama", "", None, ["local"]])
def test_an_unknown_engine_is_answered_with_those_that_exist(name: str) -> None:
    with pytest.raises(InvalidValue, match="local") as caught:
        get_engine(name)
    assert caught.value.field == "engine"


def test_meaning_is_in_the_vectors() -> None:
    cat, kitten, invoice = get_engine().embed(["cat", "kitten", "invoice"]).vectors
    assert cat @ kitten > cat @ invoice + 0.1
