"""A collector of traces (OTLP over gRPC) that prints each span it is sent as a line of JSON.

    collector.py PORT

Written from the protocol's definition (opentelemetry-proto 1.x, trace.proto), with nothing generated.
"""

import concurrent.futures
import json
import sys
import threading

import grpc

import protobuf

LINES = threading.Lock()
EXPORT = "opentelemetry.proto.collector.trace.v1.TraceService"


def value(message):
    """An AnyValue: text, truth or number."""
    for field, found in protobuf.fields(message):
        if field == 1:
            return found.decode()
        if field == 2:
            return bool(found)
        if field == 3:
            return found
    return None


def attribute(message):
    """A KeyValue."""
    parts = dict(protobuf.fields(message))
    return parts[1].decode(), value(parts.get(2, b""))


def span(message, resource, scope):
    """A Span, with what it came from."""
    told = {"resource": resource, "scope": scope, "attributes": {}, "parent": "", "state": "", "error": None}
    for field, found in protobuf.fields(message):
        if field in (1, 2, 4):
            told[{1: "trace", 2: "span", 4: "parent"}[field]] = found.hex()
        elif field in (3, 5):
            told[{3: "state", 5: "name"}[field]] = found.decode()
        elif field == 6:
            told["kind"] = found
        elif field in (7, 8):
            told[{7: "start", 8: "end"}[field]] = int.from_bytes(found, "little")
        elif field == 9:
            key, text = attribute(found)
            told["attributes"][key] = text
        elif field == 15:
            status = dict(protobuf.fields(found))
            told["error"] = status.get(2, b"").decode() if status.get(3) == 2 else None
        elif field == 16:
            told["flags"] = int.from_bytes(found, "little")
    return told


def spans(request):
    """Every span of an ExportTraceServiceRequest."""
    for _, resource_spans in protobuf.fields(request):
        resource = {}
        for field, part in protobuf.fields(resource_spans):
            if field == 1:
                resource = dict(attribute(found) for number, found in protobuf.fields(part) if number == 1)
            elif field == 2:
                scope = ""
                for number, found in protobuf.fields(part):
                    if number == 1:
                        scope = dict(protobuf.fields(found)).get(1, b"").decode()
                    elif number == 2:
                        yield span(found, resource, scope)


def export(request, context):
    with LINES:
        for told in spans(request):
            print(json.dumps(told), flush=True)
    return b""


def serve(port):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    handlers = {"Export": grpc.unary_unary_rpc_method_handler(export)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(EXPORT, handlers),))
    server.add_insecure_port(f"[::]:{port}")
    server.start()
    print("listening", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
