//! What traffic policies do.

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail, ensure};
use tests::poll;

use super::client::Client;
use super::edge::{Edge, LIMIT};
use super::manifests::policy;

const REQUESTS: usize = 200;

/// Statuses of so many requests over one connection.
fn statuses(client: &mut Client, host: &str, count: usize) -> Result<Vec<u16>> {
    (0..count)
        .map(|_| Ok(client.get(host, "/", &[])?.status))
        .collect()
}

fn count(statuses: &[u16], status: u16) -> usize {
    statuses.iter().filter(|one| **one == status).count()
}

pub(super) fn retries(edge: &Edge<'_>) -> Result<String> {
    let mut client = edge.client()?;
    edge.break_one()?;
    // The default would keep away from an endpoint that fails by itself.
    let turns = "loadBalancing: {algorithm: roundRobin}";
    edge.apply("turns", &policy("turns", "Service", "flaky", turns))?;
    poll::until("turns", LIMIT, || {
        let failed = count(&statuses(&mut client, "flaky.example", 20)?, 503);
        ensure!(failed == 10, "{failed} of 20 fail");
        Ok(())
    })?;
    let without = count(&statuses(&mut client, "flaky.example", REQUESTS)?, 503);
    ensure!(without > 0, "no request fails");
    edge.apply(
        "retry",
        &policy(
            "retry",
            "HTTPRoute",
            "flaky",
            "retry: {codes: [503], attempts: 3}",
        ),
    )?;
    poll::until("retries", LIMIT, || {
        let failed = count(&statuses(&mut client, "flaky.example", 20)?, 503);
        ensure!(failed == 0, "{failed} of 20 fail");
        Ok(())
    })?;
    let with = count(&statuses(&mut client, "flaky.example", REQUESTS)?, 503);
    edge.remove("retry")?;
    edge.remove("turns")?;
    ensure!(with == 0, "{with} of {REQUESTS} fail in spite of retries");
    Ok(format!(
        "one endpoint of two fails: {without} of {REQUESTS} requests failed without retries, {with} with them"
    ))
}

pub(super) fn ejection(edge: &Edge<'_>) -> Result<String> {
    const EJECTION: &str = "loadBalancing: {algorithm: roundRobin}\n  outlierDetection: {consecutiveErrors: 3, ejection: 2s, maxEjectedPercent: 50}";
    let mut client = edge.client()?;
    edge.break_one()?;
    edge.apply(
        "ejection",
        &policy("ejection", "Service", "flaky", EJECTION),
    )?;
    let first = edge.at_broken();
    poll::until("the ejection", LIMIT, || {
        let before = edge.at_broken();
        let failed = count(&statuses(&mut client, "flaky.example", 20)?, 503);
        ensure!(
            failed == 0 && edge.at_broken() == before,
            "{failed} of 20 fail"
        );
        Ok(())
    })?;
    let failures = edge.at_broken() - first;
    ensure!(failures >= 3, "it was ejected after {failures}");
    let ejected = Instant::now();
    edge.mend()?;
    let before = edge.at_broken();
    let back = poll::until("its return", LIMIT, || {
        let failed = count(&statuses(&mut client, "flaky.example", 5)?, 503);
        ensure!(failed == 0, "{failed} fail after it was mended");
        ensure!(edge.at_broken() > before, "it gets nothing");
        Ok(ejected.elapsed())
    })?;
    edge.remove("ejection")?;
    Ok(format!(
        "after {failures} failures it got nothing, and no request failed; mended, it was back after {:.1} s",
        back.as_secs_f64()
    ))
}

pub(super) fn fault(edge: &Edge<'_>) -> Result<String> {
    let until = |expires: &str| {
        let spec = format!("fault: {{abort: {{status: 418, percent: 30}}{expires}}}");
        edge.apply("fault", &policy("fault", "HTTPRoute", "shop", &spec))
    };
    until("")?;
    let mut client = edge.client()?;
    poll::until("faults", LIMIT, || {
        let aborted = count(&statuses(&mut client, "shop.example", 20)?, 418);
        ensure!(aborted > 0, "none of 20");
        Ok(())
    })?;
    let aborted = count(&statuses(&mut client, "shop.example", 1000)?, 418);
    // Five standard deviations.
    ensure!((230..=370).contains(&aborted), "{aborted} of 1000");
    // However long that took: its end is yet to come.
    let end = SystemTime::now() + Duration::from_secs(3);
    let end = humantime::format_rfc3339_seconds(end);
    until(&format!(", expires: \"{end}\""))?;
    poll::until("its end", LIMIT, || {
        let after = count(&statuses(&mut client, "shop.example", 100)?, 418);
        ensure!(after == 0, "{after} of 100 after its end");
        Ok(())
    })?;
    edge.remove("fault")?;
    Ok(format!(
        "{aborted} of 1000 requests got 418 for 30 %; after its end none of 100"
    ))
}

pub(super) fn limits(edge: &Edge<'_>) -> Result<String> {
    let local = "local: {requests: 20, per: 1h}";
    edge.limit("local", local)?;
    let mut clients = [edge.client()?, edge.second_client()?];
    let alone = passed(&mut clients, "local")?;
    let refused = clients[0].get("limited.example", "/", &[])?.must(429)?;
    let retry = refused.header("retry-after").unwrap_or_default().to_owned();
    edge.remove("limit")?;
    poll::until("the end of the limit", LIMIT, || {
        for client in &mut clients {
            client.get("limited.example", "/", &[])?.must(200)?;
        }
        Ok(())
    })?;
    ensure!(alone == [20, 20], "local: {alone:?} of 20 each pass");
    ensure!(!retry.is_empty(), "no Retry-After: {refused:?}");
    let [redis, _] = edge.lab.cache.ips();
    edge.limit("global", &format!(
        "global: {{requests: 20, per: 1h, redis: {{address: \"{redis}:6379\", timeout: 1s}}, whenUnavailable: closed}}"
    ))?;
    let shares = passed(&mut clients, "global")?;
    edge.remove("limit")?;
    // What redis counted and was late to say is refused, and not counted back.
    let together: usize = shares.iter().sum();
    ensure!((18..=20).contains(&together), "global: {shares:?} of 20");
    Ok(format!(
        "local: {} and {} of 20 each pass, then 429 (Retry-After {retry}); global, in redis: {} and {}, {together} of 20 for both processes together",
        alone[0], alone[1], shares[0], shares[1]
    ))
}

/// Asks two gateways in turns until both refuse: how many each let through under the policy that
/// marks answers so.
fn passed(clients: &mut [Client; 2], mark: &str) -> Result<[usize; 2]> {
    let deadline = Instant::now() + LIMIT;
    let mut passed = [0; 2];
    while Instant::now() < deadline {
        let mut refuse = 0;
        for (client, passed) in clients.iter_mut().zip(&mut passed) {
            let answer = client.get("limited.example", "/", &[])?;
            match answer.status {
                429 => refuse += 1,
                // Those before were not limited.
                _ => *passed += usize::from(answer.must(200)?.header("x-limit") == Some(mark)),
            }
        }
        if refuse == clients.len() {
            return Ok(passed);
        }
    }
    bail!("no {mark} limit within {LIMIT:?}: {passed:?} pass")
}

/// The file that makes one of the two servers fail.
pub(super) const BROKEN: &str = "broken";

impl Edge<'_> {
    fn break_one(&self) -> Result<()> {
        Ok(fs::write(self.flaky[1].root().join(BROKEN), "")?)
    }

    fn mend(&self) -> Result<()> {
        Ok(fs::remove_file(self.flaky[1].root().join(BROKEN))?)
    }

    /// Requests that the one which may fail has seen.
    fn at_broken(&self) -> usize {
        self.flaky[1].requests().len()
    }

    fn apply(&self, name: &str, yaml: &str) -> Result<()> {
        self.lab.cluster.apply(name, yaml)
    }

    /// Limits requests of one route, and marks answers to those that pass.
    fn limit(&self, mark: &str, limit: &str) -> Result<()> {
        let spec = format!(
            "rateLimit: {{{limit}}}\n  headers: {{response: {{set: [{{name: x-limit, value: {mark}}}]}}}}"
        );
        self.apply("limit", &policy("limit", "HTTPRoute", "limited", &spec))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.lab.cluster.unapply(name)
    }
}
