//! Medians, quantiles, and ratios that are paired by round.

use std::collections::BTreeMap;

/// A value for each round in which there is one.
pub type Rounds = BTreeMap<usize, f64>;

/// The ratio of each round that both have a value of.
pub fn ratios(ours: &Rounds, theirs: &Rounds) -> Vec<f64> {
    both(ours, theirs, |ours, theirs| ours / theirs).into_values().collect()
}

/// The sum of each round that both have a value of.
pub fn sums(a: &Rounds, b: &Rounds) -> Rounds {
    both(a, b, |a, b| a + b)
}

fn both(a: &Rounds, b: &Rounds, of: impl Fn(f64, f64) -> f64) -> Rounds {
    a.iter().filter_map(|(round, a)| Some((*round, of(*a, *b.get(round)?)))).collect()
}

/// The middle of the values; of an even number of them, the mean of the two in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The smallest value that a part `p` (0 to 1) of the values does not exceed.
pub fn quantile(values: &[f64], p: f64) -> Option<f64> {
    let sorted = sorted(values);
    let rank = (p * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// The least and the greatest.
pub fn range(values: &[f64]) -> Option<(f64, f64)> {
    let sorted = sorted(values);
    Some((*sorted.first()?, *sorted.last()?))
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn only_values_of_one_round_are_compared() {
        let ours = Rounds::from([(0, 10.0), (1, 40.0), (2, 90.0)]);
        let theirs = Rounds::from([(0, 5.0), (2, 30.0), (3, 1.0)]);
        assert_eq!(ratios(&ours, &theirs), [2.0, 3.0]);
        assert_eq!(sums(&ours, &theirs), Rounds::from([(0, 15.0), (2, 120.0)]));
        assert_eq!(ratios(&ours, &Rounds::new()), [0.0; 0]);
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.5), Some(100.0));
        assert_eq!(quantile(&values, 0.99), Some(198.0));
        assert_eq!(quantile(&values, 1.0), Some(200.0));
        assert_eq!(quantile(&[7.0], 0.99), Some(7.0));
        assert_eq!(quantile(&[], 0.99), None);
    }
}
