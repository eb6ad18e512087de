"""One HTTP/2 connection over any socket, read by a thread of its own.

The connection and its streams keep everything that happened to them, so that a caller may act
first and look later. The `h2` package's checks of outgoing headers are off: malformed requests
are what this peer is for.
"""

import hashlib
import select
import socket
import ssl
import threading
import time

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

# What a stream keeps of its data; the rest is counted and hashed only.
KEPT = 1 << 20
# What proxies announce, by setting (2 push, 3 streams, 4 window of a stream, 5 frame, 6 headers),
# and the window of their connections.
PROFILES = {
    "peer": ({3: 200, 4: 1 << 20, 6: 65536}, 1 << 24),
    "ztunnel": ({3: 200, 4: 4 << 20, 5: 1 << 20, 6: 65536}, 1 << 24),
    "ztunnel-client": ({2: 0, 4: 4 << 20, 5: 1 << 20, 6: 16384}, 1 << 24),
    # HTTP/2's own windows and frames.
    "envoy": ({3: 100}, 65535),
    "narrow": ({3: 4, 4: 4096}, 65535),
}


class Stream:
    """What is known of one stream."""

    def __init__(self, number):
        self.number = number
        self.headers = None
        self.informational = []
        self.trailers = None
        self.data = bytearray()
        self.received = 0
        self.hash = hashlib.sha256()
        self.ended = False
        self.reset_code = None
        self.lost = None
        self.outgoing = bytearray()
        self.end_after = False
        self.end_sent = False
        self.acknowledge = True

    def status(self):
        """The final status, once there is one."""
        return dict(self.headers or []).get(":status")

    def over(self):
        """Whether nothing more can arrive."""
        return self.ended or self.reset_code is not None or self.lost is not None

    def keep(self, data):
        """Takes in received data."""
        self.received += len(data)
        self.hash.update(data)
        self.data += data[: max(0, KEPT - len(self.data))]

    def describe(self):
        """Everything, for a JSON line."""
        return {
            "stream": self.number,
            "status": self.status(),
            "headers": self.headers,
            "informational": self.informational,
            "trailers": self.trailers,
            "received": self.received,
            "text": bytes(self.data[:4096]).decode("latin-1"),
            "sha256": self.hash.hexdigest(),
            "ended": self.ended,
            "reset": self.reset_code,
            "lost": self.lost,
        }


class Session:
    """An HTTP/2 connection; it is in the list `among` before anything happens on it."""

    def __init__(self, sock, client, listener=None, profile="peer", among=None):
        sock.setblocking(False)
        _no_delay(sock)
        self.sock = sock
        self.listener = listener
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.streams = {}
        self.settings = None
        self.goaway = None
        self.finished = None
        self.pongs = 0
        self._outbox = bytearray()
        config = h2.config.H2Configuration(
            client_side=client,
            header_encoding="latin-1",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
        )
        self.h2 = h2.connection.H2Connection(config)
        wanted, window = PROFILES[profile]
        announced = {h2.settings.SettingCodes(code): value for code, value in wanted.items()}
        if client:
            announced[h2.settings.SettingCodes.ENABLE_PUSH] = 0
        self.h2.local_settings = h2.settings.Settings(client=client, initial_values=announced)
        # The library looks at this one when its settings are made, which was before.
        self.h2.max_inbound_frame_size = self.h2.local_settings.max_frame_size
        with self.lock:
            self.h2.initiate_connection()
            if window > 65535:
                self.h2.increment_flow_control_window(window - 65535)
            self._flush()
        if among is not None:
            among.append(self)
        threading.Thread(target=self._read, daemon=True).start()

    # What a caller does.

    def open(self, headers, end=False, acknowledge=True):
        """Sends a request; the answer shows in the stream later."""
        with self.lock:
            number = self.h2.get_next_available_stream_id()
            stream = self.streams[number] = Stream(number)
            stream.acknowledge = acknowledge
            stream.end_sent = end
            self.h2.send_headers(number, headers, end_stream=end)
            self._flush()
            return stream

    def send(self, stream, data, end=False):
        """Queues data; it leaves as the peer's windows allow."""
        with self.lock:
            stream.outgoing += data
            stream.end_after = stream.end_after or end
            self._push(stream)
            self._flush()

    def answer(self, stream, headers, end=False):
        """Sends response headers or trailers."""
        with self.lock:
            self.h2.send_headers(stream.number, headers, end_stream=end)
            stream.end_sent = stream.end_sent or end
            self._flush()

    def reset(self, stream, code):
        """Sends RST_STREAM."""
        with self.lock:
            self.h2.reset_stream(stream.number, code)
            self._flush()

    def ping(self):
        """Sends PING."""
        with self.lock:
            self.h2.ping(b"hbonepee")
            self._flush()

    def say_goaway(self, last=None, code=0):
        """Sends GOAWAY without ending anything: the streams it admits go on."""
        with self.lock:
            last = self.h2.highest_inbound_stream_id if last is None else last
            payload = last.to_bytes(4, "big") + code.to_bytes(4, "big")
            # Written by hand: the library considers the connection closed after its own.
            self._outbox += len(payload).to_bytes(3, "big") + b"\x07\x00" + bytes(4) + payload
            self._flush()

    def raw(self, data):
        """Writes bytes past the HTTP/2 layer."""
        with self.lock:
            self._outbox += data
            self._flush()

    def wait(self, condition, seconds):
        """Waits until the condition holds; False when it did not in time."""
        deadline = time.monotonic() + seconds
        with self.lock:
            while not condition():
                left = deadline - time.monotonic()
                if left <= 0 or (self.finished is not None and not condition()):
                    return condition()
                self.changed.wait(left)
            return True

    def close(self, abort=False):
        """Ends the connection, with a reset when asked."""
        with self.lock:
            if abort and self.finished is None:
                linger = b"\1\0\0\0\0\0\0\0"
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._finish("closed here")

    # What the thread does.

    def _read(self):
        while True:
            with self.lock:
                if self.finished is not None:
                    return
                writers = [self.sock] if self._outbox else []
                pending = isinstance(self.sock, ssl.SSLSocket) and self.sock.pending() > 0
            try:
                if not pending:
                    select.select([self.sock], writers, [], 0.1)
            except (OSError, ValueError):
                return
            with self.lock:
                if self.finished is not None:
                    return
                self._step()
                self.changed.notify_all()

    def _step(self):
        try:
            data = self.sock.recv(1 << 18)
            if data == b"":
                self._finish("end of stream")
                return
            for event in self.h2.receive_data(data):
                self._event(event)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except (OSError, h2.exceptions.ProtocolError) as error:
            self._finish(describe_error(error))
            return
        self._flush()

    def _event(self, event):
        number = getattr(event, "stream_id", None)
        stream = self.streams.get(number)
        if isinstance(event, h2.events.RequestReceived):
            stream = self.streams[number] = Stream(number)
            stream.headers = list(event.headers)
            if self.listener:
                self.listener.request(self, stream)
        elif isinstance(event, h2.events.ResponseReceived) and stream:
            stream.headers = list(event.headers)
        elif isinstance(event, h2.events.InformationalResponseReceived) and stream:
            stream.informational.append(list(event.headers))
        elif isinstance(event, h2.events.TrailersReceived) and stream:
            stream.trailers = list(event.headers)
        elif isinstance(event, h2.events.DataReceived) and stream:
            self._data(stream, event)
        elif isinstance(event, h2.events.StreamEnded) and stream:
            stream.ended = True
            if self.listener:
                self.listener.ended(self, stream)
        elif isinstance(event, h2.events.StreamReset) and stream:
            stream.reset_code = int(event.error_code)
            if self.listener:
                self.listener.reset(self, stream)
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            changed = event.changed_settings.items()
            new = {int(code): change.new_value for code, change in changed}
            self.settings = {**(self.settings or {}), **new}
            self._push_all()
        elif isinstance(event, h2.events.WindowUpdated):
            self._push_all()
        elif isinstance(event, h2.events.PingAckReceived):
            self.pongs += 1
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = int(event.error_code)

    def _data(self, stream, event):
        stream.keep(event.data)
        if stream.acknowledge and event.flow_controlled_length:
            self.h2.acknowledge_received_data(event.flow_controlled_length, stream.number)
        if self.listener:
            self.listener.data(self, stream, event.data)

    def _push_all(self):
        for stream in list(self.streams.values()):
            if stream.outgoing or stream.end_after:
                self._push(stream)

    def _push(self, stream):
        try:
            while stream.outgoing:
                room = self.h2.local_flow_control_window(stream.number)
                size = min(room, self.h2.max_outbound_frame_size, len(stream.outgoing))
                if size <= 0:
                    return
                self.h2.send_data(stream.number, bytes(stream.outgoing[:size]))
                del stream.outgoing[:size]
            if stream.end_after and not stream.end_sent:
                self.h2.end_stream(stream.number)
                stream.end_sent = True
        except h2.exceptions.ProtocolError:
            # The stream is gone; what is known of it says why.
            stream.outgoing.clear()

    def _flush(self):
        self._outbox += self.h2.data_to_send()
        try:
            while self._outbox:
                sent = self.sock.send(self._outbox[: 1 << 16])
                del self._outbox[:sent]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass
        except OSError as error:
            # A peer that refuses closes while we still write; its reason is in what it sent.
            self._drain(error)

    def _drain(self, error):
        self._outbox.clear()
        try:
            while True:
                data = self.sock.recv(1 << 16)
                if data == b"":
                    break
                for event in self.h2.receive_data(data):
                    self._event(event)
        except (OSError, h2.exceptions.ProtocolError) as later:
            if isinstance(later, ssl.SSLError):
                error = later
        self._finish(describe_error(error))

    def _finish(self, why):
        if self.finished is not None:
            return
        self.finished = why
        for stream in self.streams.values():
            if not stream.over():
                stream.lost = why
        try:
            self.sock.close()
        except OSError:
            pass
        if self.listener:
            self.listener.finished(self, why)
        self.changed.notify_all()


def describe_error(error):
    """A short stable text: `tls: REASON`, `reset`, or the library's words."""
    if isinstance(error, ssl.SSLEOFError):
        return "end of stream"
    if isinstance(error, ssl.SSLError):
        # OpenSSL's name of the alert; where Python's list of names is older, the text's own words.
        words = str(error).split("(_ssl")[0].split("]")[-1].strip()
        return f"tls: {error.reason or words.upper().replace(' ', '_')}"
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return "reset"
    return f"{type(error).__name__}: {error}"


def _no_delay(sock):
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        pass
