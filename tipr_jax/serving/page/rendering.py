"""From a template and its values to an answer; every value is escaped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.templating import Jinja2Templates

from tipr_jax.text.language import NAMES

_templates = Jinja2Templates(Path(__file__).with_name("templates"))
_templates.env.trim_blocks = _templates.env.lstrip_blocks = True
_templates.env.globals["language_names"] = NAMES


def render(
    request: Request,
    template: str,
    context: Mapping[str, Any],
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The page of a template; `signed_in`: the visitor has a cookie and may end the session."""
    signed_in = str(getattr(request.state, "who", "")).endswith("by page")
    values = {"signed_in": signed_in, **context}
    return _templates.TemplateResponse(request, template, values, status, headers)
