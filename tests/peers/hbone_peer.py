#!/usr/bin/python3
"""An independent HBONE peer: Python's `ssl` and Debian's `h2`, no code of Culvert's.

It reads one JSON object a line from standard input, does what its `op` says and prints one JSON
object a line: `{"ok": true, ...}` or `{"ok": false, "error": "..."}`. It ends when its input
does. The operations are the methods of `Peer` below and of what it inherits from, with their
parameters as the object's keys.

    {"op": "issue", "name": "me", "url": "https://10.66.0.254:15012", "root": "root-cert.pem",
     "token_file": "token", "identity": "spiffe://cluster.local/ns/demo/sa/peer"}
    {"op": "dial", "conn": "a", "to": ["10.67.1.10", 15008], "cert": "me"}
    {"op": "connect", "conn": "a", "authority": "10.67.1.10:80"}
    {"op": "send", "conn": "a", "stream": 1, "text": "hello", "end": true}
    {"op": "receive", "conn": "a", "stream": 1, "until": "end"}

`--ciphersuites LIST` restricts TLS 1.3 to these suites, which Python can only do by OpenSSL's
configuration file, and so for the whole process.
"""

import hashlib
import json
import os
import shutil
import socket
import ssl
import sys
import tempfile
import time
import traceback

sys.dont_write_bytecode = True

import credentials as creds  # noqa: E402
from mesh import ControlPlanes, Mesh  # noqa: E402
from server import Behaviour, Server  # noqa: E402
from session import Session, describe_error  # noqa: E402


class Peer(Mesh, ControlPlanes):
    """State of one process: credentials, connections, servers and streams, each by a name."""

    def __init__(self, directory):
        self.directory = directory
        self.credentials = {}
        self.authorities = {}
        self.connections = {}
        self.servers = {}
        self.discoveries = {}
        self.planes = {}

    # Certificates.

    def issue(
        self, name, url, root, identity, token=None, token_file=None, seconds=86400, headers=()
    ):
        """Gets a certificate from the mesh."""
        if token is None:
            with open(token_file, encoding="ascii") as file:
                token = file.read().strip()
        made = creds.issue(
            self.directory, name, url, root, token, identity, seconds, map(tuple, headers)
        )
        self.credentials[name] = made
        return made.describe()

    def authority(self, name, certificate=None, key=None):
        """Makes an authority of our own, or loads one."""
        loaded = creds.Authority.load(certificate, key) if certificate else creds.Authority()
        self.authorities[name] = loaded
        return {}

    def revoke(self, authority, names):
        """The authority's revocation list with the leaves of these credentials on it."""
        chains = [self.credentials[name].chain for name in names]
        return {"pem": self.authorities[authority].revoke(chains)}

    def forge(self, name, authority, uris, seconds=3600, usages=("client", "server"), trust=None):
        """Makes a leaf under an authority; `trust` takes the roots of other credentials."""
        roots = None
        if trust is not None:
            with open(self.credentials[trust].path("roots"), encoding="ascii") as file:
                roots = file.read()
        made = self.authorities[authority].forge(
            self.directory, name, uris, seconds, usages, roots
        )
        self.credentials[name] = made
        return {}

    # The client.

    def dial(
        self, conn, to, cert=None, trust=None, alpn=("h2",), version="1.3", tls=True, h2=True,
        seconds=5, source=None, profile="peer",
    ):
        """Opens a connection up to the first SETTINGS of the server.

        Without `tls` it is plain TCP, without `h2` the caller speaks by `raw`.
        """
        raw = socket.create_connection(tuple(to), seconds, tuple(source) if source else None)
        told = {}
        sock = raw
        if tls:
            own = self.credentials.get(cert)
            trusted = self.credentials.get(trust or cert)
            context = creds.client_context(own, trusted, list(alpn), version)
            sock = context.wrap_socket(raw)
            told = {
                "version": sock.version(),
                "cipher": sock.cipher()[0],
                "alpn": sock.selected_alpn_protocol(),
                "identities": creds.identity_of(sock) if trusted else None,
            }
        if not h2:
            self.connections[conn] = Raw(sock)
            return told
        session = self.connections[conn] = Session(sock, client=True, profile=profile)
        # A server refuses a client's certificate only after the client's handshake is over.
        session.wait(lambda: session.settings is not None, seconds)
        if session.settings is None:
            raise ConnectionError(session.finished or "no SETTINGS in time")
        return {**told, "settings": session.settings}

    def request(self, conn, headers, end=False, wait=10, read=True, text=None):
        """Sends any request and waits for its status, its reset or its end."""
        session = self.connections[conn]
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        stream = session.open(pairs, end=end, acknowledge=read)
        if text is not None:
            session.send(stream, text.encode())
        session.wait(lambda: stream.status() or stream.over(), wait)
        return stream.describe()

    def connect(self, conn, authority, headers=(), **more):
        """A CONNECT as a well-behaved peer sends it."""
        pairs = [[":method", "CONNECT"], [":authority", authority], *headers]
        return self.request(conn, pairs, **more)

    def send(self, conn, stream, text="", size=0, end=False):
        """Sends text, or `size` bytes of a fixed pattern, and ends our half when asked."""
        session = self.connections[conn]
        data = text.encode() if text else pattern(size)
        session.send(session.streams[stream], data, end)
        return {"sha256": hashlib.sha256(data).hexdigest()}

    def receive(self, conn, stream, until="data", count=1, wait=10):
        """Waits until `count` bytes have arrived in all (`data`), or for the `end` or reset."""
        session = self.connections[conn]
        found = session.streams[stream]
        enough = {"data": lambda: found.received >= count or found.over(), "end": found.over}
        met = session.wait(enough[until], wait)
        return {**found.describe(), "in_time": bool(met)}

    def reset(self, conn, stream, code=8):
        """Resets a stream; CANCEL unless told otherwise."""
        session = self.connections[conn]
        session.reset(session.streams[stream], code)
        return {}

    def ping(self, conn, wait=5):
        """Sends PING and waits for its answer."""
        session = self.connections[conn]
        before = session.pongs
        session.ping()
        return {"answered": bool(session.wait(lambda: session.pongs > before, wait))}

    def goaway(self, conn, code=0):
        """Says GOAWAY."""
        self.connections[conn].say_goaway(0, code)
        return {}

    def raw(self, conn, hex=None, text=None, wait=0):
        """Writes bytes as they are (inside TLS where there is TLS); `wait` for the end."""
        data = bytes.fromhex(hex) if hex is not None else text.encode("latin-1")
        session = self.connections[conn]
        session.raw(data)
        return self._state(session, wait)

    def state(self, conn, wait=0):
        """Whether and how the connection ended, at once or after up to `wait` seconds."""
        return self._state(self.connections[conn], wait)

    def _state(self, session, wait):
        session.wait(lambda: session.finished is not None, wait)
        received = getattr(session, "received", b"")
        return {
            "finished": session.finished,
            "goaway": session.goaway,
            "received": bytes(received[:4096]).decode("latin-1"),
        }

    def close(self, conn, abort=False):
        """Ends a connection, with a TCP reset when asked."""
        self.connections.pop(conn).close(abort=abort)
        return {}

    # The server.

    def listen(
        self, name, cert, trust=None, address="::", port=15008, alpn=("h2",), profile="peer",
        **wishes,
    ):
        """Starts a server."""
        own, trusted = self.credentials[cert], self.credentials[trust or cert]
        self.servers[name] = Server(
            address, port, own, trusted, list(alpn), Behaviour(**wishes), profile
        )
        return {}

    def behave(self, name, **wishes):
        """Answers later requests in another way; everything not named is as at first."""
        self.servers[name].behaviour = Behaviour(**wishes)
        return {}

    def present(self, name, cert, trust=None, alpn=("h2",)):
        """Presents other credentials to later connections."""
        own, trusted = self.credentials[cert], self.credentials[trust or cert]
        self.servers[name].replace(own, trusted, list(alpn))
        return {}

    def drop(self, name, abort=False):
        """Ends every connection of a server, which goes on listening."""
        for session in list(self.servers[name].sessions):
            session.close(abort=abort)
        return {}

    def events(self, name, clear=False):
        """What a server saw."""
        events, dropped = self.servers[name].events(clear)
        return {"events": events, "dropped": dropped}

    def unlisten(self, name):
        """Ends a server."""
        self.servers.pop(name).close()
        return {}


class Raw:
    """A connection without HTTP/2: bytes out, bytes in, and how it ended."""

    def __init__(self, sock):
        self.sock = sock
        self.received = bytearray()
        self.finished = None
        self.goaway = None

    def raw(self, data):
        """Writes bytes."""
        try:
            self.sock.sendall(data)
        except OSError as error:
            self.finished = describe_error(error)

    def wait(self, condition, seconds):
        """Reads until the condition holds or the time is over."""
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            self.sock.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = self.sock.recv(1 << 16)
            except TimeoutError:
                break
            except OSError as error:
                self.finished = describe_error(error)
                break
            if data == b"":
                self.finished = "end of stream"
            self.received += data
        return condition()

    def close(self, abort=False):
        """Ends it."""
        if abort:
            linger = b"\1\0\0\0\0\0\0\0"
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.sock.close()


def pattern(size):
    """Bytes that do not repeat at any power of two."""
    block = bytes(range(251))
    return (block * (size // 251 + 1))[:size]


def restrict(suites):
    """Starts this program anew with an OpenSSL configuration that allows only these suites."""
    if os.environ.get("HBONE_PEER_SUITES") == suites:
        return
    with tempfile.NamedTemporaryFile("w", suffix=".cnf", delete=False) as file:
        file.write(
            "openssl_conf = start\n[start]\nssl_conf = ssl\n[ssl]\nsystem_default = all\n"
            f"[all]\nCiphersuites = {suites}\n"
        )
    os.environ["OPENSSL_CONF"] = file.name
    os.environ["HBONE_PEER_SUITES"] = suites
    os.execv(sys.executable, [sys.executable, *sys.argv])


def answer(peer, line):
    """Does one operation."""
    try:
        wish = json.loads(line)
        operation = wish.pop("op")
        if operation.startswith("_"):
            raise ValueError("no such operation")
        return {"ok": True, **getattr(peer, operation)(**wish)}
    except (OSError, ssl.SSLError) as error:
        return {"ok": False, "error": describe_error(error)}
    except Exception as error:  # noqa: BLE001 - the caller decides what an error means
        traceback.print_exc(file=sys.stderr)
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}


def main():
    """Reads operations until the input ends."""
    if len(sys.argv) == 3 and sys.argv[1] == "--ciphersuites":
        restrict(sys.argv[2])
    elif len(sys.argv) != 1:
        sys.exit(__doc__)
    directory = creds.scratch()
    peer = Peer(directory)
    try:
        for line in sys.stdin:
            if line.strip():
                print(json.dumps(answer(peer, line)), flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        # Threads may sit in a read for ever; nothing of them needs an orderly end.
        os._exit(0)


if __name__ == "__main__":
    main()
