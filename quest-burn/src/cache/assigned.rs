//! Steps over pages that the caller counts, for engines whose sequences come and go and share pages.

use super::{
    CacheError, Int8Rows, KvRows, PagedKvCache, Phase, Step, contiguous::ints,
    table::page_table_entries,
};
use burn::tensor::{Tensor, kind::Numeric};

/// A sequence whose pages the caller has assigned; see [`PagedKvCache::assigned_step`].
#[derive(Clone, Copy, Debug)]
pub struct AssignedPages<'a> {
    /// Pages of the pool, in order. There may be more than its tokens take.
    pub pages: &'a [u32],
    /// Tokens that they hold.
    pub length: usize,
    /// Tokens that the sequence gains.
    pub new_tokens: usize,
}

impl AssignedPages<'_> {
    /// Tokens that the sequence holds after the step.
    pub(crate) fn end(&self) -> usize {
        self.length.saturating_add(self.new_tokens)
    }

    /// The pages that its tokens take after the step.
    pub(crate) fn held(&self, page_size: usize) -> &[u32] {
        &self.pages[..self.end().div_ceil(page_size)]
    }

    /// Those that the step writes.
    fn written(&self, page_size: usize) -> &[u32] {
        &self.held(page_size)[self.length / page_size..]
    }
}

impl PagedKvCache {
    /// Begins a pass over sequences whose pages the caller counts. The batch of the step is the sequences
    /// that are listed; they may share pages that the step does not write.
    ///
    /// The caller then counts all pages of the pool: the cache's own sequences have to be empty, and what
    /// policies remember from step to step is not kept.
    ///
    /// # Errors
    ///
    /// When there is no sequence or one of them gains nothing, a sequence has too few pages or one that is
    /// not in the pool, a page that is written belongs to another sequence as well, or the cache has
    /// sequences of its own.
    pub fn assigned_step(
        &self,
        phase: Phase,
        sequences: &[AssignedPages<'_>],
    ) -> Result<Step, CacheError> {
        self.check_assigned(sequences)?;
        let page_size = self.config.page_size;
        let pages = sequences.iter().map(|s| s.held(page_size).to_vec());
        let pages = pages.collect::<Vec<_>>();
        let width = pages.iter().map(Vec::len).max().unwrap_or(0);
        let rows = pages.iter().map(Vec::as_slice);
        let entries = page_table_entries(rows, sequences.len(), width);
        let device = self.device_page_table.device();
        Ok(Step::new(
            phase,
            page_size,
            sequences.iter().map(|s| s.length).collect(),
            sequences.iter().map(AssignedPages::end).collect(),
            pages,
            ints(entries, [sequences.len(), width], &device),
        ))
    }

    /// Refuses what [`assigned_step`](Self::assigned_step) does.
    pub(crate) fn check_assigned(&self, sequences: &[AssignedPages<'_>]) -> Result<(), CacheError> {
        let page_size = self.config.page_size;
        if let Some(sequence) = self.table.pages().iter().position(|p| !p.is_empty()) {
            return Err(CacheError::OwnSequences { sequence });
        }
        if sequences.is_empty() || sequences.iter().any(|s| s.new_tokens == 0) {
            return Err(CacheError::NoTokens);
        }
        for (sequence, assigned) in sequences.iter().enumerate() {
            let needed = assigned.end().div_ceil(page_size);
            if assigned.pages.len() < needed {
                return Err(CacheError::Unassigned {
                    sequence,
                    needed,
                    found: assigned.pages.len(),
                });
            }
        }
        let mut is_written = vec![false; self.config.n_pages];
        for assigned in sequences {
            for &page in assigned.written(page_size) {
                match is_written.get_mut(page as usize) {
                    None => return Err(self.no_such_page(page)),
                    Some(true) => return Err(CacheError::SharedPage { page }),
                    Some(is_written) => *is_written = true,
                }
            }
        }
        for assigned in sequences {
            for &page in &assigned.pages[..assigned.length / page_size] {
                match is_written.get(page as usize) {
                    None => return Err(self.no_such_page(page)),
                    Some(true) => return Err(CacheError::SharedPage { page }),
                    Some(false) => (),
                }
            }
        }
        Ok(())
    }

    fn no_such_page(&self, page: u32) -> CacheError {
        CacheError::Page {
            page,
            n_pages: self.config.n_pages,
        }
    }

    /// Makes a page hold the first `rows` tokens of another one, in every layer and with a digest of those,
    /// for a sequence that goes on in the middle of a page that others hold.
    ///
    /// # Errors
    ///
    /// When there is no such page, or it does not have so many rows.
    pub fn copy_page(&mut self, from: u32, to: u32, rows: usize) -> Result<(), CacheError> {
        let most = self.config.n_pages;
        if let Some(page) = [from, to].into_iter().find(|&page| page as usize >= most) {
            return Err(self.no_such_page(page));
        }
        if rows == 0 || rows > self.config.page_size {
            return Err(CacheError::Rows {
                page_size: self.config.page_size,
                found: rows,
            });
        }
        let to = to as usize;
        for layer in &mut self.layers {
            layer.expect_tensor_writes();
            let pool = &mut layer.pool;
            for rows in [&mut pool.keys, &mut pool.values] {
                match rows {
                    KvRows::Full(rows) => copy_row(rows, from, to),
                    KvRows::Int8(Int8Rows { words, scales }) => {
                        copy_row(words, from, to);
                        copy_row(scales, from, to);
                    }
                }
            }
            pool.fold_pages(to..to + 1, rows);
            pool.pack_pages(to..to + 1);
        }
        Ok(())
    }
}

/// Copies an entry of the first axis to another place of it.
fn copy_row<K: Numeric>(pool: &mut Tensor<4, K>, from: u32, to: usize) {
    let index = ints(vec![from as i32], [1], &pool.device());
    // Selected and not sliced: a slice would share the pool's memory, and the pool be copied.
    let row = pool.clone().select(0, index);
    let [_, heads, rows, channels] = pool.dims();
    let place = [to..to + 1, 0..heads, 0..rows, 0..channels];
    pool.inplace(|pool| pool.slice_assign(place, row));
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, Distribution, Tolerance};

    use super::*;
    use crate::{
        cache::{DigestStorage, KvStorage, PagedKvCacheConfig},
        ops,
    };

    fn cache(storage: DigestStorage) -> PagedKvCache {
        cache_in(storage, KvStorage::Full)
    }

    fn cache_in(storage: DigestStorage, rows: KvStorage) -> PagedKvCache {
        PagedKvCacheConfig::new(2, 2, 16, 6)
            .with_page_size(8)
            .with_digest_storage(storage)
            .with_kv_storage(rows)
            .init(&Device::default(), DType::F32)
            .unwrap()
    }

    fn sequence(pages: &[u32], length: usize, new_tokens: usize) -> AssignedPages<'_> {
        AssignedPages {
            pages,
            length,
            new_tokens,
        }
    }

    /// Keys and values of so many tokens of one sequence.
    fn rows(tokens: usize) -> [Tensor<4>; 2] {
        [(); 2].map(|()| {
            let shape = [1, 2, tokens, 16];
            Tensor::random(shape, Distribution::Default, &Device::default())
        })
    }

    fn append(cache: &mut PagedKvCache, step: &Step, [keys, values]: [Tensor<4>; 2]) {
        for layer in 0..2 {
            ops::append(cache.layer_mut(layer), keys.clone(), values.clone(), step);
        }
    }

    /// What attention over all of a sequence gives for a query of ones.
    fn attention(cache: &PagedKvCache, step: &Step) -> Vec<f32> {
        let query = Tensor::ones([step.batch(), 2, 16], &Device::default());
        let layer = cache.layer(1);
        let output = ops::paged_attention(query, layer, &ops::Pages::All, step, 0.25);
        output.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn sequences_of_assigned_pages_are_those_of_the_cache_s_own() {
        let mut own = cache(DigestStorage::Full);
        let mut assigned = cache(DigestStorage::Full);
        let (prompt, next) = (rows(13), rows(1));
        let step = own.prefill(&[13]).unwrap();
        append(&mut own, &step, prompt.clone());
        let step = own.decode().unwrap();
        append(&mut own, &step, next.clone());
        let expected = attention(&own, &step);

        let pages = [4, 1, 5];
        let step = assigned.assigned_step(Phase::Prefill, &[sequence(&pages, 0, 13)]);
        append(&mut assigned, &step.unwrap(), prompt);
        let step = assigned.assigned_step(Phase::Decode, &[sequence(&pages, 13, 1)]);
        let step = step.unwrap();
        assert_eq!((step.pages(0), step.lengths()), (&[4, 1][..], &[14][..]));
        append(&mut assigned, &step, next);
        assert_eq!(attention(&assigned, &step), expected);
    }

    #[test]
    fn sequences_share_pages_that_are_not_written() {
        let mut cache = cache(DigestStorage::Full);
        let step = cache.assigned_step(Phase::Prefill, &[sequence(&[0, 1], 0, 10)]);
        append(&mut cache, &step.unwrap(), rows(10));
        cache.copy_page(1, 2, 2).unwrap();
        let both = [sequence(&[0, 1], 10, 1), sequence(&[0, 2], 10, 1)];
        let step = cache.assigned_step(Phase::Decode, &both).unwrap();
        let [keys, values] = rows(1);
        let twice = [keys, values].map(|t| Tensor::cat(vec![t.clone(), t], 0));
        append(&mut cache, &step, twice);
        let found = attention(&cache, &step);
        let (first, second) = found.split_at(found.len() / 2);
        assert_eq!(first, second);
    }

    #[test]
    fn a_copied_page_has_the_digest_of_the_rows_that_were_copied() {
        let storages = DigestStorage::ALL.map(|digests| KvStorage::ALL.map(|rows| (digests, rows)));
        for (digests, rows_in) in storages.into_iter().flatten() {
            let [mut copied, mut direct] = [(); 2].map(|()| cache_in(digests, rows_in));
            let [keys, values] = rows(8);
            let step = copied.assigned_step(Phase::Prefill, &[sequence(&[0], 0, 8)]);
            append(&mut copied, &step.unwrap(), [keys.clone(), values.clone()]);
            copied.copy_page(0, 3, 5).unwrap();
            let step = direct.assigned_step(Phase::Prefill, &[sequence(&[3], 0, 5)]);
            let first = [keys, values].map(|t| t.slice_dim(2, 0..5));
            append(&mut direct, &step.unwrap(), first);
            let page = |cache: &PagedKvCache| {
                let layer = cache.layer(1);
                let digest = layer.digests().clone().slice([3..4]).into_data();
                let keys = layer.key_rows().widened().slice([3..4]).slice_dim(2, 0..5);
                let packed = layer.int8_digests().map(|packed| packed.words.clone());
                let packed = packed.map(|words| words.slice_dim(1, 3..4).into_data());
                (digest, keys.into_data(), packed)
            };
            let (copied, direct) = (page(&copied), page(&direct));
            // One is folded from rows in the pool, the other from the new rows.
            let tolerance = Tolerance::<f32>::default();
            copied.0.assert_approx_eq::<f32>(&direct.0, tolerance);
            assert_eq!((copied.1, copied.2), (direct.1, direct.2));
        }
    }

    #[test]
    fn bad_assignments_are_refused() {
        let mut cache = cache(DigestStorage::Full);
        let refused = |cache: &PagedKvCache, sequences: &[AssignedPages<'_>], message: &str| {
            let error = cache.assigned_step(Phase::Decode, sequences).unwrap_err();
            assert_eq!(error.to_string(), format!("KV cache: expected {message}"));
        };
        refused(&cache, &[], "at least one new token, found none");
        refused(
            &cache,
            &[sequence(&[0], 3, 0)],
            "at least one new token, found none",
        );
        refused(
            &cache,
            &[sequence(&[0], 8, 1)],
            "2 pages for sequence 0, found 1",
        );
        refused(&cache, &[sequence(&[6], 3, 1)], "a page below 6, found 6");
        refused(
            &cache,
            &[sequence(&[9, 1], 8, 1)],
            "a page below 6, found 9",
        );
        for pair in [
            [sequence(&[0, 1], 9, 1), sequence(&[2, 1], 9, 1)],
            [sequence(&[0, 1], 9, 1), sequence(&[1, 2], 9, 1)],
            [sequence(&[1, 2], 9, 1), sequence(&[0, 1], 9, 1)],
        ] {
            refused(
                &cache,
                &pair,
                "pages that are written to belong to one sequence, found page 1 in two places",
            );
        }
        for (from, to, rows, message) in [
            (6, 0, 1, "a page below 6, found 6"),
            (0, 7, 1, "a page below 6, found 7"),
            (0, 1, 0, "1 to 8 rows of a page, found 0"),
            (0, 1, 9, "1 to 8 rows of a page, found 9"),
        ] {
            let error = cache.copy_page(from, to, rows).unwrap_err();
            assert_eq!(error.to_string(), format!("KV cache: expected {message}"));
        }
        cache.prefill(&[1]).unwrap();
        refused(
            &cache,
            &[sequence(&[1], 3, 1)],
            "no sequences of the cache's own beside assigned pages, found sequence 0",
        );
    }
}
