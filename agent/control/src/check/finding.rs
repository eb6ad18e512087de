//! What a check says, for whoever asked.

use std::fmt;

use serde::Serialize;

use crate::code::{Code, Severity};
use crate::source::{Effect, ObjectRef, Problem};
use crate::translate::Note;

/// Findings that are listed; the rest is counted.
const MAX_LISTED: usize = 10_000;

/// What was found, the worst first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// The findings.
    pub findings: Vec<Finding>,
    /// How many more there are.
    #[serde(rename = "leftOut")]
    pub left_out: usize,
    /// Objects that were looked at.
    pub objects: usize,
}

impl Findings {
    pub(super) fn new(mut findings: Vec<Finding>, objects: usize) -> Self {
        findings.sort_by(|one, other| other.severity.cmp(&one.severity).then(one.cmp(other)));
        findings.dedup();
        let left_out = findings.len().saturating_sub(MAX_LISTED);
        findings.truncate(MAX_LISTED);
        Self {
            findings,
            left_out,
            objects,
        }
    }

    /// How many of a severity are listed.
    pub fn count(&self, severity: Severity) -> usize {
        let findings = self.findings.iter();
        findings
            .filter(|finding| finding.severity == severity)
            .count()
    }
}

/// Something that an author should know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// Where it stands, when it is of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// The object, where it could be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<Object>,
    /// Path of the field, such as `spec.rules[0]`; empty for the object as a whole.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// What it is.
    pub code: Code,
    /// In words.
    pub message: String,
}

/// An object, as people call it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Object {
    /// Such as `AuthorizationPolicy`.
    pub kind: String,
    /// Empty for kinds without one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

impl From<&ObjectRef> for Object {
    fn from(object: &ObjectRef) -> Self {
        Self {
            kind: format!("{:?}", object.kind),
            namespace: object.namespace.to_string(),
            name: object.name.to_string(),
        }
    }
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// As it was given.
    pub file: String,
    /// From 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
}

/// A finding of a rule, about an object that is read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Found {
    pub(crate) object: ObjectRef,
    pub(crate) code: Code,
    pub(crate) field: String,
    pub(crate) message: String,
}

impl Found {
    pub(crate) fn new(object: ObjectRef, code: Code, message: impl Into<String>) -> Self {
        Self {
            object,
            code,
            field: String::new(),
            message: message.into(),
        }
    }

    pub(super) fn at(self, field: String) -> Self {
        Self { field, ..self }
    }

    pub(super) fn shown(&self, place: Option<Place>) -> Finding {
        Finding {
            severity: self.code.severity(),
            place,
            object: Some(Object::from(&self.object)),
            field: self.field.clone(),
            code: self.code,
            message: self.message.clone(),
        }
    }
}

impl From<&Note> for Found {
    fn from(note: &Note) -> Self {
        Self::new(note.object.clone(), note.code, note.message.clone())
    }
}

impl From<&Problem> for Finding {
    fn from(problem: &Problem) -> Self {
        let place = (!problem.file.is_empty()).then(|| Place {
            file: problem.file.clone(),
            line: problem.line,
        });
        let kept = match problem.effect {
            Effect::LastGoodKept => " (the last good version is in force)",
            Effect::NotApplied => "",
        };
        Self {
            severity: Code::Invalid.severity(),
            place,
            object: problem.object.as_ref().map(Object::from),
            field: problem.field.clone(),
            code: Code::Invalid,
            message: format!("{}{kept}", problem.message),
        }
    }
}
