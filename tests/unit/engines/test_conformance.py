"""What every engine must do, whatever it runs on. A new engine adds a factory to ENGINES and passes the same tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from gpu_mesh.engines import Engine, get_engine
from gpu_mesh.engines.base import Kind
from gpu_mesh.errors import EngineUnavailable, InvalidTask, ModelNotFound

#: Engines by name; each is loaded once for the module, since loading may be slow.
ENGINES: dict[str, Callable[[], Engine]] = {"local": get_engine}

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
    engine = ENGINES[request.param]()
    yield engine
    engine.close()


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
    assert status.version
    assert status.models == engine.models()


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


def test_meaning_is_in_the_vectors(engine: Engine) -> None:
    cat, kitten, invoice = embed(engine, "cat", "kitten", "invoice")
    assert cat @ kitten > cat @ invoice + 0.1


def test_unloaded_or_closed_it_answers_the_same_again(engine: Engine) -> None:
    before = engine.embed(TEXTS)
    engine.unload(before.model)
    engine.unload(before.model)
    assert not next(model for model in engine.models() if model.name == before.model).loaded
    assert np.abs(engine.embed(TEXTS).vectors - before.vectors).max() <= TOLERANCE
    assert next(model for model in engine.models() if model.name == before.model).loaded
    engine.close()
    engine.close()
    assert np.abs(engine.embed(TEXTS).vectors - before.vectors).max() <= TOLERANCE


def test_unload_of_an_unknown_model_is_refused(engine: Engine) -> None:
    with pytest.raises(ModelNotFound):
        engine.unload("no-such-model")


def test_check_loads_nothing(engine: Engine) -> None:
    """SPEC H9: checks cost little."""
    engine.unload()
    assert not any(model.loaded for model in engine.check().models)


def test_what_cannot_generate_says_so(engine: Engine) -> None:
    """SPEC R4: an engine that cannot do the work is unavailable for it."""
    calls = [lambda: engine.generate("Say hello"), lambda: engine.chat([{"role": "user", "content": "Say hello"}])]
    for call in calls:
        if models_that(engine, Kind.GENERATE):
            *_, last = call()
            assert last.done
        else:
            with pytest.raises(EngineUnavailable, match="embeds"):
                list(call())
