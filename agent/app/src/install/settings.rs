//! What an installation may choose: image, namespace, and `--set KEY=VALUE`.

use std::ffi::OsString;

use clap::{ArgAction, CommandFactory};
use serde_json::{Value, json};

use super::InstallError;
use crate::cli::{self, Arguments, InstallFlags, Verb};
use crate::config::{self, ConfigError};

/// The namespace the manifests are written for.
const NAMESPACE: &str = "culvert-system";
/// Longest name of a namespace (RFC 1123 label).
const MAX_NAMESPACE: usize = 63;

/// The roles, each with the kind and name of what runs it.
const ROLES: [(&str, &str, &str); 2] = [
    ("control", "Deployment", "culvert-control"),
    ("node", "DaemonSet", "culvert-node"),
];

/// Checked settings.
#[derive(Debug)]
pub(super) struct Settings {
    image: Option<String>,
    namespace: Option<String>,
    set: Vec<Setting>,
}

/// One `--set`.
#[derive(Debug)]
enum Setting {
    /// Copies of the control plane.
    Replicas(u32),
    /// Where a volume of the node agent is on the host.
    HostPath { volume: &'static str, path: String },
    /// A flag of a role.
    Flag {
        role: &'static str,
        flag: String,
        value: FlagValue,
    },
}

#[derive(Debug)]
enum FlagValue {
    Text(String),
    On,
    Off,
}

impl Settings {
    pub(super) fn new(flags: &InstallFlags) -> Result<Self, ConfigError> {
        let namespace = flags.namespace.clone();
        if let Some(name) = namespace.as_ref().filter(|name| !is_label(name)) {
            return Err(invalid("namespace", name, "not the name of a namespace"));
        }
        let image = flags.image.clone();
        let is_image = |image: &String| !image.is_empty() && !image.contains(char::is_whitespace);
        if let Some(image) = image.as_ref().filter(|image| !is_image(image)) {
            return Err(invalid("image", image, "not the name of an image"));
        }
        let mut set = Vec::new();
        for text in &flags.set {
            set.extend(parse(text)?);
        }
        Ok(Self {
            image,
            namespace,
            set,
        })
    }

    /// Applies them, then asks each role's own command line whether it would start.
    pub(super) fn apply(&self, objects: &mut [Value]) -> Result<(), InstallError> {
        for object in &mut *objects {
            if let Some(image) = &self.image {
                set_image(object, image);
            }
            for setting in &self.set {
                setting.apply(object);
            }
            if let Some(namespace) = &self.namespace {
                set_namespace(object, namespace);
            }
        }
        check_arguments(objects)
    }
}

/// One `--set`; a flag without a role is meant for every role that has it.
fn parse(text: &str) -> Result<Vec<Setting>, ConfigError> {
    let Some((key, value)) = text.split_once('=') else {
        return Err(invalid("set", text, "expected KEY=VALUE"));
    };
    let host_path = |volume| {
        if value.starts_with('/') {
            let path = value.to_owned();
            Ok(vec![Setting::HostPath { volume, path }])
        } else {
            Err(invalid(
                "set",
                text,
                "expected an absolute path of the host",
            ))
        }
    };
    match key {
        "control.replicas" => match value.parse() {
            Ok(replicas) if replicas > 0 => Ok(vec![Setting::Replicas(replicas)]),
            _ => Err(invalid("set", text, "expected a number above 0")),
        },
        "host.cni-bin-dir" => host_path("cni-bin"),
        "host.cni-conf-dir" => host_path("cni-conf"),
        _ => flags(text, key, value),
    }
}

fn flags(text: &str, key: &str, value: &str) -> Result<Vec<Setting>, ConfigError> {
    let (wanted, flag) = match key.split_once('.') {
        Some((role, flag)) => (Some(role), flag),
        None => (None, key),
    };
    let mut found = Vec::new();
    for (role, ..) in ROLES {
        if wanted.is_none_or(|wanted| wanted == role)
            && let Some(action) = action_of(role, flag)
        {
            let value = match (action, value) {
                (ArgAction::SetTrue, "true") => FlagValue::On,
                (ArgAction::SetTrue, "false") => FlagValue::Off,
                (ArgAction::SetTrue, _) => {
                    return Err(invalid("set", text, "expected true or false"));
                }
                _ => FlagValue::Text(value.to_owned()),
            };
            let flag = flag.to_owned();
            found.push(Setting::Flag { role, flag, value });
        }
    }
    if found.is_empty() {
        return Err(invalid(
            "set",
            text,
            "no such key; there are control.replicas, host.cni-bin-dir, host.cni-conf-dir, and the \
             flags of `culvert control` and `culvert node` as control.FLAG, node.FLAG or FLAG",
        ));
    }
    Ok(found)
}

/// How a role's flag takes its value, if the role has it as a setting.
fn action_of(role: &str, flag: &str) -> Option<ArgAction> {
    let command = Arguments::command();
    let role = command.find_subcommand(role)?;
    let mut flags = role.get_arguments();
    let found = flags.find(|known| known.get_long() == Some(flag) && known.get_env().is_some())?;
    Some(found.get_action().clone())
}

impl Setting {
    fn apply(&self, object: &mut Value) {
        match self {
            Self::Replicas(replicas) => {
                if runs(object) == Some("control") {
                    object["spec"]["replicas"] = json!(replicas);
                }
            }
            Self::HostPath { volume, path } => {
                let volumes = object.pointer_mut("/spec/template/spec/volumes");
                let mut volumes = volumes.and_then(Value::as_array_mut).into_iter().flatten();
                if let Some(found) = volumes.find(|known| known["name"] == *volume) {
                    found["hostPath"]["path"] = json!(path);
                }
            }
            Self::Flag { role, flag, value } => {
                if runs(object) == Some(role)
                    && let Some(arguments) = arguments_mut(object)
                {
                    set_flag(arguments, flag, value);
                }
            }
        }
    }
}

fn set_flag(arguments: &mut Vec<Value>, flag: &str, value: &FlagValue) {
    let bare = format!("--{flag}");
    let given = format!("--{flag}=");
    let is_it = |argument: &Value| {
        let text = argument.as_str().unwrap_or_default();
        text == bare || text.starts_with(&given)
    };
    let at = arguments.iter().position(is_it).unwrap_or(arguments.len());
    arguments.retain(|argument| !is_it(argument));
    match value {
        FlagValue::Text(value) => arguments.insert(at, json!(format!("{given}{value}"))),
        FlagValue::On => arguments.insert(at, json!(bare)),
        FlagValue::Off => {}
    }
}

/// The role an object runs.
fn runs(object: &Value) -> Option<&'static str> {
    let mut roles = ROLES.iter();
    let (role, ..) = roles
        .find(|(_, kind, name)| object["kind"] == *kind && object["metadata"]["name"] == *name)?;
    Some(role)
}

fn arguments_mut(object: &mut Value) -> Option<&mut Vec<Value>> {
    object
        .pointer_mut("/spec/template/spec/containers/0/args")?
        .as_array_mut()
}

fn set_image(object: &mut Value, image: &str) {
    if runs(object).is_some()
        && let Some(known) = object.pointer_mut("/spec/template/spec/containers/0/image")
    {
        *known = json!(image);
    }
}

/// Everywhere an object may name the namespace; arguments take it from the pod.
fn set_namespace(object: &mut Value, namespace: &str) {
    if object["kind"] == "Namespace" {
        rename(object.pointer_mut("/metadata/name"), namespace);
    }
    rename(object.pointer_mut("/metadata/namespace"), namespace);
    for list in ["subjects", "webhooks"] {
        for item in object[list].as_array_mut().into_iter().flatten() {
            rename(item.pointer_mut("/namespace"), namespace);
            rename(
                item.pointer_mut("/clientConfig/service/namespace"),
                namespace,
            );
        }
    }
}

fn rename(field: Option<&mut Value>, namespace: &str) {
    if let Some(field) = field
        && *field == NAMESPACE
    {
        *field = json!(namespace);
    }
}

/// Parses each role's arguments as the role will, with the values that the kubelet would fill in.
fn check_arguments(objects: &mut [Value]) -> Result<(), InstallError> {
    for object in objects {
        let Some(role) = runs(object) else { continue };
        let Some(arguments) = arguments_mut(object) else {
            continue;
        };
        let words = arguments.iter().filter_map(Value::as_str).map(filled_in);
        let command_line = std::iter::once("culvert".to_owned()).chain(words);
        would_start(command_line.map(OsString::from))
            .map_err(|problem| InstallError::Arguments { role, problem })?;
    }
    Ok(())
}

/// What the role itself does with its arguments before it does anything else.
fn would_start(command_line: impl Iterator<Item = OsString>) -> Result<(), String> {
    let arguments = cli::parse(command_line).map_err(|error| error.to_string())?;
    let checked = match arguments.verb {
        Verb::Control(flags) => config::control(*flags).map(drop),
        Verb::Node(flags) => config::node(*flags).map(drop),
        _ => return Err("not a role".to_owned()),
    };
    checked.map_err(|error| error.to_string())
}

/// `$(NAME)` as the kubelet fills it in, with something that could stand there.
fn filled_in(argument: &str) -> String {
    argument
        .replace("$(POD_NAMESPACE)", "a-namespace")
        .replace("$(NODE_NAME)", "a-node")
}

fn is_label(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty()
        && name.len() <= MAX_NAMESPACE
        && name.bytes().all(is_part)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn invalid(flag: &'static str, value: &str, problem: &'static str) -> ConfigError {
    ConfigError::Invalid {
        flag,
        value: value.to_owned(),
        problem,
    }
}
