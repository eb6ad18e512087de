//! Cuts a file into YAML documents and parses each on its own, so that one that is broken takes
//! no other with it. JSON is read as the YAML it is.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{Options, Spanned};

use crate::source::shortened;

/// Documents of one file.
pub(super) const MAX_DOCUMENTS: usize = 10_000;
/// Nesting of collections in one document.
const MAX_DEPTH: usize = 64;
/// Scalars and collections of one document, aliases expanded.
const MAX_NODES: usize = 250_000;
/// Bytes of all scalars of one document, aliases expanded.
const MAX_SCALAR_BYTES: usize = 16 << 20;
/// Aliases of one document.
const MAX_ALIASES: usize = 1_000;

/// A part of a file between document markers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Document<'a> {
    pub(super) text: &'a str,
    /// Its first line in the file, from 1: the marker's, or that of a comment before it.
    pub(super) first_line: u64,
    /// The first line of the file that holds some of its content.
    pub(super) content_line: u64,
}

/// A document that is not YAML.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    /// Line of the file, from 1.
    pub(super) line: Option<u64>,
    pub(super) message: String,
}

/// Cuts at document markers. YAML allows `---` and `...` at the start of a line nowhere else, not
/// even inside a block scalar, so this needs no parser. Parts without content are left out.
pub(super) fn split(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let mut part = Part::at(0, 1);
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let number = index as u64 + 1;
        let starts = is_marker(line, "---");
        // Directives and comments before a marker belong to what follows it.
        if starts && (part.has_marker || part.content_line.is_some()) {
            documents.extend(part.cut(text, offset));
            part = Part::at(offset, number);
        }
        part.has_marker |= starts;
        offset += line.len();
        if is_marker(line, "...") {
            documents.extend(part.cut(text, offset));
            part = Part::at(offset, number + 1);
        } else if has_content(if starts { &line[3..] } else { line }) {
            part.content_line.get_or_insert(number);
        }
    }
    documents.extend(part.cut(text, offset));
    documents
}

struct Part {
    start: usize,
    first_line: u64,
    has_marker: bool,
    content_line: Option<u64>,
}

impl Part {
    fn at(start: usize, first_line: u64) -> Self {
        Self {
            start,
            first_line,
            has_marker: false,
            content_line: None,
        }
    }

    /// The document up to `end`, if there is anything in it.
    fn cut<'a>(&self, text: &'a str, end: usize) -> Option<Document<'a>> {
        Some(Document {
            text: &text[self.start..end],
            first_line: self.first_line,
            content_line: self.content_line?,
        })
    }
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Comments, directives and white space are no content.
fn has_content(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#') && !line.starts_with('%')
}

/// Parses one document.
pub(super) fn parse(document: Document<'_>) -> Result<Value, SyntaxError> {
    serde_saphyr::from_str_with_options(document.text, options()).map_err(|error| {
        let line = error.location().map(|location| location.line());
        SyntaxError {
            line: line
                .filter(|line| *line > 0)
                .map(|line| document.first_line + line - 1),
            message: shortened(&error.without_snippet().to_string()),
        }
    })
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
            max_total_scalar_bytes: MAX_SCALAR_BYTES,
            max_recorded_anchor_bytes: MAX_SCALAR_BYTES,
            max_aliases: MAX_ALIASES,
            max_anchors: MAX_ALIASES,
            max_documents: 1,
        },
        // A snippet would put parts of the file into the log, and the file may hold Secrets.
        with_snippet: false,
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_NODES,
        },
    }
}

/// The line of the field at `path` (`spec.rules[0].from`), or of the deepest part of it that
/// exists. Only errors ask for it, so it parses again rather than make every document pay.
pub(super) fn line_of(document: Document<'_>, path: &str) -> Option<u64> {
    let root: Spanned<Tree> = serde_saphyr::from_str_with_options(document.text, options()).ok()?;
    let mut node = &root;
    for step in steps(path) {
        let next = match (&node.value, step) {
            (Tree::Map(entries), Step::Key(key)) => {
                let entry = entries.iter().find(|(name, _)| name == key);
                entry.map(|(_, value)| value)
            }
            (Tree::List(items), Step::Index(index)) => items.get(index),
            _ => None,
        };
        match next {
            Some(next) => node = next,
            None => break,
        }
    }
    let line = node.referenced.line();
    (line > 0).then(|| document.first_line + line - 1)
}

#[derive(Debug, PartialEq)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

fn steps(path: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let mut pieces = part.split('[');
        if let Some(key) = pieces.next().filter(|key| !key.is_empty()) {
            steps.push(Step::Key(key));
        }
        let indexes = pieces.filter_map(|piece| piece.trim_end_matches(']').parse().ok());
        steps.extend(indexes.map(Step::Index));
    }
    steps
}

/// Any YAML value with the places of its parts.
enum Tree {
    Map(Vec<(String, Spanned<Self>)>),
    List(Vec<Spanned<Self>>),
    Scalar,
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Tree::Map(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }
}
