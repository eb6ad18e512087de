//! What a row of measurements comes to: percentiles, and whether something grows.

use std::time::Duration;

/// The smallest value that at least `share` (0 to 1) of all are not above; none of none.
pub fn percentile(values: &[Duration], share: f64) -> Option<Duration> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

/// The line of least squares through points of time and amount: its growth an hour. None of fewer
/// than two moments.
pub fn growth_per_hour(points: &[(Duration, u64)]) -> Option<f64> {
    let count = points.len() as f64;
    let hours = |point: &(Duration, u64)| point.0.as_secs_f64() / 3600.0;
    let mean_hour = points.iter().map(hours).sum::<f64>() / count;
    let mean = points.iter().map(|point| point.1 as f64).sum::<f64>() / count;
    let (mut product, mut square) = (0.0, 0.0);
    for point in points {
        let away = hours(point) - mean_hour;
        product += away * (point.1 as f64 - mean);
        square += away * away;
    }
    (square > 0.0).then(|| product / square)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occur() {
        let values: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        let of = |share| percentile(&values, share).map(|value| value.as_millis());
        assert_eq!(of(0.5), Some(100));
        assert_eq!(of(0.99), Some(198));
        assert_eq!((of(1.0), of(0.0)), (Some(200), Some(1)));
        assert_eq!(percentile(&values[..1], 0.99), Some(values[0]));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn growth_is_found_under_noise() {
        let noisy = |growth: f64| -> Vec<_> {
            let moments = (0..720_u32).map(|number| {
                let seconds = number * 5;
                let noise = if number % 2 == 0 { 300_000.0 } else { 0.0 };
                let amount = 5e7 + growth * f64::from(seconds) / 3600.0 + noise;
                (Duration::from_secs(seconds.into()), amount as u64)
            });
            moments.collect()
        };
        for growth in [0.0, 1e6, -1e6] {
            let found = growth_per_hour(&noisy(growth)).unwrap();
            assert!((found - growth).abs() < 10_000.0, "{growth}: {found}");
        }
        assert_eq!(growth_per_hour(&[(Duration::ZERO, 1)]), None);
    }
}
