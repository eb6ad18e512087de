//! Policies of the gateway before connections and datagrams that nobody looks into.

use std::net::SocketAddr;

use agent_policy::http::Address;

use crate::access::connection;
use crate::refusal::Refusal;
use crate::worker::Worker;

/// Lets a client of `destination`, one of our own addresses, pass or refuses it. `name` is the one
/// that its TLS asks for; empty where there is none.
pub(super) fn admit(
    worker: &Worker,
    client: SocketAddr,
    destination: SocketAddr,
    name: &str,
) -> Result<(), Refusal> {
    let plan = worker.plan.load();
    let Some(guard) = plan.guards().of_gateway() else {
        return Ok(());
    };
    let address = Address {
        ip: client.ip(),
        vouched: !worker.is_meshed(client.ip()),
    };
    let sni = (!name.is_empty()).then_some(name);
    guard.judge_connection(&connection(None, address, destination, sni))
}
