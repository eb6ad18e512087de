//! What the runtime gets: standard output and an exit code.

use serde::Serialize;

use crate::{CallFailed, SUPPORTED_VERSIONS};

/// Error codes of the CNI specification (below 100) and of this plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// 1: the configuration's cniVersion is not one of [`SUPPORTED_VERSIONS`], or lacks the command.
    Version,
    /// 4: a CNI_ variable is missing or malformed.
    Variable,
    /// 6: standard input is not the JSON it should be.
    Decode,
    /// 7: the configuration is JSON and still wrong.
    Config,
    /// 11: the agent cannot be asked now; the runtime is to try again.
    TryAgain,
    /// 50: STATUS, new pods cannot be served.
    Unavailable,
    /// 100: the agent refused, and said why.
    Refused,
    /// 101: the agent's answer is not understood.
    Answer,
}

impl Code {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        match self {
            Self::Version => 1,
            Self::Variable => 4,
            Self::Decode => 6,
            Self::Config => 7,
            Self::TryAgain => 11,
            Self::Unavailable => 50,
            Self::Refused => 100,
            Self::Answer => 101,
        }
    }
}

/// An invocation that did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}: {details}")]
pub struct Failure {
    /// Which kind.
    pub code: Code,
    /// One short sentence, always the same for the same cause.
    pub message: String,
    /// What exactly, and what to do.
    pub details: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: &str, details: impl Into<String>) -> Self {
        Self {
            code,
            message: message.to_owned(),
            details: details.into(),
        }
    }

    pub(crate) fn refused(said: String) -> Self {
        Self::new(Code::Refused, "the culvert agent refused the pod", said)
    }

    /// Whether the pod's namespace is in the mesh cannot be known.
    pub(crate) fn unlisted(failed: &CallFailed, list: &str, why: &str) -> Self {
        Self::new(
            Code::TryAgain,
            "the culvert agent cannot be asked; try again later",
            format!("{failed}; nor can its list {list} be read: {why}"),
        )
    }

    pub(crate) fn unavailable(failed: CallFailed) -> Self {
        Self::new(
            Code::Unavailable,
            "the culvert agent does not answer",
            failed.to_string(),
        )
    }
}

impl From<CallFailed> for Failure {
    fn from(failed: CallFailed) -> Self {
        match failed {
            CallFailed::Answer(_) => Self::new(
                Code::Answer,
                "the culvert agent's answer is wrong",
                failed.to_string(),
            ),
            CallFailed::Connect(..) | CallFailed::Lost(_) | CallFailed::Timeout(_) => Self::new(
                Code::TryAgain,
                "the culvert agent cannot be asked; try again later",
                failed.to_string(),
            ),
        }
    }
}

/// What one invocation prints, and its exit code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Text for standard output; empty or one JSON document and a newline.
    pub stdout: String,
    /// A line for standard error, which runtimes log.
    pub note: Option<String>,
    /// 0 or 1.
    pub exit_code: u8,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorObject<'a> {
    cni_version: &'a str,
    code: u32,
    msg: &'a str,
    details: &'a str,
}

impl Outcome {
    pub(crate) fn success(answer: Option<String>, note: Option<String>) -> Self {
        let stdout = answer.map(|text| text + "\n").unwrap_or_default();
        Self {
            stdout,
            note,
            exit_code: 0,
        }
    }

    /// `version` is the configuration's own where it could be read: a runtime decodes an error by
    /// it. The newest stands in where it could not.
    pub(crate) fn failure(version: Option<&str>, failure: &Failure) -> Self {
        let known = version.filter(|version| SUPPORTED_VERSIONS.contains(version));
        let object = ErrorObject {
            cni_version: known.unwrap_or(SUPPORTED_VERSIONS[SUPPORTED_VERSIONS.len() - 1]),
            code: failure.code.number(),
            msg: &failure.message,
            details: &failure.details,
        };
        // Strings and a number always have a JSON form.
        let text = serde_json::to_string(&object).unwrap_or_default();
        Self {
            stdout: text + "\n",
            note: None,
            exit_code: 1,
        }
    }
}
