"""Requests drawn from the service's own description: every answer is one that it names."""

import re
import subprocess
import sys
from importlib.util import find_spec

import httpx2
import pytest
from serving.process import served

EXAMPLES = 40  # of each operation, in each of the tool's phases
TOKEN = "correct-horse-battery"


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("schemathesis"), reason="pip install schemathesis")
def test_requests_drawn_from_the_description(gallery, model_directory, tmp_path):
    options = (f"--gallery={gallery}", f"--model={model_directory}", f"--token={TOKEN}")
    with served(*options) as service:
        done = subprocess.run(
            [
                *(sys.executable, "-c", "import schemathesis.cli as c; c.schemathesis()", "run"),
                *(f"{service.address}/openapi.json", "--header", f"Authorization: Bearer {TOKEN}"),
                *("--max-examples", str(EXAMPLES), "--seed", "0", "--no-color", "--checks", CHECKS),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        alive = httpx2.get(f"{service.address}/readyz").text
        service.process.terminate()
        code, output = service.end()
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert int(re.findall(r"(\d[\d,]*) generated", done.stdout)[-1].replace(",", "")) > EXAMPLES
    assert alive == "ready\n" and (code, "Traceback" in output) == (0, False), output


# Not asked for: that every request the description allows is taken. JSON Schema cannot say that a
# filter's field must exist or that a language must be one of the model's.
CHECKS = ",".join(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
        "ignored_auth",
        "unsupported_method",
    ]
)
