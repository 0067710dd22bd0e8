//! Which drafted tokens are kept.

use crate::sampling::{Distribution, Sampler};

/// A drafted token, and what it was drawn from.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The token.
    pub id: u32,
    /// The distribution of the model that drafted it.
    pub from: Distribution,
}

/// What is kept of drafted tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Drafted tokens that are kept, from the first one on.
    pub accepted: usize,
    /// The token that follows them.
    pub next: u32,
}

/// Keeps drafted tokens so that the tokens which come out are distributed as `targets` say: a token of
/// probability `q` in its draft and `p` in the target is kept with probability `min(1, p / q)`; the first that
/// is not kept is drawn anew from what the target has more of than the draft ([Leviathan et al.,
/// 2023](https://arxiv.org/abs/2211.17192), algorithm 1).
///
/// `target(i)` is the distribution after the first `i` drafted tokens. It is asked for in order, up to the
/// first token that is not kept.
///
/// # Errors
///
/// The first of a target.
pub fn verify<E>(
    drafts: &[Draft],
    sampler: &mut Sampler,
    mut target: impl FnMut(&mut Sampler, usize) -> Result<Distribution, E>,
) -> Result<Verdict, E> {
    for (i, Draft { id, from }) in drafts.iter().enumerate() {
        let target = target(sampler, i)?;
        let (p, q) = (target.probability(*id), from.probability(*id));
        // Nothing is drawn where the answer is certain, so that greedy answers need no random number.
        if p >= q || (p > 0.0 && sampler.uniform() * q < p) {
            continue;
        }
        // Where rounding leaves nothing beyond, the two are the same.
        let rest = target.beyond(from).unwrap_or(target);
        return Ok(Verdict {
            accepted: i,
            next: sampler.draw_from(&rest),
        });
    }
    let last = target(sampler, drafts.len())?;
    Ok(Verdict {
        accepted: drafts.len(),
        next: sampler.draw_from(&last),
    })
}

#[cfg(test)]
mod tests {
    use core::convert::Infallible;

    use super::*;
    use crate::sampling::SamplingConfig;

    const VOCABULARY: u32 = 5;

    fn sampler(seed: u64) -> Sampler {
        let config = SamplingConfig::new().with_temperature(1.0).with_seed(seed);
        config.init().unwrap()
    }

    /// A distribution that depends on the tokens before, in one way for the draft and in another for the
    /// target; some tokens have no probability in one of them.
    fn after(tokens: &[u32], of_target: bool) -> Distribution {
        let last = tokens.last().copied().unwrap_or(0);
        let weight = |id: u32| match of_target {
            true if (id + last).is_multiple_of(4) => 0.0,
            true => f64::from(1 + (id * 3 + last) % 5),
            false if (id + last) % 5 == 1 => 0.0,
            false => f64::from(1 + (id * 2 + last * 3) % 4),
        };
        Distribution::of_weights((0..VOCABULARY).map(|id| (id, weight(id)))).unwrap()
    }

    /// The first three tokens by drafts of `k`.
    fn three_tokens(k: usize, sampler: &mut Sampler) -> [u32; 3] {
        let mut tokens = Vec::new();
        while tokens.len() < 3 {
            let mut drafted = tokens.clone();
            let drafts = (0..k).map(|_| {
                let from = after(&drafted, false);
                let id = sampler.draw_from(&from);
                drafted.push(id);
                Draft { id, from }
            });
            let drafts = drafts.collect::<Vec<_>>();
            let target = |_: &mut Sampler, i: usize| {
                Ok::<_, Infallible>(after(&drafted[..tokens.len() + i], true))
            };
            let verdict = verify(&drafts, sampler, target).unwrap();
            drafted.truncate(tokens.len() + verdict.accepted);
            drafted.push(verdict.next);
            tokens = drafted;
        }
        [tokens[0], tokens[1], tokens[2]]
    }

    /// Pearson's statistic of three tokens against the target's distribution, and the degrees of freedom.
    fn chi_square(k: usize, target_is_right: bool) -> (f64, f64) {
        const DRAWS: usize = 60_000;
        let mut sampler = sampler(11);
        let mut counts = [0.0; (VOCABULARY * VOCABULARY * VOCABULARY) as usize];
        let place = |t: [u32; 3]| ((t[0] * VOCABULARY + t[1]) * VOCABULARY + t[2]) as usize;
        for _ in 0..DRAWS {
            counts[place(three_tokens(k, &mut sampler))] += 1.0;
        }
        let (mut statistic, mut cells) = (0.0, 0.0);
        for i in 0..counts.len() as u32 {
            let tokens = [i / 25, i / 5 % 5, i % 5];
            let p = (0..3)
                .map(|n| after(&tokens[..n], target_is_right).probability(tokens[n]))
                .product::<f64>();
            let (found, expected) = (counts[i as usize], p * DRAWS as f64);
            if expected == 0.0 {
                assert!(!target_is_right || found == 0.0, "{tokens:?} was drawn");
                continue;
            }
            statistic += (found - expected).powi(2) / expected;
            cells += 1.0;
        }
        (statistic, cells - 1.0)
    }

    #[test]
    fn tokens_are_distributed_as_the_target_says_however_many_are_drafted() {
        for k in [1, 2, 4] {
            let (statistic, freedom) = chi_square(k, true);
            // Three in a million draws of such a statistic are above it: 4.5 of its deviations, sqrt(2 n).
            let bound = freedom + 4.5 * (2.0 * freedom).sqrt();
            assert!(statistic < bound, "{k}: {statistic} of {freedom}");
        }
    }

    #[test]
    fn the_test_tells_the_draft_s_distribution_from_the_target_s() {
        let (statistic, freedom) = chi_square(2, false);
        assert!(statistic > 100.0 * freedom, "{statistic} of {freedom}");
    }

    #[test]
    fn certain_tokens_are_kept_up_to_the_first_that_differs() {
        let draft = |id| Draft {
            id,
            from: Distribution::certain(id),
        };
        let verdict = |drafts: &[u32], targets: &[u32]| {
            let drafts = drafts.iter().map(|&id| draft(id)).collect::<Vec<_>>();
            let target =
                |_: &mut Sampler, i: usize| Ok::<_, Infallible>(Distribution::certain(targets[i]));
            let verdict = verify(&drafts, &mut sampler(0), target).unwrap();
            (verdict.accepted, verdict.next)
        };
        assert_eq!(verdict(&[1, 2, 3], &[1, 2, 3, 4]), (3, 4));
        assert_eq!(verdict(&[1, 2, 3], &[1, 4, 3, 4]), (1, 4));
        assert_eq!(verdict(&[], &[2]), (0, 2));
    }
}
