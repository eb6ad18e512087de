//! The chained CNI plugin of Culvert as a pure function: what the runtime gave in, what the
//! runtime gets back out, and one call to the node agent in between.
//!
//! CNI specification 0.3.1 to 1.1.0. The plugin makes no network of its own: it stands after one
//! that does, and passes that plugin's result through unchanged once the agent has captured the
//! pod. It fails closed: while the agent cannot be asked, a pod does not start.

mod agent;
mod arguments;
mod config;
mod outcome;

use agent_model::{CniReply, CniRequest, CniVerb, PodInfo};

pub use agent::{CallFailed, TIMEOUT, ask};
pub use arguments::{Arguments, Command};
pub use config::{Config, DEFAULT_SOCKET};
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
/// `variable` reads the environment, `stdin` is the network configuration, and `call` puts a
/// question to the agent behind the given socket path ([`ask`] outside tests).
pub fn run(
    variable: impl Fn(&str) -> Option<String>,
    stdin: &[u8],
    call: impl FnMut(&str, &Question) -> Result<CniReply, CallFailed>,
) -> Outcome {
    let version = config::version(stdin);
    let answer = answer(variable, stdin, call);
    match answer {
        Ok(answer) => Outcome::success(answer),
        Err(failure) => Outcome::failure(version.as_deref(), &failure),
    }
}

/// The text for standard output; some commands have none.
fn answer(
    variable: impl Fn(&str) -> Option<String>,
    stdin: &[u8],
    mut call: impl FnMut(&str, &Question) -> Result<CniReply, CallFailed>,
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
        let asked = call(&config.agent_socket, &Question::Alive);
        return asked.map(|_| None).map_err(Failure::unavailable);
    }
    let arguments = Arguments::read(command, &variable)?;
    match command {
        Command::Add => add(&config, &arguments, &mut call).map(Some),
        Command::Check => check(&config, &arguments, &mut call).map(|()| None),
        _ => delete(&config, &arguments, &mut call).map(|()| None),
    }
}

fn add(
    config: &Config,
    arguments: &Arguments,
    call: &mut impl FnMut(&str, &Question) -> Result<CniReply, CallFailed>,
) -> Result<String, Failure> {
    let result = config.previous_result()?;
    if !is_left_out(config, arguments) {
        let pod = arguments.pod(config.addresses()?);
        expect_done(call(&config.agent_socket, &question(CniVerb::Add, pod)))?;
    }
    Ok(result)
}

fn check(
    config: &Config,
    arguments: &Arguments,
    call: &mut impl FnMut(&str, &Question) -> Result<CniReply, CallFailed>,
) -> Result<(), Failure> {
    if is_left_out(config, arguments) {
        return Ok(());
    }
    let pod = arguments.pod(config.addresses()?);
    expect_done(call(&config.agent_socket, &question(CniVerb::Check, pod)))
}

/// Removal is asked for whatever the configuration says now: the pod may have been enrolled under
/// an earlier one. An agent that is gone holds nothing, and forgets the pod when it comes back.
fn delete(
    config: &Config,
    arguments: &Arguments,
    call: &mut impl FnMut(&str, &Question) -> Result<CniReply, CallFailed>,
) -> Result<(), Failure> {
    // The runtime may call with half of what it had at ADD; the container id is enough.
    let pod = arguments.pod(config.addresses().unwrap_or_default());
    match call(&config.agent_socket, &question(CniVerb::Del, pod)) {
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

fn expect_done(reply: Result<CniReply, CallFailed>) -> Result<(), Failure> {
    match reply {
        Ok(CniReply { error: None }) => Ok(()),
        Ok(CniReply { error: Some(said) }) => Err(Failure::refused(said)),
        Err(failed) => Err(Failure::from(failed)),
    }
}

#[cfg(test)]
mod tests;
