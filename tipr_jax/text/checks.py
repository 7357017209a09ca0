"""What every tokenizer checks of the texts that it is given."""

from collections.abc import Sequence


def check_texts(texts: Sequence[str]) -> None:
    """Raises ValueError unless `texts` is a sequence of strings."""
    if isinstance(texts, str):
        raise ValueError(f"expected a list of texts, got one string {texts!r}; pass [text]")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"text {index} is a {type(text).__name__}, expected a string")
