//! The measuring program of gateways, made small: what `cargo xtask bench --l7` does must work every
//! day. Figures of a second say nothing about speed; every answer counted in them was a 200.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::Cluster;
use tests::l7::{Cell, Figures, Peer, Settings, Slot, measure};

use crate::{Case, shared};

pub(crate) const CASES: &[Case] = &[shared(
    "gateway: the bench of HTTP, short, beside nginx: rates, times, edits, memory",
    short,
)];

const EDITS: usize = 5;

fn short(cluster: &Cluster) -> Result<()> {
    let settings = Settings {
        peer: Peer::Nginx,
        workload: "c64".to_owned(),
        rounds: 1,
        slot: Duration::from_secs(1),
        warm_up: Duration::ZERO,
        routes: 100,
        edits: EDITS,
    };
    let figures = measure(cluster, &settings, |step| println!("  {step}"))?;
    ensure!(figures.cells.len() == 8, "not every workload:\n{figures}");
    for cell in &figures.cells {
        sane(cell).with_context(|| format!("{}:\n{figures}", cell.workload.name))?;
    }
    edited(&figures).with_context(|| format!("edits:\n{figures}"))?;
    let more = figures.of_1000_routes().context("no memory of routes")?;
    ensure!(more.0.is_finite() && more.1.is_finite(), "{more:?}");
    let many = figures.many_to_one();
    let ratios = many.iter().all(|(_, ratio)| *ratio > 0.0);
    ensure!(!many.is_empty() && ratios, "many routes to one: {many:?}");
    let json = figures.json();
    let cells = json["cells"].as_array().map_or(0, Vec::len);
    ensure!(cells == figures.cells.len(), "{json}");
    Ok(())
}

/// nginx verifies no tokens: of those workloads there is ours alone.
fn sane(cell: &Cell) -> Result<()> {
    let [round] = cell.rounds[..] else {
        anyhow::bail!("{} rounds", cell.rounds.len());
    };
    plausible(&round.ours).context("culvert")?;
    let alone = cell.workload.name.contains("JWT");
    ensure!(round.peer.is_none() == alone, "{:?} of nginx", round.peer);
    if let Some(peer) = &round.peer {
        plausible(peer).context("nginx")?;
    }
    Ok(())
}

/// A request that took longer than its slot cannot have been in it.
fn plausible(slot: &Slot) -> Result<()> {
    let in_order = 0.0 < slot.p50 && slot.p50 <= slot.p99 && slot.p99 < 5e6;
    ensure!(slot.rate > 0.0 && in_order, "{slot:?}");
    Ok(())
}

fn edited(figures: &Figures) -> Result<()> {
    let edits = figures.edits.as_ref().context("not timed")?;
    ensure!(edits.count() == EDITS, "{} of {EDITS}", edits.count());
    let (half, most) = (edits.within(0.5), edits.within(0.99));
    ensure!(Duration::ZERO < half && half <= most, "{half:?}, {most:?}");
    Ok(())
}
