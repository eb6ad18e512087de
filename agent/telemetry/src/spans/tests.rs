use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::otlp::trace_service_server::{TraceService, TraceServiceServer};
use proto::otlp::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse, ResourceSpans,
};
use tokio::net::TcpListener;
use tonic::codegen::Service;
use tonic::{Request, Response, Status};

use super::*;

/// A collector that keeps what it is sent.
#[derive(Clone, Default)]
struct Kept {
    spans: Arc<Mutex<Vec<ResourceSpans>>>,
    /// Spans of each message that it does not want.
    rejects: i64,
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.spans
            .lock()
            .unwrap()
            .extend(request.into_inner().resource_spans);
        let partial_success = ExportTracePartialSuccess {
            rejected_spans: self.rejects,
            error_message: String::new(),
        };
        Ok(Response::new(ExportTraceServiceResponse {
            partial_success: Some(partial_success),
        }))
    }
}

async fn serve(kept: Kept) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = TraceServiceServer::new(kept);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = server.clone();
            let service = service_fn(move |request| server.clone().call(request));
            let connection = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    address
}

fn to(address: SocketAddr) -> Spans {
    let collector = Collector {
        address: format!("http://{address}"),
        root_cert: None,
        resource: vec![("service.name", "shop/edge".to_owned())],
        version: "1.2.3",
    };
    Spans::start(&collector, &Handle::current()).unwrap()
}

fn span(number: u8) -> Span {
    Span {
        trace: [7; 16],
        id: [number; 8],
        parent: Some([1; 8]),
        state: "a=b".to_owned(),
        name: "GET".to_owned(),
        start: SystemTime::UNIX_EPOCH + Duration::from_secs(10),
        duration: Duration::from_millis(5),
        attributes: vec![
            ("url.path", Value::Text("/x".to_owned())),
            ("http.response.status_code", Value::Number(503)),
        ],
        error: Some("no-endpoint".to_owned()),
    }
}

fn counts(spans: &Spans) -> [u64; 3] {
    let Counts {
        exported,
        overflowed,
        failed,
    } = &*spans.counts;
    [exported, overflowed, failed].map(|count| count.load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_collector_gets_what_was_pushed() {
    let kept = Kept::default();
    let spans = to(serve(kept.clone()).await);
    spans.push(span(1));
    spans.push(span(2));
    spans.flush(Duration::from_secs(10)).await;
    assert_eq!(counts(&spans), [2, 0, 0]);
    let all = kept.spans.lock().unwrap();
    let resource = all[0].resource.as_ref().unwrap();
    assert_eq!(resource.attributes[0].key, "service.name");
    let scopes = all.iter().flat_map(|one| &one.scope_spans);
    let sent: Vec<_> = scopes.flat_map(|scope| &scope.spans).collect();
    assert_eq!(sent.len(), 2);
    let first = sent[0];
    assert_eq!(
        (&*first.trace_id, &*first.span_id),
        (&[7; 16][..], &[1; 8][..])
    );
    assert_eq!(
        (&*first.parent_span_id, &*first.trace_state),
        (&[1; 8][..], "a=b")
    );
    assert_eq!(first.start_time_unix_nano, 10_000_000_000);
    assert_eq!(first.end_time_unix_nano, 10_005_000_000);
    assert_eq!((first.kind, first.flags), (2, 1));
    let status = first.status.as_ref().unwrap();
    assert_eq!((status.code, &*status.message), (2, "no-endpoint"));
}

#[tokio::test]
async fn what_a_collector_rejects_is_counted() {
    let kept = Kept {
        rejects: 1,
        ..Kept::default()
    };
    let spans = to(serve(kept).await);
    spans.push(span(1));
    spans.push(span(2));
    spans.flush(Duration::from_secs(10)).await;
    assert_eq!(counts(&spans), [1, 0, 1]);
}

#[tokio::test]
async fn a_collector_that_is_away_costs_spans_and_no_time() {
    let closed = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        listener.local_addr().unwrap()
    };
    let spans = to(closed);
    // Nothing is taken from the queue meanwhile: this thread is the runtime's.
    for _ in 0..QUEUE + 10 {
        spans.push(span(1));
    }
    assert_eq!(counts(&spans), [0, 10, 0]);
    spans.push(span(1));
    tokio::task::yield_now().await;
    spans.flush(Duration::from_secs(2)).await;
    let [exported, overflowed, failed] = counts(&spans);
    assert_eq!((exported, overflowed), (0, 11));
    assert!(failed > 0, "it was tried");
}

#[tokio::test]
async fn an_address_that_cannot_be_one_is_said() {
    let start = |address: &str| {
        let collector = Collector {
            address: address.to_owned(),
            root_cert: None,
            resource: Vec::new(),
            version: "1",
        };
        Spans::start(&collector, &Handle::current())
    };
    for address in ["", "collector:4317", "ftp://x", "https://collector:4317"] {
        assert!(start(address).is_err(), "{address}");
    }
    assert!(start("http://collector:4317").is_ok());
}
