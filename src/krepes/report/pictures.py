"""Pictures that stand once in a page and are shown from many places."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image

SMALL = 40  # pixels up to which single pixels are to be seen


@dataclass(frozen=True)
class Picture:
    """One picture of a page.

    Attributes:
        name: its id in the page.
        uri: the data URI.
        width, height: pixels.
    """

    name: str
    uri: str
    width: int
    height: int

    @property
    def small(self) -> bool:
        """Whether single pixels are to be seen when it is enlarged."""
        return max(self.width, self.height) <= SMALL


@dataclass
class Sprites:
    """Pictures by sample id; those that were asked for, in `used`.

    Args:
        content: sample id ↦ bytes of a PNG or WebP file that can be decoded.
    """

    content: Mapping[str, bytes]
    used: dict[str, Picture] = field(default_factory=dict)

    def __call__(self, sample: str) -> Picture | None:
        """The picture of a sample; None without one."""
        if sample not in self.used:
            content = self.content.get(sample)
            if content is None:
                return None
            with Image.open(io.BytesIO(content), formats=("PNG", "WEBP")) as image:
                width, height, kind = image.width, image.height, str(image.format).lower()
            uri = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
            self.used[sample] = Picture(f"p{len(self.used)}", uri, width, height)
        return self.used[sample]
