//! Whom a bearer token belongs to: a file with one `TOKEN NODE`, or `TOKEN NAMESPACE/NAME` for a
//! gateway, a line.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_model::gateway::GatewayKey;
use agent_xds::{Authenticate, Client, NotAdmitted};
use tracing::{error, info, warn};

/// The file is looked at no more often than this.
const CHECK_EVERY: Duration = Duration::from_millis(250);
/// Largest file, in bytes.
const MAX_FILE: u64 = 4 << 20;
/// Longest token, in bytes; a JWT fits.
const MAX_TOKEN: usize = 8 * 1024;

/// The tokens, re-read when the file changes. A file that cannot be read leaves the last good
/// tokens in force.
pub(crate) struct NodeTokens {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    table: TokenTable,
    fingerprint: Option<Fingerprint>,
    checked: Option<Instant>,
    problem: Option<String>,
}

/// The good lines of a node token file. Shows no token, not even for debugging.
#[derive(Default)]
pub struct TokenTable {
    tokens: Vec<(Token, Client)>,
    problem: Option<String>,
}

/// Device and inode, length, change time: any rewrite shows.
type Fingerprint = (u64, u64, u64, i64, i64);

/// A secret: compared in constant time, never shown.
struct Token(Box<[u8]>);

impl Token {
    /// Takes the same time for every `other` of the same length.
    fn is(&self, other: &[u8]) -> bool {
        if self.0.len() != other.len() {
            return false;
        }
        let pairs = self.0.iter().zip(other);
        let difference = pairs.fold(0, |difference, (a, b)| difference | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

impl NodeTokens {
    /// Reads the file for the first time; it must be readable.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let tokens = Self {
            path: path.to_owned(),
            state: Mutex::default(),
        };
        let mut state = State::default();
        state.read(path)?;
        warn_if_public(path);
        *tokens.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(tokens)
    }

    /// What is wrong with the file, if anything.
    pub(crate) fn problem(&self) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.problem.clone()
    }

    /// Whose a token is at a time.
    fn client_at(&self, token: &str, now: Instant) -> Option<Client> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.refresh(&self.path, now);
        state.table.client(token).cloned()
    }
}

impl Authenticate for NodeTokens {
    async fn client(&self, token: &str) -> Result<Client, NotAdmitted> {
        let client = self.client_at(token, Instant::now());
        client.ok_or(NotAdmitted::Invalid)
    }
}

impl fmt::Debug for NodeTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeTokens")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl State {
    /// Re-reads a file that changed. It is small and local, so this blocks for microseconds.
    fn refresh(&mut self, path: &Path, now: Instant) {
        let is_recent = self
            .checked
            .is_some_and(|checked| now.duration_since(checked) < CHECK_EVERY);
        if is_recent {
            return;
        }
        self.checked = Some(now);
        if let Err(error) = self.read(path) {
            let problem = format!("{error}; the tokens read before stay in force");
            if self.problem.as_ref() != Some(&problem) {
                error!(target: "status", file = %path.display(), "{problem}");
                self.problem = Some(problem);
            }
        }
    }

    fn read(&mut self, path: &Path) -> io::Result<()> {
        let fingerprint = fingerprint(&fs::metadata(path)?);
        if self.fingerprint == Some(fingerprint) {
            return Ok(());
        }
        let mut text = String::new();
        File::open(path)?
            .take(MAX_FILE + 1)
            .read_to_string(&mut text)?;
        if text.len() as u64 > MAX_FILE {
            return Err(io::Error::other("the node token file is too large"));
        }
        let table = TokenTable::parse(&text);
        if let Some(problem) = table.problem() {
            error!(target: "status", file = %path.display(), "{problem}");
        }
        info!(nodes = table.tokens.len(), "node tokens read");
        self.problem = table.problem().map(str::to_owned);
        self.table = table;
        self.fingerprint = Some(fingerprint);
        Ok(())
    }
}

fn fingerprint(metadata: &fs::Metadata) -> Fingerprint {
    (
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    )
}

impl TokenTable {
    /// Reads one `TOKEN NODE` or `TOKEN NAMESPACE/NAME` a line; empty lines and those that begin
    /// with `#` are passed over. A token given to two belongs to the first.
    pub fn parse(text: &str) -> Self {
        let mut table = Self::default();
        let mut known = BTreeSet::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_whitespace();
            let pair = (words.next(), words.next().and_then(named), words.next());
            let message = match pair {
                (Some(token), Some(client), None) if token.len() <= MAX_TOKEN => {
                    if known.insert(token) {
                        let token = Token(token.as_bytes().into());
                        table.tokens.push((token, client));
                        continue;
                    }
                    "the token was given before"
                }
                _ => "not `TOKEN NODE`, and for a gateway not `TOKEN NAMESPACE/NAME`",
            };
            // Never the line itself: it holds a secret.
            table.problem.get_or_insert_with(|| {
                format!(
                    "node token file, line {}: {message}; the line is skipped",
                    index + 1
                )
            });
        }
        table
    }

    /// Whom a token belongs to. Looks at every line, so that the time taken does not tell which
    /// one matched.
    pub fn client(&self, token: &str) -> Option<&Client> {
        let mut found = None;
        for (known, client) in &self.tokens {
            if known.is(token.as_bytes()) {
                found = Some(client);
            }
        }
        found
    }

    /// The first line that is skipped and why, without its words.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }
}

impl fmt::Debug for TokenTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenTable")
            .field("tokens", &self.tokens.len())
            .field("problem", &self.problem)
            .finish()
    }
}

/// A node by its name, or a gateway by its namespace and name.
fn named(word: &str) -> Option<Client> {
    match word.split_once('/') {
        None => is_name(word).then(|| Client::Node(word.into())),
        Some((namespace, name)) => (is_name(namespace) && is_name(name))
            .then(|| Client::Gateway(GatewayKey::new(namespace, name), None)),
    }
}

fn is_name(word: &str) -> bool {
    let valid =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    (1..=253).contains(&word.len()) && word.bytes().all(valid)
}

fn warn_if_public(path: &Path) {
    if fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o077 != 0) {
        warn!(file = %path.display(), "node tokens are readable by others; make it mode 0600");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(text: &str, token: &str) -> Option<String> {
        TokenTable::parse(text)
            .client(token)
            .map(ToString::to_string)
    }

    #[test]
    fn tokens_name_their_node() {
        let text = "# nodes\nsecret-a node-a\n\n  secret-b\tnode-b  \r\n";
        assert_eq!(lookup(text, "secret-a").as_deref(), Some("node-a"));
        assert_eq!(lookup(text, "secret-b").as_deref(), Some("node-b"));
        for other in ["", "secret-", "secret-aa", "secret-A", "node-a", "# nodes"] {
            assert_eq!(lookup(text, other), None, "{other:?}");
        }
    }

    fn node(name: &str) -> Option<Client> {
        Some(Client::Node(name.into()))
    }

    #[test]
    fn gateways_are_named_with_their_namespace() {
        let text = "a shop/edge\nb node-b\nc /edge\nd shop/\ne a/b/c\n";
        assert_eq!(lookup(text, "a").as_deref(), Some("gateway shop/edge"));
        assert_eq!(lookup(text, "b").as_deref(), Some("node-b"));
        for bad in ["c", "d", "e"] {
            assert_eq!(lookup(text, bad), None, "{bad}");
        }
    }

    #[test]
    fn a_token_belongs_to_the_first_node_that_has_it() {
        assert_eq!(lookup("a n1\nb n2\na n3\n", "a").as_deref(), Some("n1"));
    }

    #[test]
    fn bad_lines_are_named_without_their_secret() {
        let table = TokenTable::parse("good node-a\nhush node b\nlonely\ngood node-c\n");
        assert_eq!(table.tokens.len(), 1);
        let problem = table.problem().unwrap();
        assert!(problem.contains("line 2"), "{problem}");
        assert!(!problem.contains("hush"), "{problem}");
    }

    #[test]
    fn changes_of_the_file_count_and_its_loss_does_not() {
        let path = std::env::temp_dir().join(format!("culvert-tokens-{}", std::process::id()));
        fs::write(&path, "one node-a\n").unwrap();
        let tokens = NodeTokens::open(&path).unwrap();
        let start = Instant::now();
        assert_eq!(tokens.client_at("one", start), node("node-a"));
        let other = path.with_extension("new");
        fs::write(&other, "two node-b\n").unwrap();
        fs::rename(&other, &path).unwrap();
        let later = start + CHECK_EVERY * 2;
        assert_eq!(tokens.client_at("one", later), None);
        assert_eq!(tokens.client_at("two", later), node("node-b"));
        fs::remove_file(&path).unwrap();
        let last = later + CHECK_EVERY * 2;
        assert_eq!(tokens.client_at("two", last), node("node-b"));
        assert!(tokens.problem().is_some());
    }
}
