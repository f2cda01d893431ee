"""Pages of templates, with links inside a page that work in Kubeflow's UI too.

The UI shows an HTML artifact in a frame without an address of its own (`srcdoc`, sandboxed with scripts allowed), where
a link to `#part` replaces the page by a blank one. One small script scrolls instead; the page's policy names its hash,
so that no other script can run.
"""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

SCRIPT = """\
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  const part = link && document.getElementById(link.getAttribute("href").slice(1));
  if (part) { event.preventDefault(); part.scrollIntoView(); part.focus({ preventScroll: true }); }
});
"""


@dataclass(frozen=True)
class PageLinks:
    """What a template needs for links inside its page: a script, and the policy that allows it alone."""

    script: Markup
    policy: str


_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
PAGE_LINKS = PageLinks(
    Markup(SCRIPT),  # noqa: S704 - a constant
    f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_HASH}'",
)


def page_environment(folder: Path) -> Environment:
    """The templates of HTML pages in a folder; they have `links`."""
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["links"] = PAGE_LINKS
    return environment
