//! Manifests good and bad, and a control plane that is gone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::manifests::authorization_policy;
use tests::server::{Behaviour, Server};
use tests::traffic::{echo_on, must_refuse, must_serve};
use tests::{Cluster, PodSpec};

use crate::scene::{MESHED, PORT, Scene};
use crate::{Case, shared};

pub(crate) const CASES: &[Case] = &[
    shared(
        "control: F-97 bad manifests are named, the last good stays",
        bad_manifests,
    ),
    shared("control: gone for a whole test, traffic continues", gone),
    shared("control: restarted, it goes on where it was", restarted),
];

const LIMIT: Duration = Duration::from_secs(15);

/// A good DENY is in force; every bad edit of its file leaves it in force, is reported with file
/// and field, and harms no other object.
fn bad_manifests(cluster: &Cluster) -> Result<()> {
    let scene = Scene::permissive(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let good = authorization_policy(MESHED, "keep", "DENY", Some("server"), DENY_CLIENT);
    cluster.apply("edited", &good)?;
    let holds = |what: &str| -> Result<()> {
        for to in scene.server.sockets(PORT) {
            must_refuse(&scene.client, to).with_context(|| format!("{what}: last good"))?;
            must_serve(&scene.outsider, to).with_context(|| format!("{what}: others"))?;
        }
        Ok(())
    };
    holds("before")?;
    let control = cluster.control()?;
    for (what, text, named) in bad_edits(&good) {
        let skip = control.log().len();
        cluster.manifests().write("edited", &text)?;
        let parts: Vec<&str> = std::iter::once("edited.yaml")
            .chain(named.iter().copied())
            .collect();
        control
            .wait_log(skip, &parts, LIMIT)
            .with_context(|| what)?;
        // An object in another file still gets through: settle() waits for one.
        cluster.settle().with_context(|| what)?;
        holds(what)?;
        cluster.apply("edited", &good)?;
    }
    // A second object of the same name elsewhere: the first stays, both files are named.
    let skip = control.log().len();
    let other = authorization_policy(MESHED, "keep", "ALLOW", Some("server"), "[{}]");
    cluster.apply("twin", &other)?;
    control
        .wait_log(skip, &["edited.yaml", "twin.yaml"], LIMIT)
        .context("a duplicate")?;
    holds("a duplicate")?;
    // Repaired, it works again.
    cluster.unapply("twin")?;
    cluster.unapply("edited")?;
    for to in scene.server.sockets(PORT) {
        must_serve(&scene.client, to).context("after the policy was removed")?;
    }
    Ok(())
}

const DENY_CLIENT: &str = "[{from: [{source: {principals: [cluster.local/ns/app/sa/client]}}]}]";

/// What is wrong, the text, and what the message must name besides the file.
fn bad_edits(good: &str) -> Vec<(&'static str, String, &'static [&'static str])> {
    let huge = format!("{good}# {}\n", "x".repeat(5 << 20));
    let deep = format!("{}{}", good.replace(DENY_CLIENT, ""), "[".repeat(100_000));
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n\
                c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n\
                e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
    vec![
        ("not YAML", good.replace("spec:", "spec: {["), &[]),
        ("a tab", good.replace("  action", "\taction"), &[]),
        (
            "an unknown action",
            good.replace("DENY", "FORBID"),
            &["action"],
        ),
        (
            "an unknown field",
            good.replace("principals", "principles"),
            &["principles"],
        ),
        (
            "a duplicate key",
            good.replace("  action: DENY", "  action: DENY\n  action: ALLOW"),
            &[],
        ),
        (
            "a bad port",
            good.replace(DENY_CLIENT, "[{to: [{operation: {ports: [\"http\"]}}]}]"),
            &["ports"],
        ),
        (
            "a bad block",
            good.replace(
                DENY_CLIENT,
                "[{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]",
            ),
            &["ipBlocks"],
        ),
        ("too large a file", huge, &[]),
        ("too deep", deep, &[]),
        ("an anchor bomb", bomb.to_owned(), &[]),
    ]
}

fn gone(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let mut old = Vec::new();
    for to in scene.server.sockets(PORT) {
        let mut stream = scene.client.connect(to, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        echo_on(&mut stream, b"before")?;
        old.push(stream);
    }
    cluster.control()?.kill9()?;
    for round in 0..10 {
        for stream in &mut old {
            echo_on(stream, b"during").with_context(|| format!("round {round}"))?;
        }
        for to in scene.server.sockets(PORT) {
            must_serve(&scene.client, to).with_context(|| format!("round {round}"))?;
            must_refuse(&scene.outsider, to).context("STRICT without a control plane")?;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let status = cluster.node(1)?.agent()?.status()?;
    ensure!(
        status["controlPlane"]["connected"] == false,
        "status has not noticed: {status}"
    );
    cluster.control()?.start()?;
    cluster
        .settle()
        .context("agents come back to a control plane that is back")
}

fn restarted(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let root = std::fs::read(cluster.control()?.root_cert())?;
    cluster.control()?.stop()?;
    // What changes while it is gone is what it starts from.
    let deny = authorization_policy(MESHED, "new", "DENY", Some("server"), DENY_CLIENT);
    cluster.manifests().write("new", &deny)?;
    cluster.control()?.start()?;
    cluster.settle()?;
    ensure!(
        std::fs::read(cluster.control()?.root_cert())? == root,
        "the root changed"
    );
    for to in scene.server.sockets(PORT) {
        must_refuse(&scene.client, to).context("a policy written while it was gone")?;
    }
    cluster.unapply("new")?;
    // New certificates come from the same root.
    let late = cluster.pod(&PodSpec::new(MESHED, "late"))?;
    for to in scene.server.sockets(PORT) {
        must_serve(&late, to)?;
    }
    Ok(())
}
