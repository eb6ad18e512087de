"""Keys and certificates: asked of the mesh's certificate service, or forged to be refused."""

import datetime
import os
import socket
import ssl
import tempfile
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import protobuf
from session import Session

CALL = "/istio.v1.auth.IstioCertificateService/CreateCertificate"


class Credentials:
    """A key, its chain and the roots to trust, as PEM files that `ssl` can load."""

    def __init__(self, directory, name, key, chain, roots):
        self.base = os.path.join(directory, name)
        self.chain = chain
        self._write("key", _private_pem(key), 0o600)
        self._write("chain", chain.encode(), 0o644)
        self._write("roots", roots.encode(), 0o644)

    def _write(self, kind, data, mode):
        descriptor = os.open(self.path(kind), os.O_CREAT | os.O_TRUNC | os.O_WRONLY, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)

    def path(self, kind):
        """Path of the `key`, the `chain` or the `roots`."""
        return f"{self.base}-{kind}.pem"

    def describe(self):
        """What the leaf says."""
        leaf = x509.load_pem_x509_certificate(self.chain.encode())
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        left = leaf.not_valid_after - datetime.datetime.utcnow()
        return {
            "uris": names.value.get_values_for_type(x509.UniformResourceIdentifier),
            "serial": format(leaf.serial_number, "x"),
            "seconds_left": left.total_seconds(),
        }


def scratch():
    """A private folder for keys."""
    return tempfile.mkdtemp(prefix="hbone-peer-")


def new_key():
    """A P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def _private_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def request_for(key, identity):
    """A PKCS #10 request: empty subject, one critical SAN with the SPIFFE URI."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
    request = builder.add_extension(names, critical=True).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def issue(directory, name, url, root_file, token, identity, seconds=86400, headers=()):
    """Gets a certificate from the mesh. Raises on any refusal, with the gRPC status."""
    key = new_key()
    metadata = protobuf.string_struct({"ImpersonatedIdentity": identity})
    message = (
        protobuf.bytes_field(1, request_for(key, identity))
        + protobuf.number_field(3, seconds)
        + protobuf.bytes_field(4, metadata)
    )
    answer = _call(url, root_file, token, message, headers)
    chain = [value.decode() for field, value in protobuf.fields(answer) if field == 1]
    if len(chain) < 2:
        raise ValueError(f"a chain of {len(chain)} elements: leaf and roots are expected")
    # The last element is the bundle of roots; all before it is what a server presents.
    return Credentials(directory, name, key, "".join(_lines(chain[:-1])), chain[-1])


def _lines(parts):
    return [part if part.endswith("\n") else part + "\n" for part in parts]


def _call(url, root_file, token, message, headers):
    address = urlsplit(url)
    context = ssl.create_default_context(cafile=root_file)
    context.set_alpn_protocols(["h2"])
    raw = socket.create_connection((address.hostname, address.port), timeout=5)
    session = Session(context.wrap_socket(raw, server_hostname=address.hostname), client=True)
    try:
        stream = session.open(
            [
                (":method", "POST"),
                (":scheme", "https"),
                (":authority", address.netloc),
                (":path", CALL),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("authorization", f"Bearer {token}"),
                *headers,
            ]
        )
        session.send(stream, protobuf.grpc_frame(message), end=True)
        session.wait(lambda: stream.over(), 20)
        return _answer(stream)
    finally:
        session.close()


def _answer(stream):
    last = dict(stream.trailers or stream.headers or [])
    if last.get("grpc-status") != "0":
        status, text = last.get("grpc-status"), last.get("grpc-message", "")
        raise PermissionError(f"grpc-status {status}: {text} (reset {stream.reset_code})")
    return protobuf.grpc_message(bytes(stream.data))


class Authority:
    """A certificate authority of our own, or the mesh's own key used to forge."""

    def __init__(self, certificate=None, key=None):
        self.key = key or new_key()
        self.certificate = certificate or _self_signed(self.key)

    @staticmethod
    def load(certificate_file, key_file):
        """The authority of these PEM files."""
        with open(certificate_file, "rb") as file:
            certificate = x509.load_pem_x509_certificate(file.read())
        with open(key_file, "rb") as file:
            key = serialization.load_pem_private_key(file.read(), None)
        return Authority(certificate, key)

    def pem(self):
        """Its certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def forge(self, directory, name, uris, seconds=3600, usages=("client", "server"), roots=None):
        """A leaf with any URIs and any lifetime (negative: it has expired)."""
        key = new_key()
        now = datetime.datetime.utcnow()
        known = {
            "client": ExtendedKeyUsageOID.CLIENT_AUTH,
            "server": ExtendedKeyUsageOID.SERVER_AUTH,
        }
        # A serial is given by us: nothing else of the subject tells two leaves apart.
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(now + datetime.timedelta(seconds=seconds))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        if usages:
            usage = x509.ExtendedKeyUsage([known[word] for word in usages])
            builder = builder.add_extension(usage, critical=False)
        if uris:
            names = [x509.UniformResourceIdentifier(uri) for uri in uris]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        leaf = builder.sign(self.key, hashes.SHA256())
        chain = leaf.public_bytes(serialization.Encoding.PEM).decode()
        return Credentials(directory, name, key, chain, roots or self.pem())

    def revoke(self, chains):
        """A revocation list, PEM, with the leaves of these PEM chains on it."""
        now = datetime.datetime.utcnow()
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - datetime.timedelta(minutes=1))
            .next_update(now + datetime.timedelta(days=1))
            .add_extension(x509.CRLNumber(1), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        for chain in chains:
            leaf = x509.load_pem_x509_certificate(chain.encode())
            entry = x509.RevokedCertificateBuilder().serial_number(leaf.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(now).build())
        made = builder.sign(self.key, hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM).decode()


def _self_signed(key):
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "hbone-peer")])
    now = datetime.datetime.utcnow()
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=3))
        .not_valid_after(now + datetime.timedelta(days=3))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
        .sign(key, hashes.SHA256())
    )


def client_context(own, trusted, alpn, version):
    """A client's TLS with its own credentials, trusting the roots of others; either may be None.

    Names are not checked: identities are URIs, which the caller compares.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    _versions(context, version)
    if trusted is None:
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(trusted.path("roots"))
    return _finish(context, own, alpn)


def server_context(own, trusted, alpn):
    """A server's TLS that demands a certificate under the trusted roots."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _versions(context, "1.3")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(trusted.path("roots"))
    return _finish(context, own, alpn)


def _finish(context, own, alpn):
    if own is not None:
        context.load_cert_chain(own.path("chain"), own.path("key"))
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


def _versions(context, version):
    wanted = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
    context.minimum_version = context.maximum_version = wanted


def identity_of(tls):
    """The URIs in the certificate the other side presented."""
    certificate = tls.getpeercert() or {}
    return [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
