"""What every engine must do, whatever it runs on. A new engine adds itself to ENGINES in worlds.py and passes the same.

Servers are stood in for by stubs; the errors of real ones are in test_failures.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from gpu_mesh.engines import Engine
from gpu_mesh.engines.base import Ability, Chunk, GenerateOptions, Kind
from gpu_mesh.errors import EngineUnsupported, InvalidTask, ModelNotFound

from .worlds import ENGINES, PAGE, page, world

#: How exactly two vectors of one text must agree, and how far from 1 a length may be.
TOLERANCE = 1e-6

TEXTS = [
    "The cat sat on the mat.",
    "Invoice 2024-113 is due",
    "größer, 大きい, больше",
    "😀👩‍👩‍👧 emoji",
    "a\x00b\x07\x1b[0m",
]
BLANK = ["", " ", "\n\t \u3000"]
LONG = ("All work and no play makes Jack a dull boy. " * 2300)[:100_000]


@pytest.fixture(scope="module", params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Each once for the module: loading may be slow."""
    with world(request.param) as made:
        yield made.engine


def able(engine: Engine, ability: Ability, work: Callable[[], Any]) -> bool:
    """Whether it has the ability; where not, that it says so."""
    if ability in engine.abilities:
        return True
    with pytest.raises(EngineUnsupported, match=engine.name):
        work()
    return False


def models_that(engine: Engine, kind: Kind) -> list[str]:
    return [model.name for model in engine.models() if kind in model.kinds]


def embed(engine: Engine, *texts: str) -> np.ndarray:
    return engine.embed(list(texts)).vectors


def test_check_answers_with_the_models(engine: Engine) -> None:
    """SPEC H1, H3: reachable, response time in ms, model list."""
    status = engine.check()
    assert status.reachable
    assert status.error is None
    assert status.response_ms > 0
    assert status.version or engine.name == "openai", "its API has no word for it"
    assert status.models == engine.models()
    assert status.on_cpu == ()


def test_models_have_names_once_and_sizes(engine: Engine) -> None:
    models = engine.models()
    assert len({model.name for model in models}) == len(models) > 0
    assert all(model.name and (model.size_gb is None or model.size_gb > 0) for model in models)


def test_vectors_are_unit_length_float32_one_row_per_text(engine: Engine) -> None:
    """SPEC T: embeddings."""
    result = engine.embed(TEXTS)
    assert result.model in models_that(engine, Kind.EMBED)
    assert result.vectors.shape == (len(TEXTS), result.dimensions)
    assert result.dimensions > 0
    assert result.vectors.dtype == np.float32
    assert np.linalg.norm(result.vectors, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=TOLERANCE)


def test_default_model_is_the_first_that_embeds(engine: Engine) -> None:
    assert engine.embed(["x"]).model == models_that(engine, Kind.EMBED)[0]


def test_every_model_named_to_embed_does(engine: Engine) -> None:
    for name in models_that(engine, Kind.EMBED):
        result = engine.embed(TEXTS, name)
        assert result.model == name
        assert np.linalg.norm(result.vectors, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=TOLERANCE)


def test_order_is_kept_and_vectors_do_not_depend_on_their_neighbours(engine: Engine) -> None:
    texts = [*TEXTS, LONG, *BLANK]
    together = embed(engine, *texts)
    backwards = embed(engine, *reversed(texts))[::-1]
    alone = np.vstack([embed(engine, text) for text in texts])
    assert np.abs(together - alone).max() <= TOLERANCE
    assert np.abs(together - backwards).max() <= TOLERANCE
    assert len(np.unique(together.round(4), axis=0)) == len(TEXTS) + 2, "different texts, different vectors"


def test_the_same_text_gives_the_same_vector(engine: Engine) -> None:
    first, _, second = embed(engine, "the same", "another", "the same")
    assert np.abs(first - second).max() <= TOLERANCE
    assert np.abs(first - embed(engine, "the same")[0]).max() <= TOLERANCE


def test_no_texts_give_no_rows(engine: Engine) -> None:
    empty = engine.embed([])
    assert empty.vectors.shape == (0, engine.embed(["x"]).dimensions)
    assert empty.vectors.dtype == np.float32


def test_a_tuple_of_texts_is_as_good_as_a_list(engine: Engine) -> None:
    assert np.array_equal(engine.embed(tuple(TEXTS)).vectors, engine.embed(TEXTS).vectors)


@pytest.mark.parametrize("text", BLANK, ids=repr)
def test_a_blank_text_gives_zeros(engine: Engine, text: str) -> None:
    vectors = embed(engine, "before", text, "after")
    assert not vectors[1].any()
    assert np.linalg.norm(vectors[[0, 2]], axis=1) == pytest.approx([1, 1], abs=TOLERANCE)


@pytest.mark.parametrize("text", [LONG, "x" * 100_000, "😀" * 25_000], ids=["words", "one word", "emoji"])
def test_a_text_of_100_kb_works(engine: Engine, text: str) -> None:
    vectors = embed(engine, text, "short")
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=TOLERANCE)


@pytest.mark.parametrize(
    "text", ["\x00", "\u200b", "\ud800 half a pair", "<s></s><unk>", "\U0010ffff", "e\u0301"], ids=ascii
)
def test_odd_characters_give_finite_unit_vectors(engine: Engine, text: str) -> None:
    vectors = embed(engine, text)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1], abs=TOLERANCE)


@pytest.mark.parametrize(
    "texts", ["one text", None, 7, {"a": 1}, {"a"}, b"bytes", iter(["a"])], ids=lambda v: type(v).__name__
)
def test_no_list_of_texts_is_refused(engine: Engine, texts: Any) -> None:
    with pytest.raises(InvalidTask, match="expected a list of strings") as caught:
        engine.embed(texts)
    assert caught.value.field == "texts"


@pytest.mark.parametrize("item", [None, 7, b"bytes", ["nested"]], ids=lambda v: type(v).__name__)
def test_an_item_that_is_no_text_is_named_by_its_index(engine: Engine, item: Any) -> None:
    with pytest.raises(InvalidTask, match="item 2 is of type") as caught:
        engine.embed(["a", "b", item, "d"])
    assert caught.value.field == "texts"
    assert caught.value.value == item


@pytest.mark.parametrize("model", [7, b"name", ["name"]], ids=lambda v: type(v).__name__)
def test_a_model_that_is_no_name_is_refused(engine: Engine, model: Any) -> None:
    with pytest.raises(InvalidTask) as caught:
        engine.embed(["a"], model)
    assert caught.value.field == "model"


@pytest.mark.parametrize("model", ["no-such-model", ""])
@pytest.mark.parametrize("texts", [[], ["a"]], ids=["none", "one"])
def test_an_unknown_model_is_answered_with_those_present(engine: Engine, model: str, texts: list[str]) -> None:
    with pytest.raises(ModelNotFound) as caught:
        engine.embed(texts, model)
    assert repr(model) in str(caught.value)
    assert all(name in str(caught.value) for name in models_that(engine, Kind.EMBED))


def loaded(engine: Engine, name: str) -> bool | None:
    return next(model for model in engine.models() if model.name == name).loaded


def test_unloaded_it_answers_the_same_again(engine: Engine) -> None:
    """SPEC P7."""
    before = engine.embed(TEXTS)
    if not able(engine, Ability.UNLOAD, lambda: engine.unload(before.model)):
        return
    engine.unload(before.model)
    engine.unload(before.model)
    assert not loaded(engine, before.model)
    assert np.abs(engine.embed(TEXTS).vectors - before.vectors).max() <= TOLERANCE
    assert loaded(engine, before.model)


def test_closed_it_answers_the_same_again(engine: Engine) -> None:
    before = engine.embed(TEXTS)
    engine.close()
    engine.close()
    assert np.abs(engine.embed(TEXTS).vectors - before.vectors).max() <= TOLERANCE


def test_unload_of_an_unknown_model_is_refused(engine: Engine) -> None:
    if able(engine, Ability.UNLOAD, lambda: engine.unload("no-such-model")):
        with pytest.raises(ModelNotFound):
            engine.unload("no-such-model")


def test_check_loads_nothing(engine: Engine) -> None:
    """SPEC H9: checks cost little."""
    if able(engine, Ability.UNLOAD, engine.unload):
        engine.unload()
        assert not any(model.loaded for model in engine.check().models)


def test_loaded_are_those_in_memory(engine: Engine) -> None:
    """SPEC P7: one main model at a time needs to know."""
    if not able(engine, Ability.LOADED, engine.loaded):
        assert all(model.loaded is None for model in engine.models()), "not told"
        return
    engine.unload()
    assert engine.loaded() == ()
    name = engine.embed(["x"]).model
    [found] = [model for model in engine.loaded() if model.name == name]
    assert found.loaded
    assert found.size_gb
    assert found.cpu_share == 0


def test_load_brings_every_model_into_memory(engine: Engine) -> None:
    if not able(engine, Ability.LOAD, engine.load):
        return
    for model in engine.models():
        engine.unload()
        engine.load(model.name, keep_alive_s=60)
        engine.load(model.name)
        assert loaded(engine, model.name)
    with pytest.raises(ModelNotFound):
        engine.load("no-such-model")


def test_pull_is_off_unless_allowed(engine: Engine) -> None:
    assert not able(engine, Ability.PULL, lambda: list(engine.pull("no-such-model")))


# Generating

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello, größer 😀"}]


def generated(chunks: Iterator[Chunk]) -> tuple[str, Chunk]:
    """The text and the last piece; only the last one is done."""
    *pieces, last = chunks
    assert last.done
    assert not any(piece.done or piece.reason for piece in pieces)
    return "".join(piece.text for piece in (*pieces, last)), last


@pytest.mark.parametrize("how", ["generate", "chat"])
def test_text_is_generated_in_pieces(engine: Engine, how: str) -> None:
    """SPEC T: llm_inference."""

    def work() -> list[Chunk]:
        return list(engine.generate(CHAT[1]["content"]) if how == "generate" else engine.chat(CHAT))

    if able(engine, Ability.GENERATE, work):
        assert len(work()) > 2
        text, last = generated(iter(work()))
        assert "größer 😀" in text
        assert last.reason == "stop"
        assert last.prompt_tokens
        assert last.output_tokens


@pytest.mark.parametrize("how", ["generate", "raw", "chat"])
def test_options_are_heeded(engine: Engine, how: str) -> None:
    def work(**options: Any) -> tuple[str, Chunk]:
        chosen = GenerateOptions(temperature=0, top_p=0.9, top_k=3, seed=7, raw=how == "raw", **options)
        if how == "chat":
            return generated(engine.chat(CHAT, options=chosen))
        return generated(engine.generate("one two three four", system="Be brief.", options=chosen))

    if able(engine, Ability.GENERATE, work):
        text, last = work(max_tokens=2)
        assert last.reason == "length"
        assert last.output_tokens == 2
        whole, last = work()
        assert whole.startswith(text)
        assert last.reason == "stop"
        assert work(stop=("said", "never"))[0].strip() == "You"
        assert work()[0] == whole, "the same seed, the same text"


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("hello", "expected a list"),
        ([], "is empty"),
        ([{"role": "user"}], "item 0"),
        ([*CHAT, {"role": "robot", "content": "x"}], "item 2: the role is one of"),
        ([{"role": "user", "content": 7}], "item 0: content"),
        ([*CHAT, "hello"], "item 2"),
    ],
    ids=str,
)
def test_what_is_no_chat_is_refused(engine: Engine, messages: Any, reason: str) -> None:
    def work() -> Any:
        return list(engine.chat(messages))

    if able(engine, Ability.GENERATE, work):
        with pytest.raises(InvalidTask, match=reason) as caught:
            work()
        assert caught.value.field == "messages"


@pytest.mark.parametrize("prompt", [None, 7, ["x"]], ids=repr)
def test_what_is_no_prompt_is_refused(engine: Engine, prompt: Any) -> None:
    if able(engine, Ability.GENERATE, lambda: engine.generate(prompt)):
        with pytest.raises(InvalidTask) as caught:
            engine.generate(prompt)
        assert caught.value.field == "prompt"


@pytest.mark.parametrize("model", ["no-such-model", ""])
def test_an_unknown_model_generates_nothing(engine: Engine, model: str) -> None:
    for work in (lambda: list(engine.generate("x", model)), lambda: list(engine.chat(CHAT, model))):
        if able(engine, Ability.GENERATE, work):
            with pytest.raises(ModelNotFound, match="it has"):
                work()


def test_a_model_that_only_embeds_is_the_callers_mistake(engine: Engine) -> None:
    name = models_that(engine, Kind.EMBED)[0]
    if engine.name == "ollama":  # vLLM's answer is in test_failures.py
        with pytest.raises(InvalidTask, match="name a model that can") as caught:
            list(engine.generate("x", name))
        assert caught.value.field == "model"


def test_the_docs_have_these_tables() -> None:
    """STYLE 16. To renew: `python -m tests.unit.engines.worlds`."""
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text
