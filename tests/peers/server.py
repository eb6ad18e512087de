"""The peer as a destination: accepts tunnels and behaves as it was told, well or badly."""

import ipaddress
import socket
import ssl
import threading
import time

from credentials import identity_of, server_context
from session import Session, describe_error

# Events kept; a caller that reads them seldom loses the newest, and is told.
KEPT = 10_000


class Behaviour:
    """How a tunnel request is answered. Changed at any time; it holds for later requests."""

    def __init__(self, **wishes):
        # Status of the answer; None never answers.
        self.status = 200
        # `echo` what arrives, `sink` it, or `speak` first and then echo.
        self.mode = "echo"
        # Text that `speak` sends.
        self.text = ""
        # Error code to reset the request with instead of answering.
        self.reset = None
        # Requests of a connection after which it says GOAWAY.
        self.goaway_after = None
        # Sends 103 before the answer.
        self.informational = False
        # Sends this many bytes of body before the answer's END_STREAM where status is not 200.
        self.body = 0
        # More response headers.
        self.headers = []
        # Resets the stream (with this code) once this many bytes have arrived.
        self.reset_after = None
        # Ends the TCP connection with a reset once this many bytes have arrived.
        self.abort_after = None
        # Ends our half once this many bytes have arrived and gone back, and then resets the stream
        # without an error: nothing more is wanted, and nothing went wrong.
        self.finish_after = None
        # Follows an answer that is an error, which ends the stream, by a reset without an error.
        self.then_reset = False
        # Sends trailers at the end.
        self.trailers = False
        self.change(wishes)

    def change(self, wishes):
        """Takes new values; unknown names are an error."""
        for name, value in wishes.items():
            if not hasattr(self, name):
                raise ValueError(f"no behaviour {name!r}")
            setattr(self, name, value)


class Server:
    """A listener; every connection has its own thread."""

    def __init__(self, address, port, own, trusted, alpn, behaviour, profile="peer"):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.behaviour = behaviour
        self.profile = profile
        self.context = server_context(own, trusted, alpn)
        self.lock = threading.Lock()
        self.log = []
        self.dropped = 0
        self.connections = 0
        self.sessions = []
        # (local, remote, identities, authority) -> (status, why); None admits everybody.
        self.decide = None
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            self.listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.listener.bind((address, port))
        self.listener.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    def replace(self, own, trusted, alpn):
        """Presents other credentials to later connections."""
        self.context = server_context(own, trusted, alpn)

    def note(self, **event):
        """Writes an event down."""
        event["at"] = round(time.monotonic(), 3)
        with self.lock:
            if len(self.log) < KEPT:
                self.log.append(event)
            else:
                self.dropped += 1

    def events(self, clear):
        """What happened so far."""
        with self.lock:
            seen = list(self.log)
            if clear:
                self.log.clear()
            return seen, self.dropped

    def close(self):
        """Ends the listener and every connection."""
        # A plain close leaves a thread blocked in accept; a shutdown wakes it.
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        for session in list(self.sessions):
            session.close()

    def _accept(self):
        while True:
            try:
                sock, remote = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            number = self.connections
            self.note(event="tcp", connection=number, remote=remote[0])
            threading.Thread(target=self._serve, args=(sock, number), daemon=True).start()

    def _serve(self, sock, number):
        sock.settimeout(10)
        try:
            tls = self.context.wrap_socket(sock, server_side=True)
        except (OSError, ssl.SSLError) as error:
            self.note(event="tls-failed", connection=number, error=describe_error(error))
            sock.close()
            return
        identities = identity_of(tls)
        self.note(
            event="tls",
            connection=number,
            version=tls.version(),
            cipher=tls.cipher()[0],
            alpn=tls.selected_alpn_protocol(),
            identities=identities,
        )
        ends = (_plain(tls.getsockname()[0]), _plain(tls.getpeername()[0]))
        tunnels = Tunnels(self, number, ends, identities)
        Session(tls, client=False, listener=tunnels, profile=self.profile, among=self.sessions)


def _plain(ip):
    """An IPv4 address as such, also on a socket of both families."""
    address = ipaddress.ip_address(ip.split("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)


class Tunnels:
    """What one connection's requests lead to."""

    def __init__(self, server, number, ends, identities):
        self.server = server
        self.number = number
        self.ends = ends
        self.identities = identities
        self.requests = 0

    def request(self, session, stream):
        """A tunnel request arrived."""
        self._note("request", stream, headers=stream.headers)
        behaviour = self.server.behaviour
        self.requests += 1
        if self.server.decide is not None and not self._admits(session, stream):
            return
        if behaviour.reset is not None:
            session.reset(stream, behaviour.reset)
            return
        if behaviour.informational:
            session.answer(stream, [(":status", "103"), ("link", "</>; rel=preload")])
        if behaviour.status is not None:
            self._answer(session, stream, behaviour)
        if behaviour.goaway_after is not None and self.requests >= behaviour.goaway_after:
            session.say_goaway()

    def _admits(self, session, stream):
        authority = dict(stream.headers).get(":authority", "")
        status, why = self.server.decide(*self.ends, self.identities, authority)
        self._note("decision", stream, status=status, why=why)
        if status != 200:
            # Refused as ztunnel does: headers that end the stream, then a reset without an error.
            session.answer(stream, [(":status", str(status))], end=True)
            session.reset(stream, 0)
        return status == 200

    def _answer(self, session, stream, behaviour):
        headers = [(":status", str(behaviour.status)), *map(tuple, behaviour.headers)]
        good = behaviour.status == 200
        session.answer(stream, headers, end=not good and not behaviour.body)
        if not good and behaviour.then_reset:
            session.reset(stream, 0)
        if not good and behaviour.body:
            session.send(stream, b"x" * behaviour.body, end=True)
        if good and behaviour.mode == "speak":
            session.send(stream, behaviour.text.encode())

    def data(self, session, stream, data):
        """Data of a tunnel arrived."""
        behaviour = self.server.behaviour
        if stream.status() is None and behaviour.status != 200:
            return
        if behaviour.reset_after is not None and stream.received >= behaviour.reset_after:
            session.reset(stream, 2)
        elif behaviour.abort_after is not None and stream.received >= behaviour.abort_after:
            session.close(abort=True)
        elif behaviour.mode != "sink":
            session.send(stream, data)
        if behaviour.finish_after is not None and stream.received >= behaviour.finish_after:
            session.send(stream, b"", end=True)
            if not stream.outgoing:
                session.reset(stream, 0)

    def ended(self, session, stream):
        """The peer's half ended; ours ends when everything is sent."""
        self._note("end", stream, received=stream.received, sha256=stream.hash.hexdigest())
        behaviour = self.server.behaviour
        if behaviour.status != 200:
            return
        if behaviour.trailers and not stream.outgoing:
            session.answer(stream, [("x-note", "trailer")], end=True)
        else:
            session.send(stream, b"", end=True)

    def reset(self, session, stream):
        """The peer gave the stream up."""
        self._note("reset", stream, code=stream.reset_code, received=stream.received)

    def finished(self, session, why):
        """The connection is over."""
        received = sum(stream.received for stream in session.streams.values())
        self.server.note(event="closed", connection=self.number, why=why, received=received)
        if session in self.server.sessions:
            self.server.sessions.remove(session)

    def _note(self, event, stream, **more):
        self.server.note(event=event, connection=self.number, stream=stream.number, **more)
