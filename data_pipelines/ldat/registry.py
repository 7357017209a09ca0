"""The backends by name. To add one: a class with the methods of its role, and a line here.

A maker takes the job's config and its source, and makes something cheap; see `interfaces.Backend`.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.ldat import embeddings
from data_pipelines.ldat.command_scorer import CommandScorer
from data_pipelines.ldat.connection import Server
from data_pipelines.ldat.endpoint import OpenAIRewriter, OpenAITranslator
from data_pipelines.ldat.generated import GeneratedTranslator
from data_pipelines.ldat.interfaces import Failure, Translation
from data_pipelines.ldat.lexical import LexicalScorer
from data_pipelines.ldat.local_translator import Decoding, LocalTranslator
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
    server = _server(config, "rewrite_model" if config.openai.rewrite_model else "model")
    return OpenAIRewriter(server, _prompt("rewrite", config, source), source.images)


def _openai_scorer(config: Any, source: Source) -> embeddings.OpenAIScorer:
    server = _server(config, "embedding_model", config.openai.embedding_url)
    return embeddings.OpenAIScorer(server)


def _local_translator(config: Any, source: Source) -> LocalTranslator:
    local = config.local
    fields = {key: local[key] for key in Decoding.__dataclass_fields__}
    _refuse_below_one("local", fields, ("batch", "beams", "max_tokens"))
    folder, target = _path(local.folder, "--config.local.folder"), language_name(config.target)
    return LocalTranslator(folder, source.language, target, Decoding(**fields), local.device)


def _local_scorer(config: Any, source: Source) -> embeddings.LocalScorer:
    local = config.local
    _refuse_below_one("local", {"batch": local.batch}, ("batch",))
    folder = _path(local.embeddings, "--config.local.embeddings")
    return embeddings.LocalScorer(folder, local.batch, local.device)


def _command_scorer(config: Any, source: Source) -> CommandScorer:
    _refuse_below_one("command", {"timeout": config.command.timeout}, ("timeout",))
    return CommandScorer(shlex.split(config.command.run), config.command.timeout)


def _file(config: Any, source: Source) -> FileTranslator:
    return FileTranslator(_path(config.file.path, "--config.file.path"))


def _grammar(config: Any, source: Source) -> GeneratedTranslator:
    grammar = config.grammar
    return GeneratedTranslator(
        source.directory, source.language, language_name(config.target), grammar.noise, grammar.seed
    )


TRANSLATORS: Mapping[str, Maker] = {
    "openai": _openai_translator,
    "local": _local_translator,
    "file": _file,
    "grammar": _grammar,
}
SCORERS: Mapping[str, Maker] = {
    "lexical": lambda config, source: LexicalScorer(source.language, language_name(config.target)),
    "openai": _openai_scorer,
    "local": _local_scorer,
    "command": _command_scorer,
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


def _server(config: Any, model: str = "model", url: str = "") -> Server:
    """model: the field of config.openai that names the model. url: "" for the usual one."""
    fields: dict[str, Any] = {key: config.openai[key] for key in Server.__dataclass_fields__}
    _refuse_below_one("openai", fields, ("concurrency", "attempts", "max_tokens"))
    if fields["timeout"] <= 0:
        raise ValueError(f"--config.openai.timeout={fields['timeout']}; expected more than 0")
    fields["model"] = config.openai[model]
    fields["base_url"] = url or fields["base_url"]
    return Server(**fields)


def _refuse_below_one(group: str, fields: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in names:
        if fields[name] < 1:
            raise ValueError(f"--config.{group}.{name}={fields[name]}; expected at least 1")


def _path(given: str, option: str) -> Path | None:
    return local_path(given, option) if given else None


def _prompt(name: str, config: Any, source: Source) -> Prompt:
    given = config.openai.prompts
    folder = local_path(given, "--config.openai.prompts") if given else FOLDER
    return Prompt(folder, name, source.language, language_name(config.target))
