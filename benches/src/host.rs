//! One head's attention on the host in f64: the opinion that shares nothing with what is timed. Kinds of
//! digests that have no computation here are those of the library's reference, in tensor operations.

use burn::tensor::{Device, Tensor, TensorData};
use quest_burn::digest::DigestKind;

use crate::{BenchError, read};

/// The score of each digest, the highest of the queries.
///
/// `digests` holds the rows of a page one after the other, with what is behind them; `queries` rows of
/// `head_dim`.
pub(crate) fn page_scores(
    kind: DigestKind,
    queries: &[f32],
    digests: &[f32],
    head_dim: usize,
) -> Result<Vec<f64>, BenchError> {
    let scores = digests
        .chunks_exact(kind.shape(head_dim).iter().product())
        .map(|digest| {
            let mut queries = queries.chunks_exact(head_dim);
            queries.try_fold(f64::NEG_INFINITY, |max, query| {
                Some(page_score(kind, query, digest)?.max(max))
            })
        });
    match scores.collect::<Option<Vec<_>>>() {
        Some(scores) => Ok(scores),
        None => reference_scores(kind, queries, digests, head_dim),
    }
}

fn reference_scores(
    kind: DigestKind,
    queries: &[f32],
    digests: &[f32],
    head_dim: usize,
) -> Result<Vec<f64>, BenchError> {
    let device = Device::default();
    let [rows, channels] = kind.shape(head_dim);
    let pages = digests.len() / (rows * channels);
    let digests = TensorData::new(digests.to_vec(), [1, pages, rows, channels]);
    let group = queries.len() / head_dim;
    let queries = TensorData::new(queries.to_vec(), [1, group, head_dim]);
    let digests = Tensor::from_data(digests, &device);
    let scores = kind.scores(Tensor::from_data(queries, &device), digests, None);
    let scores = read::floats(scores.max_dim(1))?;
    Ok(scores.into_iter().map(f64::from).collect())
}

/// Standard deviations by which kinds that keep them lift a mean, unless a policy says otherwise.
const DEVIATIONS: f64 = 2.0;

/// None for a kind that has no computation here.
fn page_score(kind: DigestKind, query: &[f32], digest: &[f32]) -> Option<f64> {
    let (first, behind) = digest.split_at(query.len());
    let both = query
        .iter()
        .zip(first)
        .map(|(&q, &x)| (f64::from(q), f64::from(x)));
    let product = || both.clone().map(|(q, x)| q * x).sum::<f64>();
    let second = || both.clone().zip(behind.iter().map(|&x| f64::from(x)));
    Some(match kind {
        DigestKind::MinMax => second()
            .map(|((q, low), high)| (q * low).max(q * high))
            .sum(),
        DigestKind::MeanVar => {
            let variance = second().map(|((q, _), std)| (q * std).powi(2)).sum::<f64>();
            product() + DEVIATIONS * variance.sqrt()
        }
        DigestKind::MeanScalar => {
            let norm = both.clone().map(|(q, _)| q * q).sum::<f64>().sqrt();
            product() + DEVIATIONS * norm * f64::from(behind[0])
        }
        DigestKind::Mean => product(),
        _ => return None,
    })
}

/// The digest of a page with these keys, rows of `head_dim`.
pub(crate) fn digest(
    kind: DigestKind,
    keys: &[f32],
    head_dim: usize,
) -> Result<Vec<f64>, BenchError> {
    let channel = |i: usize| keys.iter().skip(i).step_by(head_dim).map(|&x| f64::from(x));
    let n = (keys.len() / head_dim) as f64;
    let mean = |i: usize| channel(i).sum::<f64>() / n;
    let variance = |i: usize| channel(i).map(|x| (x - mean(i)).powi(2)).sum::<f64>() / n;
    let row = |of: &dyn Fn(usize) -> f64| (0..head_dim).map(of).collect::<Vec<_>>();
    Ok(match kind {
        DigestKind::MinMax => [
            row(&|i| channel(i).fold(f64::INFINITY, f64::min)),
            row(&|i| channel(i).fold(f64::NEG_INFINITY, f64::max)),
        ]
        .concat(),
        DigestKind::MeanVar => [row(&mean), row(&|i| variance(i).sqrt())].concat(),
        DigestKind::MeanScalar => {
            let std = (row(&variance).iter().sum::<f64>() / head_dim as f64).sqrt();
            let [_, channels] = kind.shape(head_dim);
            [row(&mean), vec![std; channels - head_dim]].concat()
        }
        DigestKind::Mean => row(&mean),
        _ => reference_digest(kind, keys, head_dim)?,
    })
}

fn reference_digest(
    kind: DigestKind,
    keys: &[f32],
    head_dim: usize,
) -> Result<Vec<f64>, BenchError> {
    let shape = [1, 1, keys.len() / head_dim, head_dim];
    let keys = Tensor::from_data(TensorData::new(keys.to_vec(), shape), &Device::default());
    let digest = read::floats(kind.fold(keys))?;
    Ok(digest.into_iter().map(f64::from).collect())
}

/// Digests in 8 bits as [`page_scores`] takes them. `words` holds rows of `head_dim / 4`, as many for
/// each page as the kind has; `scales` one number for each 32 channels of a page, then that for all
/// channels.
pub(crate) fn unpacked(
    kind: DigestKind,
    words: &[i32],
    scales: &[f32],
    head_dim: usize,
) -> Vec<f32> {
    let [rows, channels] = kind.shape(head_dim);
    let behind = channels - head_dim;
    let pages = words.chunks_exact(rows * head_dim / 4);
    let scales = scales.chunks_exact(head_dim.div_ceil(32) + usize::from(behind > 0));
    pages
        .zip(scales)
        .flat_map(|(words, scales)| {
            let integers = words.iter().flat_map(|word| word.to_le_bytes());
            let scaled = integers.enumerate();
            let scaled =
                scaled.map(move |(i, byte)| f32::from(byte as i8) * scales[i % head_dim / 32]);
            scaled.chain(vec![scales[scales.len() - 1]; behind])
        })
        .collect()
}

/// The `k` pages with the highest scores, ascending, the newest always among them; ties go to the
/// lower page.
pub(crate) fn top_pages(scores: &[f32], k: usize) -> Vec<i32> {
    let newest = scores.len() - 1;
    let mut pages = (0..newest).collect::<Vec<_>>();
    pages.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    pages.truncate(k.saturating_sub(1));
    pages.push(newest);
    pages.sort_unstable();
    pages.into_iter().map(|page| page as i32).collect()
}

/// Attention of each query over tokens of `head_dim` channels: rows of outputs.
pub(crate) fn attention(
    queries: &[f32],
    keys: &[f32],
    values: &[f32],
    head_dim: usize,
    scale: f64,
) -> Vec<f64> {
    let of_query = |query: &[f32]| {
        let scores = keys.chunks_exact(head_dim).map(|key| {
            let products = query
                .iter()
                .zip(key)
                .map(|(&q, &k)| f64::from(q) * f64::from(k));
            products.sum::<f64>() * scale
        });
        let scores = scores.collect::<Vec<_>>();
        let row_max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights = scores.iter().map(|score| (score - row_max).exp());
        let mut sum = 0.0;
        let mut output = vec![0.0; head_dim];
        for (weight, value) in weights.zip(values.chunks_exact(head_dim)) {
            sum += weight;
            for (output, &value) in output.iter_mut().zip(value) {
                *output += weight * f64::from(value);
            }
        }
        output.into_iter().map(move |channel| channel / sum)
    };
    queries.chunks_exact(head_dim).flat_map(of_query).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_takes_the_better_end_of_each_channel() {
        let digests = [-1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 1.0, 1.0];
        // max(-1, 3) + max(-4, -8), then max(0, 1) + max(0, -2).
        assert_eq!(
            page_scores(DigestKind::MinMax, &[1.0, -2.0], &digests, 2).unwrap(),
            [-1.0, 1.0]
        );
        // The second query: max(1, -3) + max(0, 0), then max(0, -1) + 0.
        let queries = [1.0, -2.0, -1.0, 0.0];
        assert_eq!(
            page_scores(DigestKind::MinMax, &queries, &digests, 2).unwrap(),
            [1.0, 1.0]
        );
    }

    #[test]
    fn digests_and_scores_of_every_kind_are_those_of_the_reference() {
        const HEAD_DIM: usize = 8;
        let numbers = |n: usize, seed: usize| {
            let numbers = (0..n).map(|i| ((i * 37 + seed) % 23) as f32 / 7.0 - 1.5);
            numbers.collect::<Vec<_>>()
        };
        let queries = numbers(2 * HEAD_DIM, 5);
        let assert_close = |found: &[f64], expected: &[f64], kind: DigestKind| {
            assert_eq!(found.len(), expected.len(), "{kind}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found - expected).abs() < 1e-4,
                    "{kind}: {found}, {expected}"
                );
            }
        };
        for &kind in DigestKind::ALL {
            let pages = [3, 11].map(|seed| numbers(6 * HEAD_DIM, seed));
            let mut digests = Vec::new();
            for keys in &pages {
                let found = digest(kind, keys, HEAD_DIM).unwrap();
                assert_close(
                    &found,
                    &reference_digest(kind, keys, HEAD_DIM).unwrap(),
                    kind,
                );
                digests.extend(found.into_iter().map(|x| x as f32));
            }
            let found = page_scores(kind, &queries, &digests, HEAD_DIM).unwrap();
            let expected = reference_scores(kind, &queries, &digests, HEAD_DIM).unwrap();
            assert_close(&found, &expected, kind);
        }
    }

    #[test]
    fn packed_digests_are_bytes_times_the_scale_of_their_channels() {
        // -1, 2, 3, -128 in each word: 16 channels twice.
        let words = [0x8003_02ff_u32 as i32; 8];
        let found = unpacked(DigestKind::MinMax, &words, &[0.5], 16);
        assert_eq!(found.len(), 32);
        assert_eq!(found[28..], [-0.5, 1.0, 1.5, -64.0]);
        let wide = unpacked(DigestKind::MinMax, &[1; 24], &[1.0, 2.0], 48);
        assert_eq!(
            (wide[28], wide[32], wide[48], wide[92]),
            (1.0, 2.0, 1.0, 2.0)
        );
    }

    #[test]
    fn ties_go_to_the_lower_page_and_the_newest_is_kept() {
        assert_eq!(top_pages(&[1.0, 5.0, 5.0, 2.0, -9.0], 2), [1, 4]);
        assert_eq!(top_pages(&[1.0, 5.0, 5.0, 2.0, 9.0], 3), [1, 2, 4]);
        assert_eq!(top_pages(&[1.0, 2.0], 1), [1]);
    }

    #[test]
    fn equal_scores_average_the_values() {
        let output = attention(
            &[1.0, 0.0],
            &[0.0, 1.0, 0.0, 2.0],
            &[1.0, 2.0, 3.0, 6.0],
            2,
            1.0,
        );
        assert_eq!(output, [2.0, 4.0]);
    }
}
