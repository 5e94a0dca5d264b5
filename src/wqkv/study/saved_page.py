"""A text as one page that a notebook shows in the cell; explorer/inline.py makes it."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

#: How high the page stands in a notebook, in pixels.
HEIGHT = 860


class SavedPage:
    """A text as one page with all of its numbers inside, which needs no server.

    A notebook shows it in the cell. Where scripts do not run (a notebook on GitHub, a printed one)
    it shows `picture`, the map of the chosen head; None where matplotlib is not installed.
    """

    def __init__(self, html: str, picture: bytes | None, said: str) -> None:
        self.html, self.picture, self._said = html, picture, said

    def save(self, path: str | Path) -> None:
        """Write the page as one file, for a browser, a blog or a lecture."""
        Path(path).write_text(self.html, encoding="utf-8")

    def __repr__(self) -> str:
        return self._said

    # Of Jupyter, whose mapping from kinds of media to what is shown has no narrower type.
    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        found = {"text/plain": self._said, "text/html": self._framed()}
        if self.picture is not None:
            found["image/png"] = base64.b64encode(self.picture).decode()
        return found

    def _framed(self) -> str:
        """The page in a frame that lies over the picture: without frames the picture is seen."""
        # Without allow-same-origin the page reaches nothing of the notebook.
        frame = (
            f'<iframe srcdoc="{escape(self.html)}" sandbox="allow-scripts allow-downloads"'
            f' title="{escape(self._said)}" loading="lazy"'
            ' style="position:absolute;inset:0;width:100%;height:100%;border:0"></iframe>'
        )
        still = ""
        if self.picture is not None:
            image = base64.b64encode(self.picture).decode()
            still = f'<img alt="{escape(self._said)}" src="data:image/png;base64,{image}">'
        style = f"position:relative;height:{HEIGHT}px;overflow:hidden"
        return f'<div style="{style}">{still}{frame}</div>'
