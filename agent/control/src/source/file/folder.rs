//! What a folder of manifests says: the good documents of its files, with the last good version
//! of what is broken. Pure: file contents come in, events and problems come out.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tracing::info;

use super::document::{self, Document, MAX_DOCUMENTS, line_of, parse, split};
use crate::source::decode::{Decoded, FieldError, decode, reference};
use crate::source::{Batch, Effect, Event, Object, ObjectRef, Problem, shortened};

/// Largest file that is read, in bytes.
pub(super) const MAX_FILE: u64 = 4 << 20;
/// Objects of all files together.
const MAX_OBJECTS: usize = 200_000;
/// Problems that are reported; the rest is counted.
const MAX_PROBLEMS: usize = 1_000;

/// Errors of one file whose exact line is looked up.
const MAX_LINE_LOOKUPS: usize = 20;

/// Why a file could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable(pub(super) String);

/// The files of a folder, by path relative to it.
#[derive(Debug, Default)]
pub(super) struct Folder {
    files: BTreeMap<String, File>,
    /// What was reported as applied.
    effective: BTreeMap<ObjectRef, Object>,
    /// What was reported as wrong.
    problems: Vec<Problem>,
    /// A file was updated or removed since.
    is_touched: bool,
    /// Kinds that were already mentioned as not read.
    ignored: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct File {
    held: BTreeMap<ObjectRef, Held>,
    problems: Vec<Problem>,
}

#[derive(Debug, Clone)]
struct Held {
    object: Object,
    document: usize,
    line: u64,
}

impl Folder {
    /// Takes the new content of a file.
    pub(super) fn update(&mut self, path: &str, content: Result<&[u8], Unreadable>) {
        let last = self.files.remove(path).unwrap_or_default();
        let mut reading = Reading::new(path, last.held);
        match content.and_then(as_text) {
            Ok(text) => reading.read(text),
            Err(Unreadable(message)) => reading.broken_file(message),
        }
        for kind in std::mem::take(&mut reading.ignored) {
            if self.ignored.len() < MAX_PROBLEMS && self.ignored.insert(kind.clone()) {
                info!(target: "source", file = path, kind, "kind is not read by Culvert; ignored");
            }
        }
        self.files.insert(path.to_owned(), reading.finish());
        self.is_touched = true;
    }

    /// Forgets a file that is gone, with everything it held.
    pub(super) fn remove(&mut self, path: &str) {
        self.is_touched = true;
        self.files.remove(path);
    }

    /// Paths of the files known.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// File and line of an object; where several files have it, of the one that counts.
    pub(super) fn place(&self, object: &ObjectRef) -> Option<(&str, u64)> {
        let mut files = self.files.iter();
        files.find_map(|(path, file)| Some((path.as_str(), file.held.get(object)?.line)))
    }

    /// What changed since the last call, and everything that is wrong now.
    pub(super) fn settle(&mut self) -> Batch {
        let events = if std::mem::take(&mut self.is_touched) {
            self.take_over()
        } else {
            Vec::new()
        };
        Batch {
            events,
            problems: self.problems.clone(),
        }
    }

    fn take_over(&mut self) -> Vec<Event> {
        let mut problems = Vec::new();
        let mut owners: BTreeMap<&ObjectRef, (&str, &Held)> = BTreeMap::new();
        for (path, file) in &self.files {
            problems.extend(file.problems.iter().cloned());
            for (reference, held) in &file.held {
                if let Some((first, first_held)) = owners.get(reference) {
                    problems.push(duplicate(path, reference, held, (first, first_held)));
                } else if owners.len() >= MAX_OBJECTS {
                    problems.push(over_limit(path, reference, held));
                } else {
                    owners.insert(reference, (path, held));
                }
            }
        }
        let effective: BTreeMap<ObjectRef, Object> = owners
            .into_iter()
            .map(|(reference, (_, held))| (reference.clone(), held.object.clone()))
            .collect();
        let events = difference(&self.effective, &effective);
        self.effective = effective;
        self.problems = bounded(problems);
        events
    }
}

fn as_text(bytes: &[u8]) -> Result<&str, Unreadable> {
    if bytes.len() as u64 > MAX_FILE {
        return Err(too_large());
    }
    std::str::from_utf8(bytes)
        .map_err(|error| Unreadable(format!("not UTF-8 (byte {})", error.valid_up_to())))
}

/// The error of a file over [`MAX_FILE`].
pub(super) fn too_large() -> Unreadable {
    Unreadable(format!("larger than {} MiB", MAX_FILE >> 20))
}

fn duplicate(path: &str, reference: &ObjectRef, held: &Held, first: (&str, &Held)) -> Problem {
    let (first_path, first) = first;
    Problem {
        file: path.to_owned(),
        document: held.document,
        line: Some(held.line),
        object: Some(reference.clone()),
        field: String::new(),
        message: format!("already given in {first_path}:{}, which stays", first.line),
        effect: Effect::NotApplied,
    }
}

fn over_limit(path: &str, reference: &ObjectRef, held: &Held) -> Problem {
    Problem {
        file: path.to_owned(),
        document: held.document,
        line: Some(held.line),
        object: Some(reference.clone()),
        field: String::new(),
        message: format!("more than {MAX_OBJECTS} objects"),
        effect: Effect::NotApplied,
    }
}

fn bounded(mut problems: Vec<Problem>) -> Vec<Problem> {
    if problems.len() > MAX_PROBLEMS {
        let left_off = problems.len() - MAX_PROBLEMS;
        problems.truncate(MAX_PROBLEMS);
        if let Some(last) = problems.last_mut() {
            last.message = format!("{} (and {left_off} more problems)", last.message);
        }
    }
    problems
}

fn difference(old: &BTreeMap<ObjectRef, Object>, new: &BTreeMap<ObjectRef, Object>) -> Vec<Event> {
    let gone = old.keys().filter(|reference| !new.contains_key(reference));
    let deletes = gone.cloned().map(Event::Delete);
    let changed = new
        .iter()
        .filter(|(reference, object)| old.get(reference) != Some(object));
    let applies = changed.map(|(_, object)| Event::Apply(object.clone()));
    deletes.chain(applies).collect()
}

/// One pass over a file, with what it held before at hand.
struct Reading<'a> {
    path: &'a str,
    last: BTreeMap<ObjectRef, Held>,
    held: BTreeMap<ObjectRef, Held>,
    problems: Vec<Problem>,
    ignored: Vec<String>,
    /// Broken objects that can be named.
    keep: BTreeSet<ObjectRef>,
    /// Something was unreadable enough that its object cannot be told.
    keep_all: bool,
}

/// Where in the file an object stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    document: Document<'a>,
    /// From 1.
    number: usize,
    /// Index in a `List`.
    item: Option<usize>,
}

impl Place<'_> {
    fn path(&self, field: &str) -> String {
        match self.item {
            Some(index) if field.is_empty() => format!("items[{index}]"),
            Some(index) => format!("items[{index}].{field}"),
            None => field.to_owned(),
        }
    }
}

impl<'a> Reading<'a> {
    fn new(path: &'a str, last: BTreeMap<ObjectRef, Held>) -> Self {
        Self {
            path,
            last,
            held: BTreeMap::new(),
            problems: Vec::new(),
            ignored: Vec::new(),
            keep: BTreeSet::new(),
            keep_all: false,
        }
    }

    fn read(&mut self, text: &str) {
        let documents = split(text);
        if documents.len() > MAX_DOCUMENTS {
            self.broken_file(format!("more than {MAX_DOCUMENTS} documents"));
            return;
        }
        for (index, document) in documents.into_iter().enumerate() {
            let place = Place {
                document,
                number: index + 1,
                item: None,
            };
            match parse(document) {
                Ok(value) => self.read_value(place, value),
                Err(error) => self.broken_document(place, error),
            }
        }
    }

    /// One object, or a `List` of them as `kubectl get -o yaml` writes it.
    fn read_value(&mut self, place: Place<'_>, mut value: Value) {
        let is_list = value.get("apiVersion").and_then(Value::as_str) == Some("v1")
            && value.get("kind").and_then(Value::as_str) == Some("List");
        match value.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) if is_list => {
                for (index, item) in items.into_iter().enumerate() {
                    let item_place = Place {
                        item: Some(index),
                        ..place
                    };
                    self.read_object(item_place, item);
                }
            }
            _ if is_list => self.broken_object(
                place,
                None,
                FieldError::new("items", "missing, or not a list"),
            ),
            Some(items) => {
                // Not a List after all; put back what was taken.
                value["items"] = items;
                self.read_object(place, value);
            }
            None => self.read_object(place, value),
        }
    }

    fn read_object(&mut self, place: Place<'_>, value: Value) {
        let named = reference(&value);
        match decode(value) {
            Ok(Decoded::Object(object)) => self.hold(place, object),
            Ok(Decoded::Ignored(kind)) => self.ignored.push(kind),
            Err(error) => self.broken_object(place, named, error),
        }
    }

    fn hold(&mut self, place: Place<'_>, object: Object) {
        let reference = object.reference();
        let held = Held {
            object,
            document: place.number,
            line: place.document.content_line,
        };
        if let Some(first) = self.held.get(&reference) {
            let problem = duplicate(self.path, &reference, &held, (self.path, first));
            self.problems.push(problem);
        } else {
            self.held.insert(reference, held);
        }
    }

    fn broken_file(&mut self, message: String) {
        self.keep_all = true;
        self.problems.push(Problem {
            file: self.path.to_owned(),
            document: 0,
            line: None,
            object: None,
            field: String::new(),
            message,
            effect: self.effect_on(None),
        });
    }

    fn broken_document(&mut self, place: Place<'_>, error: document::SyntaxError) {
        self.keep_all = true;
        self.problems.push(Problem {
            file: self.path.to_owned(),
            document: place.number,
            line: error.line,
            object: None,
            field: String::new(),
            message: error.message,
            effect: self.effect_on(None),
        });
    }

    fn broken_object(&mut self, place: Place<'_>, named: Option<ObjectRef>, error: FieldError) {
        let effect = self.effect_on(named.as_ref());
        match &named {
            Some(reference) => {
                self.keep.insert(reference.clone());
            }
            None => self.keep_all = true,
        }
        let field = place.path(&error.path);
        // Finding a line parses the document again: not for each of ten thousand errors.
        let line = (self.problems.len() < MAX_LINE_LOOKUPS)
            .then(|| line_of(place.document, &field))
            .flatten();
        self.problems.push(Problem {
            file: self.path.to_owned(),
            document: place.number,
            line: line.or(Some(place.document.content_line)),
            object: named,
            field,
            message: shortened(&error.message),
            effect,
        });
    }

    fn effect_on(&self, named: Option<&ObjectRef>) -> Effect {
        let has_last = match named {
            Some(reference) => self.last.contains_key(reference),
            None => !self.last.is_empty(),
        };
        if has_last {
            Effect::LastGoodKept
        } else {
            Effect::NotApplied
        }
    }

    /// Puts the last good versions where the file has no good one now.
    fn finish(mut self) -> File {
        let keep = |reference: &ObjectRef| self.keep_all || self.keep.contains(reference);
        let kept: Vec<_> = self
            .last
            .into_iter()
            .filter(|(reference, _)| keep(reference))
            .collect();
        for (reference, held) in kept {
            self.held.entry(reference).or_insert(held);
        }
        File {
            held: self.held,
            problems: self.problems,
        }
    }
}
