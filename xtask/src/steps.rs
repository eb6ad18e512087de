//! Visible progress: one line when a step begins, one when it ends, and a time table at the end.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;

/// The steps of one command.
pub(crate) struct Steps {
    began: Instant,
    done: Vec<(String, Duration, bool)>,
}

impl Steps {
    /// No steps yet.
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            done: Vec::new(),
        }
    }

    /// Runs one step under a one-line title and records how long it took.
    pub(crate) fn step<T>(&mut self, title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("==> {title}");
        let began = Instant::now();
        let outcome = work();
        let took = began.elapsed();
        let word = if outcome.is_ok() { "done" } else { "FAILED" };
        println!("    {word} in {}  {title}", seconds(took));
        self.done.push((title.to_owned(), took, outcome.is_ok()));
        outcome
    }

    /// Prints every step with its time, and the whole.
    pub(crate) fn print_table(&self) {
        print!("\n{}", table(&self.done, self.began.elapsed()));
    }
}

fn table(done: &[(String, Duration, bool)], whole: Duration) -> String {
    let mut text = String::new();
    for (title, took, good) in done {
        let mark = if *good { ' ' } else { '!' };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:>9} {mark} {title}", seconds(*took));
    }
    let _ = writeln!(text, "{:>9}   in all", seconds(whole));
    text
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_is_recorded_and_marked() {
        let mut steps = Steps::new();
        steps.step("one", || Ok(())).unwrap();
        let failed: Result<()> = steps.step("two", || anyhow::bail!("no"));
        assert!(failed.is_err());
        let text = table(&steps.done, Duration::from_secs(3));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("  one"), "{text}");
        assert!(lines[1].ends_with("! two"), "{text}");
        assert_eq!(lines[2].trim(), "3.0 s   in all");
    }
}
