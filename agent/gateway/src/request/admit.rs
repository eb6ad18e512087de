//! Policies before a request: tokens, then authorization.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent_model::Reason;
use agent_policy::http::{Address, Request};
use http::Uri;
use http::request::Parts;
use http::uri::PathAndQuery;

use super::{Downstream, Origin};
use crate::access::{Admitted, Guard, Refused, Remote, Trial};
use crate::plan::Plan;
use crate::refusal::Refusal;
use crate::route::Facts;
use crate::worker::Worker;

/// How long a request waits for keys that are being fetched.
const KEY_PATIENCE: Duration = Duration::from_secs(1);

/// Lets a request pass or refuses it, by the policies of its place. `port` is what the client wrote
/// after the host. Waits only where keys that its token needs are on their way.
pub(super) async fn admit(
    worker: &Worker,
    plan: &Plan,
    client: &Downstream,
    facts: &Facts<'_>,
    port: Option<u16>,
    trials: &mut Vec<Trial>,
) -> Result<Admitted, Refusal> {
    let guard = match &client.origin {
        Origin::Service { service, .. } => plan.guards().of_service(service),
        Origin::Port { .. } => plan.guards().of_gateway(),
        Origin::Pod { pod, .. } => {
            let guards = plan.guards().of_pod(&pod.services);
            // Boxed: few requests are for a pod that was addressed itself.
            let passed = all_of(worker, &guards, client, facts, port, trials);
            return Box::pin(passed).await;
        }
    };
    match guard {
        None => Ok(Admitted::default()),
        Some(guard) => {
            pass(
                worker,
                guard,
                client,
                facts,
                port,
                client.destination,
                trials,
            )
            .await
        }
    }
}

/// The policies of each place let the request pass, or it does not. Two of them that change it would
/// each send on what the other has taken out.
async fn all_of(
    worker: &Worker,
    guards: &[&Arc<Guard>],
    client: &Downstream,
    facts: &Facts<'_>,
    port: Option<u16>,
    trials: &mut Vec<Trial>,
) -> Result<Admitted, Refusal> {
    let mut changed = None;
    for guard in guards {
        let admitted = pass(
            worker,
            guard,
            client,
            facts,
            port,
            client.destination,
            trials,
        )
        .await?;
        let changes = admitted.headers.is_some() || admitted.query.is_some();
        if changes && changed.replace(admitted).is_some() {
            let detail = "policies of two services of the pod ask for tokens, each in its own way";
            return Err(Refusal::new(Reason::PolicyNotAllowed, detail));
        }
    }
    Ok(changed.unwrap_or_default())
}

/// Lets a request to `destination` pass a guard, or refuses it.
pub(super) async fn pass(
    worker: &Worker,
    guard: &Guard,
    client: &Downstream,
    facts: &Facts<'_>,
    port: Option<u16>,
    destination: SocketAddr,
    trials: &mut Vec<Trial>,
) -> Result<Admitted, Refusal> {
    let request = Request {
        destination,
        ..question(worker, client, facts, port)
    };
    let wait = {
        let keys = worker.keys.good();
        let refused = match judge(worker, guard, request, facts.query, &keys, trials) {
            Ok(admitted) => return Ok(admitted),
            Err(refused) => refused,
        };
        let missing = refused.missing.as_deref();
        let wait = missing.and_then(|address| worker.keys.missed(address, &keys));
        wait.ok_or(refused.refusal)?
    };
    wait.within(KEY_PATIENCE).await;
    let keys = worker.keys.good();
    let judged = judge(worker, guard, request, facts.query, &keys, trials);
    judged.map_err(|refused| refused.refusal)
}

/// What policies are asked. `port` is what the client wrote after the host.
pub(super) fn question<'a>(
    worker: &Worker,
    client: &'a Downstream,
    facts: &Facts<'a>,
    port: Option<u16>,
) -> Request<'a> {
    let address = Address {
        ip: client.client.ip(),
        vouched: is_vouched(worker, client),
    };
    Request {
        source: client.source.as_ref(),
        source_address: address,
        // Nobody in front is trusted to say who it was.
        remote_address: address,
        destination: client.destination,
        sni: client.sni.as_deref(),
        method: facts.method.as_str(),
        host: facts.host,
        port,
        path: facts.path,
        headers: facts.headers,
        token: None,
    }
}

fn judge(
    worker: &Worker,
    guard: &Guard,
    request: Request<'_>,
    query: Option<&str>,
    keys: &Remote,
    trials: &mut Vec<Trial>,
) -> Result<Admitted, Refused> {
    let mut tokens = worker.tokens.borrow_mut();
    let now = SystemTime::now();
    guard.judge(request, query, keys, &mut tokens, now, trials)
}

/// Judges a request by the policies of now that was let pass at `then`, which is when its token counts.
/// Keys are not waited for.
pub(super) fn judge_again(
    worker: &Worker,
    client: &Downstream,
    facts: &Facts<'_>,
    port: Option<u16>,
    then: SystemTime,
) -> Option<Refused> {
    let plan = worker.plan.load();
    let guards = plan.guards();
    let guards = match &client.origin {
        Origin::Service { service, .. } => Vec::from_iter(guards.of_service(service)),
        Origin::Port { .. } => Vec::from_iter(guards.of_gateway()),
        Origin::Pod { pod, .. } => guards.of_pod(&pod.services),
    };
    let request = question(worker, client, facts, port);
    let keys = worker.keys.good();
    guards.into_iter().find_map(|guard| {
        let (mut tokens, mut trials) = (worker.tokens.borrow_mut(), Vec::new());
        let judged = guard.judge(request, facts.query, &keys, &mut tokens, then, &mut trials);
        judged.err()
    })
}

/// A peer that the mesh does not know, with the address of a workload that would have come by tunnel,
/// is not that workload; everybody else's address is as good as addresses are.
fn is_vouched(worker: &Worker, client: &Downstream) -> bool {
    let is_proved = client
        .source
        .as_ref()
        .is_some_and(|peer| !peer.is_outside());
    is_proved || !worker.is_meshed(client.client.ip())
}

/// Makes the request what policies made of it.
pub(super) fn take_over(admitted: Admitted, parts: &mut Parts) -> Result<(), Refusal> {
    if let Some(headers) = admitted.headers {
        parts.headers = headers;
    }
    if let Some(query) = admitted.query {
        let path = parts.uri.path();
        let target = match query.as_str() {
            "" => path.to_owned(),
            query => format!("{path}?{query}"),
        };
        let invalid = || {
            let detail = "the request target is not a path";
            Refusal::new(Reason::RequestInvalid, detail)
        };
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        uri.path_and_query = Some(PathAndQuery::try_from(target).map_err(|_| invalid())?);
        parts.uri = Uri::from_parts(uri).map_err(|_| invalid())?;
    }
    Ok(())
}
