"""Lay out the clip-art set of docs/results.md: Debian's `openclipart-png` as a folder of unique pictures.

    python benchmarks/clipart.py --out data/clipart                  (needs apt-get and dpkg)
    python benchmarks/clipart.py --out data/clipart --source DIR     (DIR: the package's png folder, already unpacked)

The package holds 8,121 names in 22 folders, which become the labels. Links are skipped, pictures that look the same at
64 x 64 (padded to a square on white) are taken once, so that no copy of a training picture is held out, and of the
1,375 stars that differ by a parameter at most 100 stay.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from rcdm_core.data.images import fit_image, open_image
from rcdm_core.errors import UnreadableImage

PACKAGE = "openclipart-png"
PNG_FOLDER = "usr/share/openclipart/png"
MAX_STARS = 100


def unpack(folder: Path) -> Path:
    """Download the package from the Debian mirror that this machine is set up with, and unpack it."""
    subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (package,) = folder.glob(f"{PACKAGE}_*.deb")
    subprocess.run(["dpkg", "-x", package, folder / "unpacked"], check=True)
    return folder / "unpacked" / PNG_FOLDER


def fingerprint(path: Path) -> str:
    """A digest of what the picture looks like; of its bytes where it cannot be read (training will list it)."""
    try:
        return hashlib.sha256(fit_image(open_image(path), 64, "pad").tobytes()).hexdigest()
    except UnreadableImage:
        return hashlib.sha256(path.read_bytes()).hexdigest()


def lay_out(source: Path, out: Path) -> Counter[str]:
    """Copy the chosen pictures to `out` and return what became of all of them."""
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    for path in sorted(source.rglob("*.png")):
        relative = path.relative_to(source)
        if path.is_symlink():
            counts["links"] += 1
            continue
        star = "stars" in relative.parts[:-1]
        if star and counts["stars kept"] == MAX_STARS:
            counts["stars left out"] += 1
            continue
        digest = fingerprint(path)
        if digest in seen:
            counts["copies"] += 1
            continue
        seen.add(digest)
        counts["kept"] += 1
        counts["stars kept"] += star
        target = out / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to create")
    parser.add_argument("--source", type=Path, help="the package's png folder; default: download the package")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.source or unpack(Path(folder))
        for what, count in lay_out(source, arguments.out).items():
            print(f"{what}: {count}")


if __name__ == "__main__":
    main()
