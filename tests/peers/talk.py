"""Real gRPC and WebSocket, both ends, for a gateway to stand between.

    talk.py grpc-serve PORT          echo service: Say (unary), Chat (stream both ways), Fail; and
                                     that of health checks, of the server as a whole
    talk.py grpc-call ADDRESS HOST   calls all three, prints what came of them
    talk.py grpc-check ADDRESS HOST  deadlines, cancellations and large messages, a line for each
    talk.py grpc-wait ADDRESS HOST   reads a stream that never ends, prints what ended it
    talk.py websocket-serve PORT     echo
    talk.py websocket-call URL HOST  says three things, prints what came back
    talk.py websocket-check URL HOST sizes, fragments, pings, closes and a refusal, a line for each
"""

import asyncio
import sys
import threading
import time

SERVICE = "culvert.demo.Echo"


def grpc_serve(port):
    import concurrent.futures

    import grpc

    def say(request, context):
        return b"you said " + request

    def chat(requests, context):
        for request in requests:
            yield b"you said " + request

    def fail(request, context):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today")

    given_up = []

    def sleep(request, context):
        over = threading.Event()
        context.add_callback(over.set)
        over.wait(10)
        given_up.append(request)
        return b""

    def forever(request, context):
        while context.is_active():
            yield b"tick"
            time.sleep(0.05)

    handlers = {
        "Sleep": grpc.unary_unary_rpc_method_handler(sleep),
        "GivenUp": grpc.unary_unary_rpc_method_handler(lambda *_: b",".join(sorted(given_up))),
        "Forever": grpc.unary_stream_rpc_method_handler(forever),
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
    }
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    def well(request, context):
        # Nothing is asked about but the server as a whole: HealthCheckRequest without a service.
        if request:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return b"\x08\x01"

    health = {"Check": grpc.unary_unary_rpc_method_handler(well)}
    services = {SERVICE: handlers, "grpc.health.v1.Health": health}
    generic = grpc.method_handlers_generic_handler
    server.add_generic_rpc_handlers(tuple(generic(*service) for service in services.items()))
    for address in ("0.0.0.0", "[::]"):
        server.add_insecure_port(f"{address}:{port}")
    server.start()
    server.wait_for_termination()


def grpc_channel(address, host):
    import grpc

    options = (
        ("grpc.default_authority", host),
        ("grpc.enable_http_proxy", 0),
        ("grpc.max_receive_message_length", -1),
    )
    return grpc.insecure_channel(address, options=options)


def grpc_check(address, host):
    import grpc

    with grpc_channel(address, host) as channel:
        method = lambda name: channel.unary_unary(f"/{SERVICE}/{name}")
        method("Say")(b"are you there", timeout=10)
        try:
            method("Sleep")(b"deadline", timeout=0.3)
        except grpc.RpcError as error:
            print("deadline:", error.code().name)
        call = method("Sleep").future(b"cancelled", timeout=10)
        time.sleep(0.2)
        call.cancel()
        print("cancelled:", call.cancelled())
        for _ in range(50):
            given_up = method("GivenUp")(b"", timeout=20)
            if given_up == b"cancelled,deadline":
                break
            time.sleep(0.05)
        print("the server gave up:", given_up.decode())
        large = bytes(3 << 20)
        print("large:", method("Say")(large, timeout=20) == b"you said " + large)
        try:
            method("Nothing")(b"", timeout=20)
        except grpc.RpcError as error:
            print("no such method:", error.code().name)


def grpc_wait(address, host):
    import grpc

    with grpc_channel(address, host) as channel:
        stream = channel.unary_stream(f"/{SERVICE}/Forever")(b"")
        print(next(stream).decode(), flush=True)
        try:
            for _ in stream:
                pass
        except grpc.RpcError as error:
            print("ended:", error.code().name, flush=True)


def grpc_call(address, host):
    import grpc

    with grpc_channel(address, host) as channel:
        said = channel.unary_unary(f"/{SERVICE}/Say")(b"hello", timeout=20)
        words = iter([b"one", b"two", b"three"])
        chat = list(channel.stream_stream(f"/{SERVICE}/Chat")(words, timeout=20))
        try:
            channel.unary_unary(f"/{SERVICE}/Fail")(b"", timeout=20)
            status = "OK"
        except grpc.RpcError as error:
            status = f"{error.code().name} ({error.details()})"
    print(f"{said.decode()}; {len(chat)} of a stream; {status}")


def websocket_serve(port):
    import http

    import websockets

    async def echo(socket):
        async for message in socket:
            if isinstance(message, str) and message.startswith("close "):
                await socket.close(int(message.split()[1]), "as you wish")
                return
            await socket.send(message)

    async def refuse(path, headers):
        if path == "/refused":
            return http.HTTPStatus.FORBIDDEN, [], b"no\n"

    async def serve():
        async with websockets.serve(echo, ["0.0.0.0", "::"], port, max_size=None, process_request=refuse):
            await asyncio.Future()

    asyncio.run(serve())


def websocket(url, host, path="/"):
    import websockets

    # The URL's host is the gateway's address; the request's is the service's.
    address, port = url.split("//")[1].rsplit(":", 1)
    return websockets.connect(
        f"ws://{host}{path}", host=address.strip("[]"), port=int(port), max_size=None
    )


def websocket_call(url, host):
    async def call():
        async with websocket(url, host) as socket:
            back = []
            for message in ("one", "two", "three"):
                await socket.send(message)
                back.append(await asyncio.wait_for(socket.recv(), 20))
        print(f"{len(back)} messages, the last: {back[-1]}; closed {socket.close_code}")

    asyncio.run(call())


def websocket_check(url, host):
    import websockets

    async def check():
        async with websocket(url, host) as socket:
            for size in (0, 125, 126, 65535, 65536, 1 << 20):
                for message in (bytes(size), "x" * size):
                    await socket.send(message)
                    assert await asyncio.wait_for(socket.recv(), 10) == message, size
            print("sizes: ok")
            await socket.send(["a", "bc", "", "d"])
            print("fragments:", await asyncio.wait_for(socket.recv(), 20))
            await asyncio.wait_for(await socket.ping(b"are you there"), 20)
            print("ping: ok")
            await socket.send("close 4321")
            try:
                await asyncio.wait_for(socket.recv(), 20)
            except websockets.ConnectionClosed as error:
                print("closed:", error.rcvd.code, error.rcvd.reason)
        try:
            async with websocket(url, host, "/refused"):
                print("refused: no")
        except websockets.InvalidStatusCode as error:
            print("refused:", error.status_code)

    asyncio.run(check())


if __name__ == "__main__":
    verb, *words = sys.argv[1:]
    {
        "grpc-serve": grpc_serve,
        "grpc-call": grpc_call,
        "grpc-check": grpc_check,
        "grpc-wait": grpc_wait,
        "websocket-serve": websocket_serve,
        "websocket-call": websocket_call,
        "websocket-check": websocket_check,
    }[verb](*words)
