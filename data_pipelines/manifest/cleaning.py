"""How IVT's pre-training cleans the captions of the web (released as the option `pretrain`)."""

MAX_WORDS = 50
_CLEANING = str.maketrans({c: None for c in ",.'!?\"()*#:;~"} | {"-": " ", "/": " "})


def clean_caption(caption: str) -> str:
    """Lower case, no punctuation, single spaces, at most 50 words.

    "<person>", which hides names in web captions, becomes "person".
    """
    text = caption.lower().translate(_CLEANING).replace("<person>", "person")
    return " ".join(text.split()[:MAX_WORDS])
