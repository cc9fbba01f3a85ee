"""What runs models, and which."""

from pydantic import BaseModel

from gpu_mesh.settings.sections.base import setting
from gpu_mesh.settings.types import ENGINES, EngineNames, EngineUrls, Names, Secret, Text

__all__ = ["EngineSettings"]


class EngineSettings(BaseModel, defer_build=True):
    """What runs models, and which."""

    engines: EngineNames = setting(
        "Engines to use, the preferred one first: `ollama`, `openai` (vLLM, llama.cpp, LM Studio), `local`",
        default=ENGINES,
    )
    engine_urls: EngineUrls = setting(
        "Address of each device's own engine, as `gpu0=http://127.0.0.1:11434,gpu1=http://127.0.0.1:11435`; a device "
        "not named takes what is found on this machine's usual ports",
        default={},
    )
    engine_key: Secret = setting(
        "Key for OpenAI-compatible servers; sent only to addresses named in a setting", default=None
    )
    engine_timeout_s: float = setting(
        "How long an engine may be silent while it works, the loading of a model included",
        unit="s",
        default=300.0,
        gt=0,
        le=86_400,
    )
    engine_check_timeout_s: float = setting(
        "How long an engine may take to say how it is", unit="s", default=5.0, gt=0, le=60
    )
    engine_pull: bool = setting("Whether Ollama may fetch a model that it does not have", default=False)
    keep_alive_s: float | None = setting(
        "How long Ollama keeps a model after its last use; below 0: for ever. Unset: as that Ollama is set",
        unit="s",
        default=None,
        allow_inf_nan=False,
    )
    embed_model: Text = setting("Model that embeds where a task names none. Unset: the first that can", default=None)
    resident_models: Names = setting(
        "Models that stay in a device's memory beside the one main model, such as `nomic-embed-text`", default=()
    )
    chat_model: Text = setting(
        "Model that generates where a task names none. Unset: a loaded one, else the newest", default=None
    )
