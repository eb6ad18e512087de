//! Brings the demo's topology up and leaves it running, to look around in.

use std::path::PathBuf;
use std::thread;

use anyhow::{Result, bail};
use clap::Parser;
use serde_json::Value;
use tests::lab::{Door, Lab, MESHED, write_json};
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
    let door = match arguments.bare {
        true => None,
        false => Some(Door::open(&lab)?),
    };
    if let Some(path) = &arguments.json {
        let mut description = lab.describe();
        description["gateway"] = door.as_ref().map_or(Value::Null, Door::describe);
        write_json(path, &description)?;
    }
    explain(&lab, door.as_ref(), &arguments);
    if arguments.detach {
        if let Ok(control) = lab.cluster.control() {
            lab.cluster.run().own(control.pid()?)?;
        }
        // Destructors would remove what shall stay.
        std::mem::forget((door, lab));
        return Ok(());
    }
    loop {
        thread::park();
    }
}

fn explain(lab: &Lab, door: Option<&Door>, arguments: &Arguments) {
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
    if let Some(door) = door {
        explain_door(lab, door);
    }
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

fn explain_door(lab: &Lab, door: &Door) {
    println!("\nReach the gateway, a process of the lab, from a pod outside the mesh:");
    for url in door.urls() {
        println!(
            "  nsenter --net={} curl -gH 'Host: web.example' '{url}'    # web answers, in the mesh",
            lab.outsider.path().display()
        );
    }
    println!(
        "  culvert routes --admin-socket {}",
        door.admin_socket().display()
    );
    println!("  tail -f {}", door.log_path().display());
    if let Some(folder) = lab.cluster.manifests().directory() {
        let file = folder.join(Door::MANIFEST).with_extension("yaml");
        println!("  its Gateway and HTTPRoute, to edit: {}", file.display());
    }
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
