"""The annotations of one split as arrays."""

import dataclasses
from collections.abc import Mapping

import numpy as np

SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """One split as a struct of arrays, in the order of the annotation file.

    `image_id` everywhere is an index into `image_path`: one per annotation entry of the split,
    shared by the captions of the entry.
    """

    name: str  # train | val | test
    image_path: tuple[str, ...]  # absolute
    # int32 [N_images]; in train 0, 1, 2, ... without a gap, in val and test the ids of the file.
    image_person_id: np.ndarray
    caption: tuple[str, ...]
    caption_image_id: np.ndarray  # int32 [N_captions]
    language: str = ""  # of `caption`; "" in a data set of one language
    # Language -> captions, one to one with `caption`.
    translation: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    # int32 [N_images, 4]: x, y, width, height of the person in a whole picture, 0 wide where the
    # picture shows nobody else; None: every picture does.
    image_box: np.ndarray | None = None

    @property
    def caption_person_id(self) -> np.ndarray:
        """int32 [N_captions]: the person that each caption describes."""
        return self.image_person_id[self.caption_image_id]

    @property
    def num_persons(self) -> int:
        """Number of distinct persons (in train: the number of classes of an identity loss)."""
        return len(np.unique(self.image_person_id))

    def in_language(self, language: str) -> "Split":
        """The same images (the same `image_path` object) with the captions of one language.

        Raises:
          ValueError: the split does not have this language.
        """
        captions = dict(self.translation) | {self.language: self.caption}
        if language not in captions:
            raise ValueError(
                f"the {self.name} split has no captions in {language!r}, it has "
                f"{', '.join(sorted(captions))}"
            )
        caption = captions[language]
        return dataclasses.replace(self, caption=caption, language=language, translation={})
