//! The bench of the gateway, made small: it has to work every day. How fast either router is on a
//! machine that does other things is not judged.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::Cluster;
use tests::l7::{Peer, Settings, measure};

use crate::{Case, shared};

pub(crate) const CASES: &[Case] = &[shared(
    "bench: the gateway beside another router, routes by the hundred, edits in time",
    short,
)];

fn short(cluster: &Cluster) -> Result<()> {
    let settings = Settings {
        peer: Peer::Nginx,
        workload: "c64".to_owned(),
        rounds: 1,
        slot: Duration::from_secs(1),
        routes: 100,
        edits: 5,
    };
    let figures = measure(cluster, &settings, |_| {})?;
    for cell in &figures.cells {
        ensure!(cell.ours(|slot| slot.rate) > 0.0, "{figures}");
    }
    let edits = figures.edits.as_ref().map(tests::l7::Edits::count);
    ensure!(edits == Some(5), "{figures}");
    ensure!(figures.of_1000_routes().is_some(), "{figures}");
    Ok(())
}
