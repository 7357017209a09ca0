"""A translation model from a folder: Marian (OPUS-MT), NLLB, M2M-100, mBART, T5, MADLAD.

Beam search without dice. What is no translation at all is a failure, as with a server
(`answers.py`), and so is a caption or a translation that is too long for the model.
"""

import dataclasses
import functools
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.ldat import answers, batching, local_folder
from data_pipelines.ldat.interfaces import Caption, Failure

_OPTION = "--config.local.folder"


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How the model is asked; see `configs/ldat.py`."""

    batch: int
    beams: int
    max_tokens: int
    source_code: str
    target_code: str
    prefix: str


class LocalTranslator:
    """A `Translator`. The model is loaded at the first call.

    Raises:
      ValueError: no model's folder; at the first call: as `local_folder.load`, or a code of a
        language that the model does not know.
    """

    def __init__(
        self, folder: Path | None, source: str, target: str, decoding: Decoding, device: str
    ):
        self._folder = local_folder.checked(folder, _OPTION)
        self._source, self._target = source, target
        self._decoding, self._device = decoding, device
        fields = dataclasses.asdict(decoding)
        del fields["batch"]  # decides the speed alone
        self.settings: Mapping[str, Any] = {
            "model": local_folder.digest(self._folder),
            "source": source,
            **fields,
        }

    def translate(self, captions: Sequence[Caption]) -> list[str | Failure]:
        """A text per caption; a `Failure` for what is no translation, or too long."""
        sources = [caption.text for caption in captions]
        texts = batching.longest_first(sources, self._decoding.batch, self._generate)
        return [self._judged(*pair) for pair in zip(sources, texts, strict=True)]

    def _judged(self, source: str, text: str | Failure) -> str | Failure:
        if isinstance(text, Failure):
            return text
        text = " ".join(text.split())
        problem = answers.problem(source, text, self._source, self._target)
        return Failure(problem) if problem else text

    def _generate(self, texts: list[str]) -> list[str | Failure]:
        """One batch through the model."""
        (tokenizer, model), decoding = self._loaded, self._decoding
        texts = [decoding.prefix + text for text in texts]
        room = tokenizer.model_max_length
        long = [len(ids) > room for ids in tokenizer(texts)["input_ids"]]
        tokens = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
        with importlib.import_module("torch").inference_mode():
            rows = model.generate(
                **tokens.to(model.device),
                max_new_tokens=decoding.max_tokens,
                num_beams=decoding.beams,
                do_sample=False,
                **self._first_word,
            )
        # Beside the first token, which is no new one, a row that ends early is padded.
        full = rows[:, -1] != tokenizer.pad_token_id
        full &= rows.shape[1] == decoding.max_tokens + 1
        written = tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [
            Failure(f"the caption has more than the model's {room} tokens")
            if too_long
            else Failure(f"the answer is cut off at {decoding.max_tokens} tokens")
            if cut
            else text
            for too_long, cut, text in zip(long, full.tolist(), written, strict=True)
        ]

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Any]:
        tokenizer, model = local_folder.load(
            self._folder, "AutoModelForSeq2SeqLM", self._device, _OPTION
        )
        if self._decoding.source_code:
            tokenizer.src_lang = self._decoding.source_code
        return tokenizer, model

    @functools.cached_property
    def _first_word(self) -> dict[str, int]:
        """Models of many languages are told the target by the first token that they write."""
        if not (code := self._decoding.target_code):
            return {}
        tokenizer, _ = self._loaded
        for token in (code, f"__{code}__"):  # the second is M2M-100's
            number = tokenizer.convert_tokens_to_ids(token)
            if number is not None and number != tokenizer.unk_token_id:
                return {"forced_bos_token_id": number}
        raise ValueError(
            f"--config.local.target_code={code}: the model in {self._folder} has no such language; "
            "expected one as zho_Hans (NLLB), zh (M2M-100) or zh_CN (mBART), or nothing where the "
            "model knows two languages only"
        )
