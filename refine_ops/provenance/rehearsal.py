"""Whether files can be signed here, found out before the first item: a trial picture is signed and read."""

from typing import Final

import numpy as np

from refine_ops.config import ProvenanceSettings
from refine_ops.errors import ItemError, JobError
from refine_ops.image.formats.png_pixels import PngFile, encode_png
from refine_ops.provenance import credentials, sign

_NAME: Final = "a trial picture"


def check_signer(settings: ProvenanceSettings) -> str | None:
    """Who signs what the settings may want signed, in words; None where they want nothing signed.

    Raises:
        JobError: nobody can sign here; the message says what to mend.
    """
    return rehearse() if settings.signs_all or settings.resigns else None


def rehearse() -> str:
    """Sign a picture of 16 x 16 pixels as a run's files are, and have the library's own reader find it valid.

    That a certificate is read does not say that C2PA allows it to sign, nor that a key service gives signatures of its
    key, nor that a named time-stamp server answers; the library says all of it only once it signs.

    Returns:
        Algorithm, subject and last day of the certificate.

    Raises:
        JobError: it cannot be done.
    """
    signer = sign.open_signer()
    from cryptography import x509  # of the extra, which is there now

    file = PngFile.parse(encode_png(np.zeros((16, 16, 3), np.uint8)), _NAME)
    try:
        signed = sign.signed(file, file, sign.Made("none", (), ()), signer)
        found = credentials.read(PngFile.parse(signed, _NAME))
    except ItemError as error:
        raise _useless(str(error)) from error
    if not found.valid:
        raise _useless(", ".join(found.failures))
    own = x509.load_pem_x509_certificates(signer.chain.encode())[0]
    stamped = f", time stamps of {signer.time_stamp}" if signer.time_stamp else ""
    return f"{signer.algorithm}, {own.subject.rfc4514_string()}, until {own.not_valid_after_utc:%Y-%m-%d}{stamped}"


def _useless(problem: str) -> JobError:
    return JobError(
        f"this certificate and key make no valid Content Credentials ({problem}); look at REFINE_C2PA_CERTIFICATE (a "
        "certificate for signing documents, its chain behind it), at the key, and at REFINE_C2PA_TIME_STAMP if set"
    )
