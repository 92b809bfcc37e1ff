//! Percentiles of a few times.

use std::time::Duration;

/// Times that were measured, each on its own occasion.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The time that so many of a hundred do not exceed, in milliseconds; `None` below 100 times, which say little about it.
    pub(crate) fn percentile_ms(&self, percent: usize) -> Option<f64> {
        if self.0.len() < ENOUGH {
            return None;
        }
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        Some(sorted[rank - 1].as_secs_f64() * 1e3)
    }
}

const ENOUGH: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks_of_the_sorted_times() {
        let mut times = Times::default();
        for ms in (1..=200).rev() {
            times.add(Duration::from_millis(ms));
        }
        assert_eq!((times.percentile_ms(50), times.percentile_ms(99)), (Some(100.0), Some(198.0)));
        assert_eq!(times.percentile_ms(100), Some(200.0));
    }

    #[test]
    fn few_times_have_no_percentile() {
        let mut times = Times::default();
        for _ in 0..99 {
            times.add(Duration::from_millis(1));
        }
        assert_eq!((times.len(), times.percentile_ms(50)), (99, None));
    }
}
