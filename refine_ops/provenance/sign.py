"""A new Content Credential: the source as parent, what was done to it, and where; signed with the operator's key."""

import functools
import importlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import refine_ops
from refine_ops import config
from refine_ops.errors import ItemError, JobError
from refine_ops.image.formats.codec import ParsedFile
from refine_ops.provenance import credentials
from refine_ops.provenance.mark import COMPOSITE
from refine_ops.records import Box

_CURVES: Final = {"secp256r1": ("ES256", "SHA256", 32), "secp384r1": ("ES384", "SHA384", 48)}
"""Algorithm, hash, and bytes of each half of a signature. Others (RSA, Ed25519) are not offered."""
_TRIES, _WAIT_S = 3, 1.0


@dataclass(frozen=True, slots=True, repr=False)
class Signer:
    """Who signs: a certificate chain (PEM, own certificate first), and what makes a signature of bytes.

    The private key is inside `sign` and nowhere else; nothing here is printed.
    """

    chain: str
    algorithm: str
    sign: Callable[[bytes], bytes]
    time_stamp: str | None


@dataclass(frozen=True, slots=True)
class Made:
    """What was done to a picture: by which model, with which adapters, and in which boxes (upright pixels)."""

    model: str
    adapters: tuple[str, ...]
    boxes: tuple[Box, ...]


@functools.cache
def open_signer() -> Signer:
    """The signer that the environment names.

    Raises:
        JobError: there is none, a file cannot be read, the certificate is out of date, or it is not the key's.
    """
    named = config.signing()
    if not named.certificate or bool(named.key) == bool(named.hook):
        raise JobError(
            "signing needs a certificate and one of key and hook: set REFINE_C2PA_CERTIFICATE to a PEM chain's file "
            "and REFINE_C2PA_KEY to the file of its PEM key or REFINE_C2PA_SIGNER to module:function"
        )
    credentials.library()
    chain = _text(named.certificate, "REFINE_C2PA_CERTIFICATE")
    public, curve = _public_key(chain, named.certificate)
    sign = _hook(named.hook) if named.hook else _from_file(named.key or "", public, curve)
    return Signer(chain, _CURVES[curve][0], functools.partial(_as_halves, sign, _CURVES[curve][2]), named.time_stamp)


def signed(file: ParsedFile, source: ParsedFile, made: Made, signer: Signer) -> bytes:
    """`file`, proven and without a credential, with a new one. Its parent is the source, whose own credential, if any,
    stays readable in it.

    Raises:
        ItemError: `provenance.not_signed` -- the library refuses, or the time-stamp server does not answer.
        JobError: the operator's key gives no signature.
    """
    c2pa, failures = credentials.library(), list[Exception]()
    out = io.BytesIO()
    try:
        with (
            c2pa.Signer.from_callback(
                functools.partial(_signature, signer, failures),
                c2pa.C2paSigningAlg[signer.algorithm],
                signer.chain,
                signer.time_stamp,
            ) as key,
            c2pa.Builder(_manifest(made), context=credentials.context()) as builder,
        ):
            parent = {"title": "source", "relationship": "parentOf", "label": "source"}
            builder.add_ingredient(parent, credentials.media_type(source), io.BytesIO(source.data))
            builder.sign(key, credentials.media_type(file), io.BytesIO(file.data), out)
    except c2pa.C2paError as error:
        if failures:
            raise JobError(f"the signing key gave no signature: {type(failures[0]).__name__}") from failures[0]
        raise ItemError("provenance.not_signed", f"{file.name}: the C2PA library does not sign it: {error}") from error
    return out.getvalue()


def _manifest(made: Made) -> dict[str, Any]:
    agent = {"name": "refine-ops", "version": refine_ops.__version__}
    edited = {
        "action": "c2pa.edited",
        "digitalSourceType": COMPOSITE,
        "softwareAgent": agent,
        "parameters": {"org.refine-ops.model": made.model, "org.refine-ops.adapters": list(made.adapters)},
        "changes": [{"region": [_rectangle(box)]} for box in made.boxes],
    }
    opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["source"]}}
    actions = {"actions": [opened, *([edited] if made.boxes else [])]}
    return {"claim_generator_info": [agent], "assertions": [{"label": "c2pa.actions.v2", "data": actions}]}


def _rectangle(box: Box) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    shape = {"type": "rectangle", "unit": "pixel", "origin": {"x": x0, "y": y0}, "width": x1 - x0, "height": y1 - y0}
    return {"type": "spatial", "shape": shape}


def _signature(signer: Signer, failures: list[Exception], data: bytes) -> bytes:
    """Called by the library, which knows no exceptions. A key service may be busy for a moment."""
    for left in reversed(range(_TRIES)):
        try:
            return signer.sign(data)
        except Exception as error:  # noqa: BLE001 -- the operator's code; `signed` raises what it raised
            if not left:
                failures.append(error)
            time.sleep(_WAIT_S * bool(left))
    return b""


def _as_halves(sign: Callable[[bytes], bytes], half: int, data: bytes) -> bytes:
    """r and s one behind the other, as COSE has them; key services give DER."""
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    made = sign(data)
    if len(made) == 2 * half:
        return made
    return b"".join(number.to_bytes(half, "big") for number in decode_dss_signature(made))


def _public_key(chain: str, named: str) -> tuple[Any, str]:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        certificate = x509.load_pem_x509_certificates(chain.encode())[0]
    except (ValueError, IndexError) as error:
        raise JobError(f"{named} holds no PEM certificates ({error}); its own certificate comes first") from error
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if time.time() > ends.timestamp():
        raise JobError(
            f"the certificate in {named} (REFINE_C2PA_CERTIFICATE) expired on {ends:%Y-%m-%d %H:%M} UTC; renew it"
        )
    if time.time() < begins.timestamp():
        raise JobError(
            f"the certificate in {named} (REFINE_C2PA_CERTIFICATE) is valid only from {begins:%Y-%m-%d %H:%M} UTC; "
            "set this machine's clock, or use an earlier one"
        )
    public = certificate.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name not in _CURVES:
        raise JobError(f"the certificate in {named} has no key on P-256 or P-384; ES256 and ES384 are offered")
    return public, public.curve.name


def _from_file(named: str, public: Any, curve: str) -> Callable[[bytes], bytes]:
    """A signature by a key on this disk; what is wrong with it is said without a byte of it."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(_text(named, "REFINE_C2PA_KEY").encode(), None)
    except (ValueError, TypeError):
        raise JobError(f"{named} (REFINE_C2PA_KEY) holds no PEM private key without a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != public:
        raise JobError(f"{named} (REFINE_C2PA_KEY) is not the key of the certificate in REFINE_C2PA_CERTIFICATE")
    algorithm = ec.ECDSA(getattr(hashes, _CURVES[curve][1])())
    return lambda data: key.sign(data, algorithm)


def _hook(named: str) -> Callable[[bytes], bytes]:
    module, _, function = named.partition(":")
    try:
        found: Callable[[bytes], bytes] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise JobError(f"REFINE_C2PA_SIGNER: no function {named!r} ({error}); write module:function") from error
    return found


def _text(path: str, variable: str) -> str:
    try:
        return Path(path).read_text("ascii")
    except (OSError, ValueError) as error:
        raise JobError(f"{variable}: {path} cannot be read ({type(error).__name__})") from None


def names(values: Sequence[str]) -> tuple[str, ...]:
    """Of models and adapters, without the folders they lie in: a published file tells nobody's paths."""
    return tuple(Path(value.rstrip("/")).name for value in values)
