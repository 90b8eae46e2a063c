//! Numbers about numbers: distributions, slopes, and whether two runs differ by more than noise.
//!
//! **Slopes** ([`slope`]): samples are first put into at most [`BLOCKS`] blocks of equal length, of each of which the median counts: what
//! goes up and down within a block (a collection, a checkpoint, a burst) is no trend. The slope is Theil's and Sen's: the median of the
//! slopes of all pairs of blocks, which up to 29% of bad blocks do not move. Its 95% interval is Sen's, from Kendall's variance. A
//! limit is broken only if the *lower* end of the interval is above it: what may be noise is no leak.
//!
//! **Differences** ([`difference`]): of the medians of two series, with a 95% interval by bootstrap over blocks of [`BOOT_BLOCK`] samples,
//! since seconds that follow each other are alike. An interval that holds 0 is noise, and so is what is no larger than the runs drift
//! themselves ([`drift`]). Of fewer than [`ENOUGH`] samples the bootstrap knows too little: then only what no second of the two runs has in
//! common is a difference ([`is_told`]). What differs from run to run (another neighbour on the machine) only more runs show.

use hdrhistogram::Histogram;
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};

/// Of which a slope is made.
pub(crate) const BLOCKS: usize = 60;
/// Samples that a bootstrap keeps together.
const BOOT_BLOCK: usize = 5;
/// Samples of the shorter run, seconds as a rule, from which on an interval is believed: a dozen blocks.
pub(crate) const ENOUGH: usize = 60;
/// Parts of a run that are compared to see how far it drifts by itself.
const PARTS: usize = 3;
/// Bootstrap rounds: the ends of the interval are the 50th and 1,950th.
const BOOT_ROUNDS: usize = 2_000;
/// Each bar of a distribution is this much wider than the one before.
const BAR: f64 = 1.15;

/// What a histogram says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Distribution {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    /// Upper end of a bar and how many are in it; empty bars are left out.
    pub bars: Vec<(f64, u64)>,
}

/// A histogram of nanoseconds as a distribution of milliseconds.
pub(crate) fn milliseconds(histogram: &Histogram<u64>) -> Distribution {
    if histogram.is_empty() {
        return Distribution::default();
    }
    let ms = |ns: u64| ns as f64 / 1e6;
    let mut bars: Vec<(f64, u64)> = Vec::new();
    for value in histogram.iter_recorded() {
        let at = value.value_iterated_to().max(1) as f64 / 1e6;
        let end = BAR.powf((at.ln() / BAR.ln()).ceil());
        match bars.last_mut() {
            Some((last, count)) if (*last - end).abs() <= end * 1e-9 => *count += value.count_since_last_iteration(),
            _ => bars.push((end, value.count_since_last_iteration())),
        }
    }
    Distribution {
        count: histogram.len(),
        mean: histogram.mean() / 1e6,
        p50: ms(histogram.value_at_quantile(0.5)),
        p90: ms(histogram.value_at_quantile(0.9)),
        p99: ms(histogram.value_at_quantile(0.99)),
        p999: ms(histogram.value_at_quantile(0.999)),
        max: ms(histogram.max()),
        bars,
    }
}

/// The median; 0 of nothing.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

/// Nearest rank; 0 of nothing.
pub(crate) fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * q).ceil() as usize;
    values.get(rank.saturating_sub(1).min(values.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

/// How something changes with time, per second, with its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Slope {
    pub per_second: f64,
    pub low: f64,
    pub high: f64,
}

/// See the file. `None`: too few samples to say anything.
pub(crate) fn slope(samples: &[(f64, f64)]) -> Option<Slope> {
    let points = blocks(samples);
    let n = points.len();
    if n < 8 {
        return None;
    }
    let mut slopes = Vec::new();
    for (i, a) in points.iter().enumerate() {
        slopes.extend(points[i + 1..].iter().filter(|b| b.0 > a.0).map(|b| (b.1 - a.1) / (b.0 - a.0)));
    }
    slopes.sort_by(f64::total_cmp);
    let per_second = if slopes.len().is_multiple_of(2) {
        (slopes[slopes.len() / 2 - 1] + slopes[slopes.len() / 2]) / 2.0
    } else {
        slopes[slopes.len() / 2]
    };
    let deviation = ((n * (n - 1) * (2 * n + 5)) as f64 / 18.0).sqrt();
    let apart = 1.96 * deviation;
    let at = |rank: f64| slopes[(rank.max(0.0) as usize).min(slopes.len() - 1)];
    let (low, high) = (at((slopes.len() as f64 - apart) / 2.0), at((slopes.len() as f64 + apart) / 2.0));
    Some(Slope { per_second, low, high })
}

/// Medians of blocks of equal length.
fn blocks(samples: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let size = samples.len().div_ceil(BLOCKS).max(1);
    let middle = |block: &[(f64, f64)]| {
        let at = block.iter().map(|sample| sample.0).sum::<f64>() / block.len() as f64;
        (at, median(&mut block.iter().map(|sample| sample.1).collect::<Vec<_>>()))
    };
    samples.chunks(size).map(middle).collect()
}

/// How far the median of one series is from another's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Difference {
    pub before: f64,
    pub after: f64,
    /// Of `after` less `before`.
    pub low: f64,
    pub high: f64,
}

impl Difference {
    pub fn change(&self) -> f64 {
        self.after - self.before
    }

    /// Of what was before.
    pub fn percent(&self) -> f64 {
        if self.change() == 0.0 { 0.0 } else { 100.0 * self.change() / self.before.abs().max(f64::MIN_POSITIVE) }
    }

    pub fn is_noise(&self) -> bool {
        self.low <= 0.0 && self.high >= 0.0
    }
}

/// See the file.
pub(crate) fn difference(before: &[f64], after: &[f64]) -> Option<Difference> {
    if before.is_empty() || after.is_empty() {
        return None;
    }
    // Fixed: the same two reports give the same answer.
    let mut random = Pcg64Mcg::seed_from_u64(1);
    let mut changes: Vec<_> = (0..BOOT_ROUNDS)
        .map(|_| median(&mut resample(after, &mut random)) - median(&mut resample(before, &mut random)))
        .collect();
    let [mut one, mut two] = [before.to_vec(), after.to_vec()];
    Some(Difference {
        before: median(&mut one),
        after: median(&mut two),
        low: quantile(&mut changes, 0.025),
        high: quantile(&mut changes, 0.975),
    })
}

/// How far the medians of a run's parts are from each other: what it changes by itself, with nothing changed. 0 of too few samples.
pub(crate) fn drift(series: &[f64]) -> f64 {
    let mut medians: Vec<_> = series.chunks(series.len().div_ceil(PARTS).max(1)).map(|part| median(&mut part.to_vec())).collect();
    medians.sort_by(f64::total_cmp);
    medians.last().zip(medians.first()).map_or(0.0, |(most, least)| most - least)
}

/// Whether there is enough to say how far two runs differ: both are long enough, or every sample of one is farther from every sample of
/// the other than the samples of either are from each other.
pub(crate) fn is_told(before: &[f64], after: &[f64]) -> bool {
    if before.len().min(after.len()) >= ENOUGH {
        return true;
    }
    let range = |series: &[f64]| {
        let least = series.iter().copied().fold(f64::INFINITY, f64::min);
        (least, series.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    };
    let ((low, high), (other_low, other_high)) = (range(before), range(after));
    let spread = (high - low).max(other_high - other_low);
    // Of a sample or two there is no spread to speak of.
    before.len().min(after.len()) >= BOOT_BLOCK && (other_low - high).max(low - other_high) > spread
}

/// As many samples as there are, from blocks that begin anywhere.
fn resample(series: &[f64], random: &mut Pcg64Mcg) -> Vec<f64> {
    let mut sample = Vec::with_capacity(series.len() + BOOT_BLOCK);
    while sample.len() < series.len() {
        let from = (random.next_u64() % series.len() as u64) as usize;
        sample.extend((0..BOOT_BLOCK).map(|i| series[(from + i) % series.len()]));
    }
    sample.truncate(series.len());
    sample
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(random: &mut Pcg64Mcg) -> f64 {
        (random.next_u64() % 1_000) as f64 / 500.0 - 1.0
    }

    #[test]
    fn a_slope_is_found_in_noise_and_with_spikes_in_it() {
        let mut random = Pcg64Mcg::seed_from_u64(3);
        let rising: Vec<_> = (0..600)
            .map(|t| {
                let spike = if t % 50 < 5 { 500.0 } else { 0.0 };
                (f64::from(t), 100.0 + 0.05 * f64::from(t) + 5.0 * noise(&mut random) + spike)
            })
            .collect();
        let found = slope(&rising).unwrap();
        assert!((found.per_second - 0.05).abs() < 0.01, "{found:?}");
        assert!(found.low > 0.0 && found.low <= found.per_second && found.per_second <= found.high, "{found:?}");
    }

    #[test]
    fn what_is_flat_has_an_interval_that_holds_nothing_and_a_sawtooth_is_flat() {
        let mut random = Pcg64Mcg::seed_from_u64(4);
        let flat: Vec<_> = (0..600).map(|t| (f64::from(t), 100.0 + noise(&mut random))).collect();
        let sawtooth: Vec<_> = (0..600).map(|t| (f64::from(t), f64::from(t % 10))).collect();
        for samples in [flat, sawtooth] {
            let found = slope(&samples).unwrap();
            assert!(found.low <= 0.0 && found.high >= 0.0, "{found:?}");
        }
        assert_eq!(slope(&[(0.0, 1.0); 5]), None);
    }

    #[test]
    fn two_runs_of_the_same_are_noise_and_a_real_difference_is_none() {
        let mut random = Pcg64Mcg::seed_from_u64(5);
        let mut run = |level: f64| (0..60).map(|_| level + noise(&mut random)).collect::<Vec<_>>();
        let (one, two, worse) = (run(10.0), run(10.0), run(12.0));
        assert!(difference(&one, &two).unwrap().is_noise());
        let found = difference(&one, &worse).unwrap();
        assert!(!found.is_noise() && found.percent() > 10.0, "{found:?}");
        let same = difference(&one, &one).unwrap();
        assert!(same.is_noise() && same.change() == 0.0, "{same:?}");
        assert_eq!(difference(&[], &one), None);
    }

    #[test]
    fn a_short_run_tells_only_what_is_farther_apart_than_all_that_varies_within() {
        let mut random = Pcg64Mcg::seed_from_u64(6);
        let mut run = |seconds: usize, level: f64| (0..seconds).map(|_| level + noise(&mut random)).collect::<Vec<_>>();
        let (short, higher, far, long) = (run(20, 10.0), run(20, 11.5), run(20, 20.0), run(ENOUGH, 11.5));
        assert!(!is_told(&short, &higher) && !is_told(&higher, &short) && !is_told(&short, &long), "they overlap");
        assert!(is_told(&short, &far) && is_told(&far, &short));
        assert!(is_told(&run(ENOUGH, 10.0), &long));
        assert!(!is_told(&[1.0], &[2.0]) && !is_told(&[], &far));
    }

    #[test]
    fn a_run_drifts_as_far_as_its_parts_are_apart() {
        let steps: Vec<_> = (0..90).map(|second| f64::from(second / 30)).collect();
        assert_eq!((drift(&steps), drift(&[7.0; 90]), drift(&[]), drift(&[3.0])), (2.0, 0.0, 0.0, 0.0));
    }

    #[test]
    fn a_distribution_keeps_every_count() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        (1..=10_000u64).for_each(|n| histogram.record(n * 1_000).unwrap());
        let found = milliseconds(&histogram);
        assert_eq!((found.count, found.bars.iter().map(|(_, count)| count).sum::<u64>()), (10_000, 10_000));
        assert!((found.p50 - 5.0).abs() < 0.05 && (found.p99 - 9.9).abs() < 0.05 && (found.max - 10.0).abs() < 0.02, "{found:?}");
        assert!(found.bars.is_sorted_by(|a, b| a.0 < b.0) && found.bars.len() < 80);
    }
}
