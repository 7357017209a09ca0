"""The backends by name. To add one: a class with the methods of its role, and a line here.

A maker takes the job's config and its source, and makes something cheap; see `interfaces.Backend`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data_pipelines.ldat.endpoint import OpenAIRewriter, OpenAITranslator, Server
from data_pipelines.ldat.generated import GeneratedTranslator
from data_pipelines.ldat.interfaces import Failure, Translation
from data_pipelines.ldat.lexical import LexicalScorer
from data_pipelines.ldat.prompt import FOLDER, Prompt
from data_pipelines.ldat.ready_file import FileTranslator
from data_pipelines.ldat.source import Source
from tipr_jax.languages import language_name
from tipr_jax.paths import local_path

Maker = Callable[[Any, Source], Any]


class KeepRewriter:
    """A `Rewriter` that leaves noisy translations as they are."""

    settings: Mapping[str, Any] = {}

    def rewrite(self, translations: Sequence[Translation]) -> list[str | Failure]:
        return [translation.text for translation in translations]


def _openai_translator(config: Any, source: Source) -> OpenAITranslator:
    return OpenAITranslator(_server(config), _prompt("translate", config, source))


def _openai_rewriter(config: Any, source: Source) -> OpenAIRewriter:
    server = _server(config, config.openai.rewrite_model)
    return OpenAIRewriter(server, _prompt("rewrite", config, source), source.images)


def _file(config: Any, source: Source) -> FileTranslator:
    path = config.file.path
    return FileTranslator(local_path(path, "--config.file.path") if path else None)


def _grammar(config: Any, source: Source) -> GeneratedTranslator:
    grammar = config.grammar
    return GeneratedTranslator(
        source.directory, source.language, language_name(config.target), grammar.noise, grammar.seed
    )


TRANSLATORS: Mapping[str, Maker] = {
    "openai": _openai_translator,
    "file": _file,
    "grammar": _grammar,
}
SCORERS: Mapping[str, Maker] = {
    "lexical": lambda config, source: LexicalScorer(source.language, language_name(config.target)),
}
REWRITERS: Mapping[str, Maker] = {
    "keep": lambda config, source: KeepRewriter(),
    "openai": _openai_rewriter,
}


def make(makers: Mapping[str, Maker], role: str, config: Any, source: Source) -> Any:
    """The backend that the config names for a role. Raises ValueError for an unknown name."""
    name = config[role]
    if name not in makers:
        raise ValueError(f"--config.{role}={name} is unknown; use one of {', '.join(makers)}")
    return makers[name](config, source)


def _server(config: Any, model: str = "") -> Server:
    fields: dict[str, Any] = {key: config.openai[key] for key in Server.__dataclass_fields__}
    for key in ("concurrency", "timeout", "attempts", "max_tokens"):
        if fields[key] <= 0:
            raise ValueError(f"--config.openai.{key}={fields[key]}; expected more than 0")
    fields["model"] = model or fields["model"]
    return Server(**fields)


def _prompt(name: str, config: Any, source: Source) -> Prompt:
    given = config.openai.prompts
    folder = local_path(given, "--config.openai.prompts") if given else FOLDER
    return Prompt(folder, name, source.language, language_name(config.target))
