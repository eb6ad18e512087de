//! The task that keeps the keys fresh.

use std::sync::Arc;
use std::time::Instant;

use agent_net::drain::Watcher;
use agent_policy::jwt::{Arrival, FetchFault};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::Keys;
use super::fetch::{Limits, fetch};

type Fetched = (Arc<str>, Result<Vec<u8>, FetchFault>);

/// Fetches what is due until the drain begins. Belongs on the control runtime: requests only ever
/// read what was fetched.
pub async fn run(keys: Keys, limits: Limits, mut draining: Watcher) {
    let limits = Arc::new(limits);
    let mut under_way: JoinSet<Fetched> = JoinSet::new();
    loop {
        let now = Instant::now();
        let (due, next) = {
            let mut sets = keys.sets();
            (sets.due(now), sets.next_due())
        };
        keys.publish(now);
        for address in due {
            let limits = Arc::clone(&limits);
            under_way.spawn(async move {
                let fetched = fetch(&address, &limits).await;
                (address, fetched)
            });
        }
        // What is due and has to wait for its turn gets it when a fetch ends.
        let timer = next.filter(|next| *next > now);
        let timer = async {
            match timer {
                Some(next) => sleep_until(next.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = draining.signalled() => return,
            () = keys.shared.hurry.notified() => {}
            () = timer => {}
            Some(ended) = under_way.join_next() => match ended {
                Ok((address, fetched)) => take(&keys, &address, fetched),
                Err(error) => tracing::error!(%error, "a fetch of keys broke off"),
            },
        }
    }
}

fn take(keys: &Keys, address: &str, fetched: Result<Vec<u8>, FetchFault>) {
    let now = Instant::now();
    let answer = fetched.as_deref().map_err(Clone::clone);
    let arrival = keys.sets().arrived(address, answer, now, rand::random());
    match arrival {
        Arrival::Changed => tracing::info!(address, "keys for tokens are new"),
        Arrival::Failed(fault) => {
            tracing::warn!(address, %fault, "cannot fetch keys for tokens; the last ones count");
        }
        Arrival::Same | Arrival::Ignored => {}
    }
    keys.publish(now);
    keys.shared.answers.send_modify(|answers| *answers += 1);
}
