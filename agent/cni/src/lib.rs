//! The chained CNI plugin of Culvert as a pure function: what the runtime gave in, what the
//! runtime gets back out, and one call to the node agent in between.
//!
//! CNI specification 0.3.1 to 1.1.0. The plugin makes no network of its own: it stands after one
//! that does, and passes that plugin's result through unchanged once the agent has captured the
//! pod. It fails closed: while the agent cannot be asked, a pod does not start - unless the agent's
//! list on disk says that its namespace has nothing to do with the mesh.

mod agent;
mod arguments;
mod config;
pub mod install;
mod meshed;
mod outcome;

use std::path::Path;

use agent_model::{CniReply, CniRequest, CniVerb, PodInfo};

pub use agent::{CallFailed, TIMEOUT, ask};
pub use arguments::{Arguments, Command};
pub use config::{Config, DEFAULT_SOCKET};
pub use meshed::{MESHED_FILE, Meshed, read_meshed, write_meshed};
pub use outcome::{Code, Failure, Outcome};

/// CNI versions this plugin speaks, oldest first.
pub const SUPPORTED_VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Longest network configuration that is read, in bytes.
pub const MAX_CONFIG: usize = 1 << 20;

/// What the plugin asks of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Whether anybody listens on the socket.
    Alive,
    /// A call about a pod.
    Pod(CniRequest),
}

/// Carries out one invocation.
///
/// `variable` reads the environment, `stdin` is the network configuration, `call` puts a question
/// to the agent behind the given socket path ([`ask`] outside tests), and `meshed` reads the
/// agent's list ([`read_meshed`] outside tests).
pub fn run(
    variable: impl Fn(&str) -> Option<String>,
    stdin: &[u8],
    call: impl FnMut(&str, &Question) -> Result<CniReply, CallFailed>,
    meshed: impl Fn(&Path) -> Meshed,
) -> Outcome {
    let version = config::version(stdin);
    let mut node = Node {
        call,
        meshed,
        note: None,
    };
    match answer(variable, stdin, &mut node) {
        Ok(answer) => Outcome::success(answer, node.note),
        Err(failure) => Outcome::failure(version.as_deref(), &failure),
    }
}

/// What the plugin finds on its node.
struct Node<Call, List> {
    call: Call,
    meshed: List,
    /// A line for the runtime's log.
    note: Option<String>,
}

impl<Call, List> Node<Call, List>
where
    Call: FnMut(&str, &Question) -> Result<CniReply, CallFailed>,
    List: Fn(&Path) -> Meshed,
{
    fn ask(&mut self, config: &Config, question: &Question) -> Result<CniReply, CallFailed> {
        (self.call)(&config.agent_socket, question)
    }

    /// Asks about a pod of a namespace that is perhaps in the mesh.
    fn expect_done(&mut self, config: &Config, verb: CniVerb, pod: PodInfo) -> Result<(), Failure> {
        let namespace = pod.namespace.clone();
        match self.ask(config, &question(verb, pod)) {
            Ok(CniReply { error: None }) => Ok(()),
            Ok(CniReply { error: Some(said) }) => Err(Failure::refused(said)),
            Err(failed @ CallFailed::Answer(_)) => Err(failed.into()),
            Err(failed) => self.without_agent(config, &namespace, failed),
        }
    }

    /// An agent that does not answer holds up the pods of namespaces in the mesh and no others.
    fn without_agent(
        &mut self,
        config: &Config,
        namespace: &str,
        failed: CallFailed,
    ) -> Result<(), Failure> {
        let Some(list) = &config.meshed_namespaces else {
            return Err(failed.into());
        };
        match (self.meshed)(Path::new(list)) {
            Meshed::Listed(meshed) if !meshed.contains(namespace) => {
                self.note = Some(format!(
                    "{failed}; namespace {namespace} is not in the mesh, so its pod starts without"
                ));
                Ok(())
            }
            Meshed::Listed(_) | Meshed::Absent => Err(failed.into()),
            Meshed::Unreadable(why) => Err(Failure::unlisted(&failed, list, &why)),
        }
    }
}

/// The text for standard output; some commands have none.
fn answer(
    variable: impl Fn(&str) -> Option<String>,
    stdin: &[u8],
    node: &mut Node<
        impl FnMut(&str, &Question) -> Result<CniReply, CallFailed>,
        impl Fn(&Path) -> Meshed,
    >,
) -> Result<Option<String>, Failure> {
    let command = Command::read(&variable)?;
    if command == Command::Version {
        return config::supported(stdin).map(Some);
    }
    let config = Config::parse(stdin)?;
    config.allow(command)?;
    if command == Command::Gc {
        // The agent's own list of pods is checked against the kernel all the time.
        return Ok(None);
    }
    if command == Command::Status {
        // A runtime that is told no starts no pod at all, the agent's own included.
        if config.meshed_namespaces.is_some() {
            return Ok(None);
        }
        let asked = node.ask(&config, &Question::Alive);
        return asked.map(|_| None).map_err(Failure::unavailable);
    }
    let arguments = Arguments::read(command, &variable)?;
    if command == Command::Del {
        return delete(&config, &arguments, node).map(|()| None);
    }
    let is_add = command == Command::Add;
    let result = is_add.then(|| config.previous_result()).transpose()?;
    if !is_left_out(&config, &arguments) {
        let verb = if is_add { CniVerb::Add } else { CniVerb::Check };
        let pod = arguments.pod(config.addresses()?);
        node.expect_done(&config, verb, pod)?;
    }
    Ok(result)
}

/// Removal is asked for whatever the configuration says now: the pod may have been enrolled under
/// an earlier one. An agent that is gone holds nothing, and forgets the pod when it comes back.
fn delete(
    config: &Config,
    arguments: &Arguments,
    node: &mut Node<
        impl FnMut(&str, &Question) -> Result<CniReply, CallFailed>,
        impl Fn(&Path) -> Meshed,
    >,
) -> Result<(), Failure> {
    // The runtime may call with half of what it had at ADD; the container id is enough.
    let pod = arguments.pod(config.addresses().unwrap_or_default());
    match node.ask(config, &question(CniVerb::Del, pod)) {
        Ok(CniReply { error: Some(said) }) => Err(Failure::refused(said)),
        Ok(CniReply { error: None }) | Err(_) => Ok(()),
    }
}

/// Whether the node's administrator keeps this pod out of the mesh.
fn is_left_out(config: &Config, arguments: &Arguments) -> bool {
    arguments.mesh_disabled || config.exclude_namespaces.contains(&arguments.namespace)
}

fn question(verb: CniVerb, pod: PodInfo) -> Question {
    Question::Pod(CniRequest { verb, pod })
}

#[cfg(test)]
mod tests;
