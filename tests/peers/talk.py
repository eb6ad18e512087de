"""Real gRPC and WebSocket, both ends, for a gateway to stand between.

    talk.py grpc-serve PORT          echo service: Say (unary), Chat (stream both ways), Fail
    talk.py grpc-call ADDRESS HOST   calls all three, prints what came of them
    talk.py websocket-serve PORT     echo
    talk.py websocket-call URL HOST  says three things, prints what came back
"""

import asyncio
import sys

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

    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
    }
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    generic = grpc.method_handlers_generic_handler(SERVICE, handlers)
    server.add_generic_rpc_handlers((generic,))
    for address in ("0.0.0.0", "[::]"):
        server.add_insecure_port(f"{address}:{port}")
    server.start()
    server.wait_for_termination()


def grpc_call(address, host):
    import grpc

    options = (("grpc.default_authority", host), ("grpc.enable_http_proxy", 0))
    with grpc.insecure_channel(address, options=options) as channel:
        said = channel.unary_unary(f"/{SERVICE}/Say")(b"hello", timeout=5)
        words = iter([b"one", b"two", b"three"])
        chat = list(channel.stream_stream(f"/{SERVICE}/Chat")(words, timeout=5))
        try:
            channel.unary_unary(f"/{SERVICE}/Fail")(b"", timeout=5)
            status = "OK"
        except grpc.RpcError as error:
            status = f"{error.code().name} ({error.details()})"
    print(f"{said.decode()}; {len(chat)} of a stream; {status}")


def websocket_serve(port):
    import websockets

    async def echo(socket):
        async for message in socket:
            await socket.send(f"you said {message}")

    async def serve():
        async with websockets.serve(echo, ["0.0.0.0", "::"], port):
            await asyncio.Future()

    asyncio.run(serve())


def websocket_call(url, host):
    import websockets

    async def call():
        # The URL's host is the gateway's address; the request's is the service's.
        async with websockets.connect(f"ws://{host}/", host=url.split("//")[1].rsplit(":", 1)[0].strip("[]"),
                                      port=int(url.rsplit(":", 1)[1])) as socket:
            back = []
            for message in ("one", "two", "three"):
                await socket.send(message)
                back.append(await asyncio.wait_for(socket.recv(), 5))
        print(f"{len(back)} messages, the last: {back[-1]}; closed {socket.close_code}")

    asyncio.run(call())


if __name__ == "__main__":
    verb, *words = sys.argv[1:]
    {
        "grpc-serve": grpc_serve,
        "grpc-call": grpc_call,
        "websocket-serve": websocket_serve,
        "websocket-call": websocket_call,
    }[verb](*words)
