//! Brings the demo's topology up and leaves it running, to look around in.

use std::path::PathBuf;
use std::thread;

use anyhow::{Result, bail};
use clap::Parser;
use tests::lab::{Lab, MESHED, write_json};
use tests::{ClusterSpec, Pod, run, stop};

const RUN: &str = "lab";

/// Two nodes, real pods, one mesh, left running until Ctrl-C.
#[derive(Parser)]
struct Arguments {
    /// Describe the running lab (namespaces, addresses, pids, sockets, files) in this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Leave it running after this program ends; `--down` removes it.
    #[arg(long)]
    detach: bool,
    /// Remove a running lab.
    #[arg(long)]
    down: bool,
    /// The network and the pods only, without Culvert.
    #[arg(long)]
    bare: bool,
    /// The control plane reads from an API server (the tests' fixture), not from a folder; it
    /// ends with this program.
    #[arg(long, conflicts_with = "detach")]
    kubernetes: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.down {
        return run::remove(RUN, false);
    }
    if run::is_running(RUN) {
        bail!("a lab is there already: remove it with `cargo xtask lab --down`");
    }
    stop::on_signal()?;
    let mut spec = ClusterSpec::new(RUN);
    spec.kubernetes = arguments.kubernetes;
    if arguments.bare {
        spec = spec.bare();
    }
    let lab = Lab::start(&spec)?;
    if let Some(path) = &arguments.json {
        write_json(path, &lab.describe())?;
    }
    explain(&lab, &arguments);
    if arguments.detach {
        if let Ok(control) = lab.cluster.control() {
            lab.cluster.run().own(control.pid()?)?;
        }
        // Destructors would remove what shall stay.
        std::mem::forget(lab);
        return Ok(());
    }
    loop {
        thread::park();
    }
}

fn explain(lab: &Lab, arguments: &Arguments) {
    println!("\nThe lab is up.\n");
    println!(
        "  {:<14}{:<10}{:<6}{:<16}address",
        "pod", "namespace", "node", "account"
    );
    for pod in lab.pods() {
        print_pod(pod);
    }
    let servers = lab.cluster.run().path(format!("resolv-{MESHED}.conf"));
    println!("\nEnter a pod (the node answers for names of services there):");
    println!(
        "  nsenter --net={} unshare --mount sh -c 'mount --bind {} /etc/resolv.conf; exec bash'",
        lab.client.path().display(),
        servers.display()
    );
    println!(
        "  there: curl http://web/    redis-cli -h cache ping    curl http://{}/",
        lab.outside_web.addresses().v4
    );
    println!("\nLook around:");
    for node in lab.cluster.nodes() {
        if let Some(agent) = node.agent_if_any() {
            println!(
                "  culvert status --admin-socket {}",
                agent.admin_socket().display()
            );
            println!("  tail -f {}", agent.log_path().display());
        }
    }
    if let Some(agent) = lab
        .cluster
        .nodes()
        .first()
        .and_then(|node| node.agent_if_any())
    {
        println!(
            "  culvert why demo/client {}:80 --admin-socket {}",
            lab.web_service.v4,
            agent.admin_socket().display()
        );
    }
    if let Some(folder) = lab.cluster.manifests().directory() {
        println!("  edit or add Kubernetes YAML in {}", folder.display());
    } else if let Ok(control) = lab.cluster.control() {
        println!(
            "  ip netns exec {} kubectl --kubeconfig {} get pods -A",
            control.place().name(),
            control.kubeconfig().display()
        );
    }
    let end = if arguments.detach {
        "`cargo xtask lab --down` removes everything."
    } else {
        "Ctrl-C removes everything."
    };
    println!("\n{end}");
}

fn print_pod(pod: &Pod) {
    let manifest = pod.manifest();
    println!(
        "  {:<14}{:<10}{:<6}{:<16}{}  {}",
        manifest.name,
        manifest.namespace,
        manifest.node,
        manifest.account,
        pod.addresses().v4,
        pod.addresses().v6
    );
}
