"""Emoji as two domains: Noto's as the source, Twemoji's as the target, as PNG files of 64 pixels with an alpha channel.

    python benchmarks/emoji.py data/emoji

lays out data/emoji/noto, the source, and two targets, data/emoji/twemoji and the faces among them, data/emoji/smileys;
fetched by `npm pack` and checked by SHA-512. The source has every image, skin tones and all; the targets have one image
for each emoji and no flags: two skin tones of a hand on two sides of the split would be a leak.

Noto Emoji is Apache-2.0 (Google), Twemoji is CC-BY 4.0 (Twitter, Inc and other contributors); both come in the
packages emoji-datasource-google and emoji-datasource-twitter (MIT, Cal Henderson).
"""

import argparse
import base64
import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

from genxfer.artifacts.atomic import write_atomic

VERSION = "16.0.0"
SHA512 = {
    "google": "ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
    "twitter": "7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
}
# Each domain: its vendor, and the categories whose emoji are in it, an image for each; without any: every image.
SMILEYS = ("Smileys & Emotion",)
DRAWINGS = (  # but no flags, and no components, the parts of other emoji
    *SMILEYS,
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
)
DOMAINS: dict[str, tuple[str, tuple[str, ...]]] = {
    "noto": ("google", ()),
    "twemoji": ("twitter", DRAWINGS),
    "smileys": ("twitter", SMILEYS),
}


def fetch(vendor: str, folder: Path) -> Path:
    """Return the package's archive, fetched into `folder`; raises SystemExit when it is not the known one."""
    command = ["npm", "pack", "--silent", f"emoji-datasource-{vendor}@{VERSION}"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    archive = folder / f"emoji-datasource-{vendor}-{VERSION}.tgz"
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != SHA512[vendor]:
        raise SystemExit(f"{archive.name} has the SHA-512 {digest}, not {SHA512[vendor]}: it is not what was measured.")
    return archive


def lay_out(vendor: str, categories: tuple[str, ...], archive: Path, folder: Path) -> int:
    """Write the images of one domain into `folder`, each under its own name, and return how many there are."""
    with tarfile.open(archive) as members:
        listed = members.extractfile("package/emoji.json")
        assert listed is not None
        entries = [entry for entry in json.load(listed) if entry[f"has_img_{vendor}"]]
        prefix = f"package/img/{vendor}/64/"
        wanted = {entry["image"] for entry in entries if entry["category"] in categories}
        count = 0
        for member in members:
            name = Path(member.name).name
            if not member.isfile() or member.name != prefix + name or (categories and name not in wanted):
                continue
            image = members.extractfile(member)
            assert image is not None
            write_atomic(folder / name, image.read())
            count += 1
    return count


def make_domains(folder: Path) -> None:
    """Lay out the domains below `folder`, unless they are there."""
    complete = folder / "complete.json"
    if complete.exists() and json.loads(complete.read_text()).keys() == DOMAINS.keys():
        return
    with tempfile.TemporaryDirectory() as archives:
        fetched = {vendor: fetch(vendor, Path(archives)) for vendor in SHA512}
        counts = {
            name: lay_out(vendor, categories, fetched[vendor], folder / name)
            for name, (vendor, categories) in DOMAINS.items()
        }
    write_atomic(complete, json.dumps(counts).encode())


def main() -> None:
    """Lay out the domains and say how many images they have."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("data/emoji"))
    folder = parser.parse_args().folder
    make_domains(folder)
    print((folder / "complete.json").read_text())


if __name__ == "__main__":
    main()
