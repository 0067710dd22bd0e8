//! One head's attention on the host in f64: the opinion that shares nothing with what is timed.

/// `sum_i max(q_i min_i, q_i max_i)` of each digest, the highest of the queries.
///
/// `digests` holds rows of `2 * head_dim`, minimum first; `queries` rows of `head_dim`.
pub fn page_scores(queries: &[f32], digests: &[f32], head_dim: usize) -> Vec<f64> {
    let bound = |query: &[f32], digest: &[f32]| {
        let (lowest, highest) = digest.split_at(head_dim);
        let channels = query.iter().zip(lowest.iter().zip(highest));
        channels
            .map(|(&q, (&low, &high))| {
                let q = f64::from(q);
                (q * f64::from(low)).max(q * f64::from(high))
            })
            .sum::<f64>()
    };
    digests
        .chunks_exact(2 * head_dim)
        .map(|digest| {
            let bounds = queries.chunks_exact(head_dim).map(|q| bound(q, digest));
            bounds.fold(f64::NEG_INFINITY, f64::max)
        })
        .collect()
}

/// Digests in 8 bits as [`page_scores`] takes them. `words` holds rows of `2 * head_dim / 4`,
/// `scales` one number for each 32 channels of a page.
pub fn unpacked(words: &[i32], scales: &[f32], head_dim: usize) -> Vec<f32> {
    let pages = words.chunks_exact(head_dim / 2);
    let scales = scales.chunks_exact(head_dim.div_ceil(32));
    pages
        .zip(scales)
        .flat_map(|(words, scales)| {
            let integers = words.iter().flat_map(|word| word.to_le_bytes());
            let scaled = integers.enumerate();
            scaled.map(move |(i, byte)| f32::from(byte as i8) * scales[i % head_dim / 32])
        })
        .collect()
}

/// The `k` pages with the highest scores, ascending, the newest always among them; ties go to the
/// lower page.
pub fn top_pages(scores: &[f32], k: usize) -> Vec<i32> {
    let newest = scores.len() - 1;
    let mut pages = (0..newest).collect::<Vec<_>>();
    pages.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    pages.truncate(k.saturating_sub(1));
    pages.push(newest);
    pages.sort_unstable();
    pages.into_iter().map(|page| page as i32).collect()
}

/// Attention of each query over tokens of `head_dim` channels: rows of outputs.
pub fn attention(
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
        let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights = scores.iter().map(|score| (score - highest).exp());
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
        assert_eq!(page_scores(&[1.0, -2.0], &digests, 2), [-1.0, 1.0]);
        // The second query: max(1, -3) + max(0, 0), then max(0, -1) + 0.
        let queries = [1.0, -2.0, -1.0, 0.0];
        assert_eq!(page_scores(&queries, &digests, 2), [1.0, 1.0]);
    }

    #[test]
    fn packed_digests_are_bytes_times_the_scale_of_their_channels() {
        // -1, 2, 3, -128 in each word: 16 channels twice.
        let words = [0x8003_02ff_u32 as i32; 8];
        let found = unpacked(&words, &[0.5], 16);
        assert_eq!(found.len(), 32);
        assert_eq!(found[28..], [-0.5, 1.0, 1.5, -64.0]);
        let wide = unpacked(&[1; 24], &[1.0, 2.0], 48);
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
