//! `fuzz [--seconds N] [--seed N] [TARGET ...]`: runs targets with ever new inputs, each for N
//! seconds (10). An input that fails is added to the corpus, where the tests find it from then on.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tests_fuzz::mutate::{Random, mutation};
use tests_fuzz::{TARGETS, Target};

/// No input may take longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Failing inputs of one target after which it is given up.
const ENOUGH: usize = 5;

struct Request {
    seconds: u64,
    seed: u64,
    targets: Vec<&'static Target>,
}

fn main() -> ExitCode {
    let request = match parse(std::env::args().skip(1)) {
        Ok(request) => request,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let mut failed = 0;
    for target in &request.targets {
        match fuzz(target, &request) {
            Ok(0) => {}
            Ok(_) => failed += 1,
            Err(error) => {
                eprintln!("{}: {error}", target.name);
                failed += 1;
            }
        }
    }
    let passed = request.targets.len() - failed;
    println!("{passed} passed, {failed} failed");
    ExitCode::from(u8::from(failed > 0))
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Request, String> {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut request = Request {
        seconds: 10,
        seed: since_1970.map_or(1, |since| since.as_nanos() as u64),
        targets: Vec::new(),
    };
    while let Some(word) = words.next() {
        let mut number = |name| {
            let value = words.next().and_then(|value| value.parse().ok());
            value.ok_or_else(|| format!("{name} needs a number"))
        };
        match word.as_str() {
            "--seconds" => request.seconds = number("--seconds")?,
            "--seed" => request.seed = number("--seed")?,
            name => {
                let found = TARGETS.iter().find(|target| target.name == name);
                request.targets.push(found.ok_or_else(|| {
                    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
                    format!("no target {name}; there are {}", names.join(", "))
                })?);
            }
        }
    }
    if request.targets.is_empty() {
        request.targets = TARGETS.iter().collect();
    }
    Ok(request)
}

/// Number of inputs that failed.
fn fuzz(target: &'static Target, request: &Request) -> io::Result<usize> {
    let seeds = target.seeds()?;
    let mut random = Random::new(request.seed);
    let record = Record::new(target)?;
    let start = Instant::now();
    let mut failures = 0;
    let mut inputs = seeds.clone().into_iter();
    let mut count = 0_u64;
    while start.elapsed() < Duration::from_secs(request.seconds) && failures < ENOUGH {
        let next = inputs.next();
        let input = next.unwrap_or_else(|| mutation(&seeds, target.words, &mut random));
        record.begin(&input)?;
        count += 1;
        if catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_err() {
            failures += 1;
            let kept = target.keep(&input)?;
            eprintln!("{}: failing input kept as {}", target.name, kept.display());
        }
        record.end();
    }
    record.remove()?;
    println!(
        "{:12} {count:9} inputs, {failures} failed, seed {}",
        target.name, request.seed
    );
    Ok(failures)
}

/// The input at work, in a file: a stack overflow or an endless loop leaves no other trace.
struct Record {
    path: PathBuf,
    file: File,
    /// Milliseconds after `zero` at which the input began; 0 when none is at work.
    began: Arc<AtomicU64>,
    zero: Instant,
}

impl Record {
    fn new(target: &'static Target) -> io::Result<Self> {
        let name = format!("culvert-fuzz-{}-{}", target.name, std::process::id());
        let path = std::env::temp_dir().join(name);
        let record = Self {
            file: File::create(&path)?,
            path,
            began: Arc::default(),
            zero: Instant::now(),
        };
        record.watch(target.name);
        Ok(record)
    }

    fn begin(&self, input: &[u8]) -> io::Result<()> {
        self.file.set_len(input.len() as u64)?;
        self.file.write_all_at(input, 0)?;
        self.began.store(self.now(), Ordering::Relaxed);
        Ok(())
    }

    fn end(&self) {
        self.began.store(0, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.zero.elapsed().as_millis() as u64 + 1
    }

    fn remove(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }

    /// Ends the program when one input takes too long. Ends itself with the target.
    fn watch(&self, target: &'static str) {
        let (began, zero) = (Arc::downgrade(&self.began), self.zero);
        let path = self.path.clone();
        std::thread::spawn(move || {
            while let Some(began) = began.upgrade() {
                let began = began.load(Ordering::Relaxed);
                let now = zero.elapsed().as_millis() as u64 + 1;
                if began > 0 && now.saturating_sub(began) > PATIENCE.as_millis() as u64 {
                    eprintln!(
                        "{target}: over {PATIENCE:?} for the input in {}",
                        path.display()
                    );
                    std::process::abort();
                }
                std::thread::sleep(Duration::from_millis(500));
            }
        });
    }
}
