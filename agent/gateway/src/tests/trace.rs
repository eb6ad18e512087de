//! A backend is told the request's span, and the record has it.

use http::Request;
use http_body_util::Full;

use super::backend::Backend;
use super::bed::{Bed, route, rule};

const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn the_backend_sees_the_requests_span_as_its_parent() {
    let backend = Backend::start("one").await;
    let mut bed = Bed::start_traced(&[route(vec![rule("/", "one")])]);
    bed.service("one", &[&backend]);
    let ask = || {
        let request = Request::get("/").header("host", "a");
        request.header("traceparent", CALLER)
    };
    assert_eq!(
        bed.ask(ask().body(Full::default()).unwrap()).await.status(),
        200
    );
    let told = backend.last().headers["traceparent"]
        .to_str()
        .unwrap()
        .to_owned();
    assert_eq!(told[..36], CALLER[..36], "the same trace");
    assert_ne!(told, CALLER);
    let kept = bed.records(1).await.remove(0);
    assert_eq!(kept.span.unwrap(), told[36..52]);
}

#[tokio::test]
async fn without_tracing_the_callers_headers_pass() {
    let backend = Backend::start("one").await;
    let mut bed = Bed::start(&[route(vec![rule("/", "one")])]);
    bed.service("one", &[&backend]);
    let request = Request::get("/")
        .header("host", "a")
        .header("traceparent", CALLER);
    assert_eq!(
        bed.ask(request.body(Full::default()).unwrap())
            .await
            .status(),
        200
    );
    assert_eq!(backend.last().headers["traceparent"], CALLER);
    assert_eq!(bed.records(1).await.remove(0).span, None);
}
