//! Reading an agent's metrics.

/// One scrape.
#[derive(Debug, Clone)]
pub struct Metrics {
    text: String,
}

impl Metrics {
    /// From the text of `/metrics`.
    pub fn new(text: String) -> Self {
        Self { text }
    }

    /// The sum of every series of this name whose line contains each of `labels`
    /// (`reason="policy-denied"`).
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.series(name)
            .filter(|(series, _)| labels.iter().all(|label| series.contains(label)))
            .map(|(_, value)| value)
            .sum()
    }

    /// How many series of this name there are.
    pub fn count(&self, name: &str) -> usize {
        self.series(name).count()
    }

    /// The text as scraped.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn series<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.text.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            if !rest.starts_with(['{', ' ']) {
                return None;
            }
            let (series, value) = line.rsplit_once(' ')?;
            Some((series, value.parse().ok()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_exact_name_and_labels() {
        let metrics = Metrics::new(
            "# TYPE a counter\na_total{x=\"1\"} 2\na_total{x=\"2\",y=\"3\"} 5\na_total_other 9\nb 1.5\n"
                .to_owned(),
        );
        assert_eq!(metrics.sum("a_total", &[]), 7.0);
        assert_eq!(metrics.sum("a_total", &["y=\"3\""]), 5.0);
        assert_eq!(metrics.sum("b", &[]), 1.5);
        assert_eq!(metrics.count("a_total"), 2);
    }
}
