use burn::tensor::DType;
use quest_burn::{
    QuestConfig,
    cache::{DigestStorage, KvStorage, PagedKvCacheConfig},
    digest::DigestKind,
};

use super::AttentionOptions;
use crate::{BenchError, Record, parse::Heads, record::Kind};

/// One layer's cache and queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub batch: usize,
    pub heads: Heads,
    pub head_dim: usize,
    pub page_size: usize,
    /// Tokens of the first sequence, the longest.
    pub context: usize,
    /// Tokens of the last one. Those between are shorter by the same factor each.
    pub shortest: usize,
    pub dtype: DType,
    pub digest: DigestKind,
    pub digests: DigestStorage,
    pub kv_cache: KvStorage,
}

impl Shape {
    /// Pages of a sequence.
    pub(super) fn n_pages(&self) -> usize {
        self.context.div_ceil(self.page_size)
    }

    /// Tokens of each sequence.
    pub(super) fn lengths(&self) -> Vec<usize> {
        let last = (self.batch - 1).max(1) as f64;
        let ratio = self.shortest as f64 / self.context as f64;
        let length =
            |i: usize| (self.context as f64 * ratio.powf(i as f64 / last)).round() as usize;
        (0..self.batch).map(length).collect()
    }

    /// A cache of as many layers as there are to be caches in turn.
    pub(super) fn cache(&self, n_caches: usize) -> PagedKvCacheConfig {
        PagedKvCacheConfig::for_tokens(
            n_caches,
            self.heads.kv,
            self.head_dim,
            self.page_size,
            self.batch,
            self.context,
        )
        .with_digest(self.digest)
        .with_digest_storage(self.digests)
        .with_kv_storage(self.kv_cache)
    }

    /// A result's description, without the result.
    pub(super) fn record(&self, kind: Kind, operation: String, budget: Option<usize>) -> Record {
        Record {
            kind,
            operation,
            dtype: Some(self.dtype.name().to_owned()),
            digest: Some(self.digest.name()),
            digests: Some(self.digests.name()),
            kv_cache: Some(self.kv_cache.name()),
            batch: Some(self.batch),
            n_heads: Some(self.heads.query),
            n_kv_heads: Some(self.heads.kv),
            head_dim: Some(self.head_dim),
            page_size: Some(self.page_size),
            context: Some(self.context),
            shortest: (self.shortest < self.context).then_some(self.shortest),
            budget,
            ..Record::default()
        }
    }
}

/// Every combination, those first that differ from the first values in the fewest lists: what a
/// limit of time leaves out is what matters least.
pub(super) fn shapes(options: &AttentionOptions, dtype: DType) -> Result<Vec<Shape>, BenchError> {
    let mut shapes = Vec::new();
    for (i, &batch) in options.batch.iter().enumerate() {
        for (j, &heads) in options.heads.iter().enumerate() {
            for (k, &head_dim) in options.head_dim.iter().enumerate() {
                for (l, &page_size) in options.page_sizes.iter().enumerate() {
                    for (m, &context) in options.contexts.iter().enumerate() {
                        let differ = [i, j, k, l, m].into_iter().filter(|&index| index > 0);
                        let differ = differ.count();
                        // One after the other, to be compared.
                        let forms = options.digest.iter().flat_map(|&digest| {
                            options
                                .digests
                                .iter()
                                .map(move |&digests| (digest, digests))
                        });
                        let forms = forms.flat_map(|form| {
                            (options.kv_cache.iter()).map(move |&kv_cache| (form, kv_cache))
                        });
                        shapes.extend(forms.map(|((digest, digests), kv_cache)| {
                            let shape = Shape {
                                batch,
                                heads,
                                head_dim,
                                page_size,
                                context,
                                shortest: options.shortest.unwrap_or(context).clamp(1, context),
                                dtype,
                                digest,
                                digests,
                                kv_cache,
                            };
                            (differ, shape)
                        }));
                    }
                }
            }
        }
    }
    for (_, shape) in &shapes {
        shape.cache(1).validate()?;
    }
    for &page_size in &options.page_sizes {
        for &budget in &options.budgets {
            let config = QuestConfig::new().with_token_budget(budget);
            config.validate_for(page_size)?;
        }
    }
    shapes.sort_by_key(|(differ, _)| *differ);
    Ok(shapes.into_iter().map(|(_, shape)| shape).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Options {
        #[command(flatten)]
        attention: AttentionOptions,
    }

    fn options(arguments: &[&str]) -> AttentionOptions {
        let arguments = ["bench"].iter().chain(arguments);
        Options::parse_from(arguments).attention.resolved().unwrap()
    }

    #[test]
    fn the_target_preset_is_the_four_rows_of_the_target() {
        let shapes = shapes(&options(&[]), DType::F16).unwrap();
        let rows = shapes.iter().map(|s| (s.heads.kv, s.context >> 10));
        assert_eq!(
            rows.collect::<Vec<_>>(),
            [(32, 32), (32, 128), (8, 32), (8, 128)]
        );
    }

    #[test]
    fn the_full_preset_begins_with_what_differs_least() {
        let shapes = shapes(&options(&["--preset", "full"]), DType::F16).unwrap();
        assert_eq!(shapes.len(), 3 * 4 * 2 * 3 * 9);
        let base = shapes[0];
        assert_eq!((base.batch, base.head_dim, base.page_size), (1, 128, 8));
        let differ = |shape: &Shape| {
            usize::from(shape.batch != base.batch)
                + usize::from(shape.heads != base.heads)
                + usize::from(shape.head_dim != base.head_dim)
                + usize::from(shape.page_size != base.page_size)
                + usize::from(shape.context != base.context)
        };
        assert!(shapes.is_sorted_by_key(differ));
    }

    #[test]
    fn lists_replace_those_of_the_preset() {
        let options = options(&["--contexts", "4K", "--heads", "8:1", "--page-sizes", "8,32"]);
        let shapes = shapes(&options, DType::F32).unwrap();
        assert_eq!(shapes.len(), 2);
        assert_eq!(shapes[1].n_pages(), 4096 / 32);
        assert_eq!(shapes[0].heads.query, 8);
    }

    #[test]
    fn forms_of_digests_follow_one_another_for_each_shape() {
        let options = options(&["--digests", "full,int8", "--contexts", "4K,8K"]);
        let shapes = shapes(&options, DType::F16).unwrap();
        let first = shapes[..4]
            .iter()
            .map(|s| (s.heads.kv, s.context >> 10, s.digests.name()));
        assert_eq!(
            first.collect::<Vec<_>>(),
            [
                (32, 4, "full"),
                (32, 4, "int8"),
                (32, 8, "full"),
                (32, 8, "int8")
            ]
        );
    }

    #[test]
    fn a_budget_below_a_page_is_refused() {
        let options = options(&["--budgets", "8", "--page-sizes", "16"]);
        let error = shapes(&options, DType::F32).unwrap_err();
        assert!(error.is_bad_request());
        assert!(error.to_string().starts_with("token budget:"), "{error}");
    }
}
