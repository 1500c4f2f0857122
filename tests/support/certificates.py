"""Certificates and keys for signing in tests, made on the spot: nothing secret lies in the repository."""

import datetime as dt
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_NOW = dt.datetime.now(dt.UTC)


@dataclass(frozen=True)
class Identity:
    """Files of one signer: its chain (own certificate first) and its private key, both PEM."""

    chain: Path
    key: Path

    @property
    def key_lines(self) -> list[bytes]:
        """What must be found nowhere else."""
        return [line for line in self.key.read_bytes().splitlines() if b"---" not in line]


def make_identity(
    folder: Path,
    *,
    expired: bool = False,
    from_days: int = -60,
    curve: ec.EllipticCurve | None = None,
    name: str = "Test Signer",
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.EMAIL_PROTECTION,
) -> Identity:
    """An end-entity certificate for signing documents and its authority, as C2PA's profile asks (section 14.5).

    Args:
        usage: What the certificate may be used for, if not for that.
        from_days: When it begins, days from now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(curve or ec.SECP256R1())
    until = _NOW + dt.timedelta(days=-1 if expired else 30)
    since = _NOW + dt.timedelta(days=from_days)
    root = _certificate("Test Root", "Test Root", authority, authority, (since, until), None)
    leaf = _certificate(name, "Test Root", key, authority, (since, until), usage)
    chain, secret = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(c.public_bytes(serialization.Encoding.PEM) for c in (leaf, root)))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return Identity(chain, secret)


def _certificate(
    subject: str,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    signing: ec.EllipticCurvePrivateKey,
    valid: tuple[dt.datetime, dt.datetime],
    purpose: x509.ObjectIdentifier | None,
) -> x509.Certificate:
    """Of an authority where it has no purpose."""
    authority = purpose is None

    def named(common: str) -> x509.Name:
        return x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests"), x509.NameAttribute(NameOID.COMMON_NAME, common)]
        )

    usage = x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(subject))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
    )
    if purpose is not None:
        alone = purpose == ExtendedKeyUsageOID.TIME_STAMPING  # RFC 3161: critical, and no other
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=alone)
    return builder.sign(signing, hashes.SHA256())


def camera_signed(data: bytes, camera: Identity) -> bytes:
    """The file with a credential that says a camera took it, signed by the C2PA library itself."""
    import c2pa

    kind = {b"\xff\xd8": "image/jpeg", b"\x89P": "image/png", b"RI": "image/webp"}.get(data[:2], "image/tiff")
    manifest = {
        "claim_generator_info": [{"name": "test camera", "version": "1"}],
        "assertions": [
            {
                "label": "c2pa.actions.v2",
                "data": {
                    "actions": [
                        {
                            "action": "c2pa.created",
                            "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture",
                        }
                    ]
                },
            }
        ],
    }
    settings = {"version": 1, "builder": {"thumbnail": {"enabled": False}}, "verify": {"ocsp_fetch": False}}
    info = c2pa.C2paSignerInfo(b"es256", camera.chain.read_bytes(), camera.key.read_bytes(), None)
    out = BytesIO()
    with c2pa.Builder(manifest, context=c2pa.Context.from_dict(settings)) as builder:
        builder.sign(c2pa.Signer.from_info(info), kind, BytesIO(data), out)
    return out.getvalue()
