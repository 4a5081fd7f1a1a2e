"""The weights of feature extractors that do not come with a package: found, checked by their sha256, never guessed.

The user names a file, or the address of one, in `evaluate.extractor_weights` or in GENXFER_EXTRACTOR_WEIGHTS; behind
`#sha256=` may stand the digest that it must have. Nothing is downloaded unless an address was given; what was lies
under its digest in GENXFER_CACHE, by default ~/.cache/genxfer. Knows nothing of nets; read without importing torch.
"""

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from genxfer.artifacts.atomic import PendingFile
from genxfer.artifacts.fingerprint import digest_file
from genxfer.errors import DataError, ParameterError

VARIABLE = "GENXFER_EXTRACTOR_WEIGHTS"
_PIECE_BYTES = 1 << 20


class Published(NamedTuple):
    """What is known of the weights of an extractor: their name in the world, their digest and where they are kept."""

    name: str
    sha256: str | None = None
    address: str | None = None


PUBLISHED: dict[str, Published] = {
    # One file under two names: pytorch-fid calls it pt_inception, torch-fidelity weights-inception.
    "inception": Published(
        "the FID network, pt_inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    ),
    "dinov2": Published("timm's vit_small_patch14_dinov2.lvd142m, as .safetensors or .pth"),
}


@dataclass(frozen=True)
class Weights:
    """A file of weights that has been checked."""

    file: Path
    digest: str  # sha256


def find_weights(extractor: str, location: str | None = None) -> Weights:
    """Return the weights of `extractor`, downloaded if `location` is an address and they are not in the cache.

    Raises ParameterError when nobody says where they are, DataError when they are not there or not the right ones.
    """
    place, expected = _place(extractor, location)
    if place is None or _is_address(place):
        assert expected is not None
        file = cache_folder() / "weights" / f"{expected}{_suffix(place)}"
        if not file.is_file():
            _download(extractor, place, file, expected)
    else:
        file = Path(place).expanduser()
    return Weights(file, _checked(extractor, file, expected))


def weights_digest(extractor: str, location: str | None = None) -> str:
    """Return the sha256 of the weights of `extractor` without downloading them; raises as `find_weights` does."""
    place, expected = _place(extractor, location)
    if place is None or _is_address(place):
        assert expected is not None
        return expected
    return _checked(extractor, Path(place).expanduser(), expected)


def cache_folder() -> Path:
    """Return the user's folder for what may be computed or fetched again: GENXFER_CACHE, else ~/.cache/genxfer."""
    return Path(os.environ.get("GENXFER_CACHE") or "~/.cache/genxfer").expanduser()


def _place(extractor: str, location: str | None) -> tuple[str | None, str | None]:
    """Return where the weights are, None for the cache, and the digest they must have, None for any."""
    known = PUBLISHED[extractor]
    place, _, fragment = (location or os.environ.get(VARIABLE) or "").partition("#")
    if fragment and not re.fullmatch(r"sha256=[0-9a-fA-F]{64}", fragment):
        raise ParameterError(
            f"The weights of feature extractor {extractor!r} end with #{fragment}; a digest is written as #sha256= and "
            "64 hex digits."
        )
    expected = fragment.removeprefix("sha256=").lower() or known.sha256
    if not place:
        if expected is None or not (cache_folder() / "weights" / f"{expected}{_suffix(None)}").is_file():
            raise ParameterError(_not_given(extractor))
        return None, expected
    if _is_address(place) and expected is None:
        raise ParameterError(
            f"The weights of feature extractor {extractor!r} are to come from {_shown(place)}, and nothing says which "
            "they must be. Append their digest: #sha256= and 64 hex digits."
        )
    return place, expected


def _not_given(extractor: str) -> str:
    known = PUBLISHED[extractor]
    fetched = f" They are at {known.address}" if known.address else ""
    return (
        f"Feature extractor {extractor!r} needs its weights ({known.name}), which no package carries and which are "
        f"never downloaded unasked. Set evaluate.extractor_weights (for genxfer metrics: --weights) or {VARIABLE} to "
        f"the file or its address.{fetched}"
    )


def _is_address(place: str) -> bool:
    return place.startswith(("https://", "http://"))


def _suffix(place: str | None) -> str:
    """Return what a fetched file is called at the end, as that decides how it is read: by the path of its address."""
    return ".safetensors" if place and place.partition("?")[0].endswith(".safetensors") else ".pth"


def _shown(address: str) -> str:
    """Return `address` as it may be printed: host and path, without user, password and what signs a query.

    A password may hold an @, / or ? that nobody encoded: where it is not clear what the host is, that is left out too.
    """
    scheme, _, rest = address.partition("://")
    user, _, location = rest.rpartition("@")
    return f"{scheme}://{'...' if '?' in user else location.partition('?')[0]}"


def _reason(error: Exception, address: str) -> str:
    """Return why `address` could not be fetched; some errors repeat parts of it, its password too."""
    if _shown(address) == address or isinstance(error, urllib.error.HTTPError):
        return str(error)
    cause = getattr(error, "reason", error)
    return f"{type(cause).__name__} {getattr(cause, 'strerror', None) or ''}".rstrip()


def _checked(extractor: str, file: Path, expected: str | None) -> str:
    """Return the digest of `file`; raises DataError when there is no such file, or it has not the digest `expected`."""
    if not file.is_file():
        raise DataError(f"The weights of feature extractor {extractor!r} are to be in {file}, which is no file.")
    digest = digest_file(file)
    if expected not in (None, digest):
        raise DataError(
            f"{file} is not {PUBLISHED[extractor].name}: its sha256 is {digest}, not {expected}. Numbers would not be "
            f"comparable with those of others. If these are the weights you mean, append #sha256={digest}."
        )
    return digest


def _download(extractor: str, address: str | None, file: Path, expected: str) -> None:
    """Fetch `address` into `file`, which appears only with the digest `expected`."""
    assert address is not None
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(address, timeout=60) as answer, PendingFile(file.parent) as pending:
            while piece := answer.read(_PIECE_BYTES):
                digest.update(piece)
                pending.write(piece)
            pending.seal()
            if digest.hexdigest() == expected:
                pending.commit(file)
    except (http.client.HTTPException, OSError, ValueError) as error:  # of a mistyped address one of the others
        raise DataError(
            f"The weights of feature extractor {extractor!r} cannot be fetched from {_shown(address)}: "
            f"{_reason(error, address)}. Fetch them by other means and name the file."
        ) from error
    if digest.hexdigest() != expected:
        raise DataError(
            f"What {_shown(address)} sent is not {PUBLISHED[extractor].name}: its sha256 is {digest.hexdigest()}, not "
            f"{expected}. Nothing was kept."
        )
