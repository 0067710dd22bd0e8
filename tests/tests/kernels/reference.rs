//! What kernels compute, on the host.

use quest_burn_tests::naive;

use super::{bench::Bench, numbers::digest_len};

impl Bench {
    /// The score of one query head and page, by the digest as it is kept.
    pub(super) fn page_score(&self, sequence: usize, head: usize, page: usize) -> f64 {
        let d = self.case.head_dim;
        let q = &self.query[(sequence * self.n_heads() + head) * d..][..d];
        let pool_page = self.pages[sequence][page];
        let kv_head = head / self.case.group;
        let n = digest_len(self.digest, d);
        let at = (pool_page * self.case.n_kv_heads + kv_head) * n;
        let q: Vec<f64> = q.iter().map(|&x| x.into()).collect();
        let digest = self.digests[at..at + n].iter().map(|&x| x.into());
        let digest: Vec<f64> = digest.collect();
        naive::digest_score(self.digest, &q, &digest)
    }

    /// Attention of one query head over pages.
    pub(super) fn attention(&self, sequence: usize, head: usize, pages: &[usize]) -> Vec<f64> {
        let (d, page_size) = (self.case.head_dim, self.case.page_size);
        let q = &self.query[(sequence * self.n_heads() + head) * d..][..d];
        let tokens = pages
            .iter()
            .flat_map(|&page| page * page_size..(page + 1) * page_size)
            .filter(|&token| token < self.case.lengths[sequence]);
        self.attention_to(q, sequence, head, tokens)
    }

    /// Attention of a query of some head to tokens.
    pub(super) fn attention_to(
        &self,
        q: &[f32],
        sequence: usize,
        head: usize,
        tokens: impl Iterator<Item = usize>,
    ) -> Vec<f64> {
        let d = self.case.head_dim;
        let tokens: Vec<usize> = tokens
            .map(|token| self.row(sequence, head / self.case.group, token))
            .collect();
        let scores: Vec<f64> = tokens
            .iter()
            .map(|&row| {
                let dot: f64 = (0..d)
                    .map(|i| f64::from(q[i]) * f64::from(self.keys[row + i]))
                    .sum();
                dot * f64::from(self.scale())
            })
            .collect();
        let highest = scores.iter().copied().fold(f64::MIN, f64::max);
        let mut out = vec![0.0; d];
        let mut total = 0.0;
        for (&row, &score) in tokens.iter().zip(&scores) {
            let weight = (score - highest).exp();
            total += weight;
            for (i, out) in out.iter_mut().enumerate() {
                *out += weight * f64::from(self.values[row + i]);
            }
        }
        if total > 0.0 {
            out.iter_mut().for_each(|x| *x /= total);
        }
        out
    }
}

/// `|found - expected| / |expected|`; infinite where a number is not finite.
pub(super) fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    if found.iter().any(|x| !x.is_finite()) {
        return f64::INFINITY;
    }
    let square = |x: f64| x * x;
    let difference: f64 = found
        .iter()
        .zip(expected)
        .map(|(&f, &e)| square(f64::from(f) - e))
        .sum();
    let size: f64 = expected.iter().map(|&e| square(e)).sum();
    if size == 0.0 {
        difference.sqrt()
    } else {
        (difference / size).sqrt()
    }
}
