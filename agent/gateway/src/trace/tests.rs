use super::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

/// With every number one higher than the one before it.
fn counting() -> impl FnMut() -> u64 {
    let mut last = 0;
    move || {
        last += 1;
        last
    }
}

fn begin_with(fields: &[(&'static str, &str)], share: f64) -> (HeaderMap, Option<Trace>) {
    let mut headers = headers(fields);
    let trace = begin(&mut headers, share, counting());
    (headers, trace)
}

fn parent(headers: &HeaderMap) -> &str {
    headers["traceparent"].to_str().unwrap()
}

#[test]
fn the_callers_trace_goes_on() {
    let sampled = format!("00-{TRACE}-{SPAN}-01");
    let fields = [("traceparent", &*sampled), ("tracestate", "a=b")];
    let (headers, trace) = begin_with(&fields, 0.0);
    let trace = trace.unwrap();
    assert_eq!(
        (hex(&trace.id), trace.parent.map(|id| hex(&id))),
        (TRACE.into(), Some(SPAN.into()))
    );
    assert_eq!(trace.state.unwrap(), "a=b");
    let own = hex(&trace.span);
    assert_ne!(own, SPAN);
    assert_eq!(parent(&headers), format!("00-{TRACE}-{own}-01"));
    assert_eq!(headers["tracestate"], "a=b");
}

#[test]
fn a_caller_that_is_not_sampled_is_passed_on_as_it_was() {
    let unsampled = format!("00-{TRACE}-{SPAN}-00");
    let (headers, trace) = begin_with(&[("traceparent", &unsampled)], 1.0);
    assert_eq!((trace, parent(&headers)), (None, &*unsampled));
    let single = format!("{TRACE}-{SPAN}-0");
    let (headers, trace) = begin_with(&[("b3", &single)], 1.0);
    assert_eq!(
        (trace, &headers["b3"]),
        (None, &HeaderValue::from_str(&single).unwrap())
    );
}

#[test]
fn a_trace_begins_here_for_a_share_of_the_requests() {
    let (headers, trace) = begin_with(&[], 1.0);
    let trace = trace.unwrap();
    assert_eq!(trace.parent, None);
    assert_eq!(
        parent(&headers),
        format!("00-{}-{}-01", hex(&trace.id), hex(&trace.span))
    );
    assert!(!headers.contains_key("b3"));

    let (headers, trace) = begin_with(&[], 0.0);
    assert_eq!(trace, None);
    assert!(
        parent(&headers).ends_with("-00"),
        "backends are not to decide anew"
    );

    let mut random = 0_u64;
    let step = || {
        random = random.wrapping_add(u64::MAX / 100);
        random
    };
    let mut step = step;
    let sampled = (0..1000).filter(|_| {
        let first = step();
        let mut rest = counting();
        let mut is_first = true;
        let random = || match std::mem::take(&mut is_first) {
            true => first,
            false => rest(),
        };
        begin(&mut HeaderMap::new(), 0.25, random).is_some()
    });
    let count = sampled.count();
    assert!((240..=260).contains(&count), "{count} of 1000");
}

#[test]
fn what_is_no_context_goes_no_further() {
    let long = format!("00-{TRACE}-{SPAN}-01-x");
    let none = format!("00-{}-{SPAN}-01", "0".repeat(32));
    let upper = format!("00-{}-{SPAN}-01", TRACE.to_uppercase());
    let ff = format!("ff-{TRACE}-{SPAN}-01");
    for bad in ["", "x", "00-1-2-01", &long, &none, &upper, &ff] {
        let (headers, trace) = begin_with(&[("traceparent", bad), ("tracestate", "a=b")], 1.0);
        let trace = trace.unwrap();
        assert_eq!((trace.parent, trace.state), (None, None), "{bad}");
        assert!(!headers.contains_key("tracestate"), "{bad}");
        assert!(!parent(&headers).contains(TRACE), "{bad}");
    }
    let good = format!("00-{TRACE}-{SPAN}-01");
    let twice = [("traceparent", &*good), ("traceparent", &*good)];
    let (headers, trace) = begin_with(&twice, 1.0);
    assert_eq!(trace.unwrap().parent, None);
    assert_eq!(headers.get_all("traceparent").iter().count(), 1);
    // Of a later version the beginning is known.
    let later = format!("01-{TRACE}-{SPAN}-01-more");
    let (_, trace) = begin_with(&[("traceparent", &later)], 0.0);
    assert_eq!(trace.unwrap().parent.map(|id| hex(&id)), Some(SPAN.into()));
}

#[test]
fn b3_in_one_header_goes_on_as_such() {
    let value = format!("{TRACE}-{SPAN}-1-00f067aa0ba902b7");
    let (headers, trace) = begin_with(&[("b3", &value)], 0.0);
    let trace = trace.unwrap();
    assert_eq!(hex(&trace.id), TRACE);
    let own = hex(&trace.span);
    assert_eq!(headers["b3"], *format!("{TRACE}-{own}-1-{SPAN}"));
    assert_eq!(parent(&headers), format!("00-{TRACE}-{own}-01"));
    // A decision alone.
    let (headers, trace) = begin_with(&[("b3", "0")], 1.0);
    assert_eq!(
        (trace, &headers["b3"]),
        (None, &HeaderValue::from_static("0"))
    );
    // Without a decision it is ours.
    let deferred = format!("{TRACE}-{SPAN}");
    assert!(begin_with(&[("b3", &deferred)], 1.0).1.is_some());
    assert!(begin_with(&[("b3", &deferred)], 0.0).1.is_none());
}

#[test]
fn b3_in_several_headers_goes_on_as_such() {
    let short = "8448eb211c80319c";
    let fields = [
        ("x-b3-traceid", short),
        ("x-b3-spanid", SPAN),
        ("x-b3-parentspanid", "00f067aa0ba902b7"),
        ("x-b3-sampled", "1"),
    ];
    let (headers, trace) = begin_with(&fields, 0.0);
    let trace = trace.unwrap();
    assert_eq!(hex(&trace.id), format!("{}{short}", "0".repeat(16)));
    assert_eq!(headers["x-b3-parentspanid"], SPAN);
    assert_eq!(headers["x-b3-spanid"], *hex(&trace.span));
    assert_eq!(headers["x-b3-sampled"], "1");
    let (_, trace) = begin_with(&[("x-b3-flags", "1")], 0.0);
    assert!(trace.is_some(), "debugging is sampled");
    // W3C comes first where both are there.
    let w3c = format!("00-{TRACE}-{SPAN}-00");
    let both = [("traceparent", &*w3c), ("x-b3-sampled", "1")];
    assert_eq!(begin_with(&both, 1.0).1, None);
}
