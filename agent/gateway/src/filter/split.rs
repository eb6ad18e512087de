//! Shares of traffic.

/// Chooses among values by weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split<T> {
    /// With the sum of the weights up to and with this one; none has weight 0.
    shares: Box<[(u64, T)]>,
}

impl<T> Split<T> {
    /// Takes the values whose weight is not 0.
    pub fn new(weighted: impl IntoIterator<Item = (u32, T)>) -> Self {
        let mut sum = 0_u64;
        let weighted = weighted.into_iter().filter(|(weight, _)| *weight > 0);
        let shares = weighted.map(|(weight, value)| {
            sum += u64::from(weight);
            (sum, value)
        });
        Self {
            shares: shares.collect(),
        }
    }

    /// The value that a random number, uniform over all of `u64`, falls on; `None` when there is
    /// none at all.
    pub fn choose(&self, random: u64) -> Option<&T> {
        let (sum, last) = self.shares.last()?;
        if self.shares.len() == 1 {
            return Some(last);
        }
        let point = (u128::from(random) * u128::from(*sum)) >> 64;
        let at = self
            .shares
            .partition_point(|(upto, _)| u128::from(*upto) <= point);
        self.shares.get(at).map(|(_, value)| value)
    }

    /// Every value.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.shares.iter().map(|(_, value)| value)
    }
}
