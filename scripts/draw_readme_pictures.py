"""Draws the README's pictures of the search page and of a sheet, of generated people alone.

  python scripts/draw_readme_pictures.py my.gallery docs/

my.gallery: photos of the generated data set. It needs Chromium.
"""

import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from pathlib import Path

from PIL import Image

SENTENCE = "a man in a yellow hoodie with a black backpack"
SIZE = (1280, 800)


def main(gallery: str, folder: str) -> None:
    docs, port = Path(folder), "8765"
    docs.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        sheet, page = Path(place) / "sheet.png", Path(place) / "page.png"
        command = [sys.executable, "-m", "tipr_jax.gallery", "search", SENTENCE]
        subprocess.run([*command, f"--gallery={gallery}", f"--picture={sheet}"], check=True)
        _keep(sheet, docs / "sheet.webp")
        command = [sys.executable, "-u", "-m", "tipr_jax.serving", f"--port={port}"]
        service = subprocess.Popen(
            [*command, f"--gallery={gallery}"], stdout=subprocess.PIPE, text=True
        )
        try:
            while " is ready" not in (service.stdout and service.stdout.readline() or " is ready"):
                pass
            query = urllib.parse.urlencode({"q": SENTENCE})
            _photograph(f"http://127.0.0.1:{port}/?{query}", page)
        finally:
            service.terminate()
            service.wait()
        _keep(page, docs / "page.webp")


def _photograph(address: str, path: Path) -> None:
    """A picture of a web page as a headless Chromium shows it."""
    chromium = shutil.which("chromium") or "google-chrome"
    size = ",".join(map(str, SIZE))
    options = ["--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size={size}"]
    subprocess.run([chromium, *options, f"--screenshot={path}", address], check=True)


def _keep(picture: Path, path: Path) -> None:
    """Writes a small copy."""
    image = Image.open(picture).convert("RGB")
    image.thumbnail(SIZE)
    image.save(path, quality=60, method=6)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
