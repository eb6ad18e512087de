"""Istio's certificate authority as its clients see it: a root, a signing intermediate, chains."""

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from credentials import new_key


class Issuer:
    """A root and an intermediate under it. The bundle has an older root too, as in a rotation."""

    def __init__(self):
        self.root_key, self.key, self.old_key = new_key(), new_key(), new_key()
        self.root = _authority("Root CA", self.root_key, "Root CA", self.root_key)
        self.old = _authority("Old Root CA", self.old_key, "Old Root CA", self.old_key)
        self.intermediate = _authority("Intermediate CA", self.key, "Root CA", self.root_key)

    def roots(self):
        """The bundle that everybody trusts."""
        return _pem(self.old) + _pem(self.root)

    def chain(self, leaf):
        """What an answer has: the leaf, one element for each intermediate, the bundle."""
        return [_pem(leaf), _pem(self.intermediate), self.roots()]

    def sign(self, request, identity, seconds):
        """A workload's certificate for the key of a request."""
        name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
        return self._leaf(request.public_key(), name, seconds, critical=True)

    def serving(self, names):
        """The server's own key and chain, PEM, for DNS names and addresses."""
        key = new_key()
        leaf = self._leaf(key.public_key(), x509.SubjectAlternativeName(map(_name, names)), 86400)
        text = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return text, (_pem(leaf) + _pem(self.intermediate)).encode()

    def _leaf(self, public_key, names, seconds, critical=False):
        now = datetime.datetime.utcnow()
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.intermediate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            # Clocks differ; Istio's begins two minutes ago.
            .not_valid_before(now - datetime.timedelta(minutes=2))
            .not_valid_after(now + datetime.timedelta(seconds=seconds))
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
            .add_extension(names, critical=critical)
        )
        return builder.sign(self.key, hashes.SHA256())


def problem_of(request):
    """What is wrong with a request as ztunnel's are; None when nothing is."""
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        return "not a P-256 key"
    if not request.is_signature_valid:
        return "not signed by its own key"
    if list(request.subject):
        return f"a subject: {request.subject.rfc4514_string()}"
    names = [one for one in request.extensions if one.oid == x509.SubjectAlternativeName.oid]
    if len(names) != 1 or not names[0].critical:
        return "not one critical subject alternative name"
    uris = names[0].value.get_values_for_type(x509.UniformResourceIdentifier)
    return None if len(uris) == 1 == len(list(names[0].value)) else f"names: {names[0].value}"


def _authority(name, key, issuer, issuer_key):
    now = datetime.datetime.utcnow()
    # The intermediate may have no other below it.
    length = 0 if name != issuer else None
    return (
        x509.CertificateBuilder()
        .subject_name(_organization(name))
        .issuer_name(_organization(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=3))
        .not_valid_after(now + datetime.timedelta(days=3))
        .add_extension(x509.BasicConstraints(ca=True, path_length=length), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _usage(signs):
    return x509.KeyUsage(
        digital_signature=not signs,
        key_encipherment=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _organization(name):
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "cluster.local"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _name(text):
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
