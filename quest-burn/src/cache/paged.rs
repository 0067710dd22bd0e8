use std::collections::BTreeSet;

use burn::tensor::{DType, Device, Int, Tensor};

use super::{
    CacheError, Entropies, KvPool, LayerCache, PagedKvCacheConfig, Phase, Step,
    contiguous::ints,
    table::{PageTable, page_table_entries},
};

/// Keys and values of a batch of sequences in pages, with a digest of each page.
///
/// A forward pass begins with [`prefill`](Self::prefill) or [`decode`](Self::decode), which takes
/// the pages for the new tokens and gives a [`Step`]; each layer then writes its rows with
/// [`ops::append`](crate::ops::append). Memory is allocated once; nothing grows per step.
///
/// ```
/// use burn::tensor::{DType, Device, Tensor};
/// use quest_burn::{
///     cache::{CacheError, PagedKvCacheConfig},
///     ops,
/// };
///
/// # fn main() -> Result<(), CacheError> {
/// let device = Device::default();
/// // One layer with two KV heads of 16 channels, and a sequence of up to 32 tokens in pages of 8.
/// let config = PagedKvCacheConfig::for_tokens(1, 2, 16, 8, 1, 32);
/// let mut cache = config.init(&device, DType::F32)?;
///
/// let step = cache.prefill(&[10])?;
/// let rows = || Tensor::ones([1, 2, 10, 16], &device);
/// ops::append(cache.layer_mut(0), rows(), rows(), &step);
/// assert_eq!(cache.lengths(), [10]);
///
/// // A cache without room says so and is as it was; one that goes back has room again.
/// assert!(cache.prefill(&[23]).is_err());
/// cache.truncate(0, 8)?;
/// assert!(cache.prefill(&[23]).is_ok());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PagedKvCache {
    pub(super) config: PagedKvCacheConfig,
    pub(super) dtype: DType,
    pub(super) layers: Vec<LayerCache>,
    pub(super) table: PageTable,
    pub(super) device_page_table: Tensor<2, Int>,
    pub(super) entropies: Entropies,
    /// Whether the next step may pass over gaps: its policy was asked.
    pub(super) gaps_allowed: bool,
    /// Whether the pool grows when a decoded token finds no free page.
    pub(super) grows: bool,
}

impl PagedKvCache {
    pub(super) fn new(config: PagedKvCacheConfig, device: &Device, dtype: DType) -> Self {
        let (batch, max_pages) = (config.batch, config.max_pages());
        Self {
            layers: (0..config.n_layers)
                .map(|index| LayerCache::new(index, KvPool::new(&config, device, dtype)))
                .collect(),
            device_page_table: Tensor::zeros([batch, max_pages], (device, DType::I32)),
            entropies: Entropies::default(),
            gaps_allowed: false,
            grows: false,
            table: PageTable::new(config.n_pages, max_pages, config.page_size, batch),
            config,
            dtype,
        }
    }

    /// The same cache for the layers of a model from `first` on: policies count [layers](LayerCache::index) as the
    /// model does.
    pub fn with_first_layer(mut self, first: usize) -> Self {
        for (place, layer) in self.layers.iter_mut().enumerate() {
            layer.index = first + place;
        }
        self
    }

    /// Begins a pass over `new_tokens[i]` prompt tokens of sequence `i` (0 where there are none).
    ///
    /// # Errors
    ///
    /// When the pool or a sequence is full, or nothing is to be added; the cache is then unchanged.
    pub fn prefill(&mut self, new_tokens: &[usize]) -> Result<Step, CacheError> {
        self.begin(Phase::Prefill, new_tokens)
    }

    /// Begins a pass over one new token of every sequence.
    ///
    /// # Errors
    ///
    /// As [`prefill`](Self::prefill).
    pub fn decode(&mut self) -> Result<Step, CacheError> {
        self.begin(Phase::Decode, &vec![1; self.config.batch])
    }

    /// Begins a pass over one new token of those sequences that are still active.
    ///
    /// # Errors
    ///
    /// As [`prefill`](Self::prefill).
    pub fn decode_active(&mut self, active: &[bool]) -> Result<Step, CacheError> {
        let new_tokens = active.iter().map(|&a| usize::from(a)).collect::<Vec<_>>();
        self.begin(Phase::Decode, &new_tokens)
    }

    fn begin(&mut self, phase: Phase, new_tokens: &[usize]) -> Result<Step, CacheError> {
        let allowed = std::mem::take(&mut self.gaps_allowed) && phase == Phase::Decode;
        let grows = |sequence: usize| new_tokens.get(sequence).is_some_and(|&n| n > 0);
        let has_gaps = |&sequence: &usize| grows(sequence) && !self.table.gaps(sequence).is_empty();
        if let Some(sequence) = (0..self.config.batch).find(has_gaps)
            && !allowed
        {
            return Err(CacheError::Gaps { sequence });
        }
        self.table.release_reserved();
        if self.grows && phase == Phase::Decode {
            self.grow_for(new_tokens);
        }
        let starts = self.table.lengths().to_vec();
        if self.table.extend(new_tokens)? {
            self.upload_page_table();
        }
        Ok(Step::new(
            phase,
            self.config.page_size,
            starts,
            self.table.lengths().to_vec(),
            self.table.pages().to_vec(),
            self.device_page_table.clone(),
        )
        .with_entropies(self.entropies.clone()))
    }

    /// Notes how uncertain the model is about what follows a sequence: the entropy of the next token's
    /// distribution, in nats. Policies that [listen](crate::policy::PagePolicy::hears_entropy) find it in
    /// later steps; truncating forgets it.
    ///
    /// # Errors
    ///
    /// When there is no such sequence.
    pub fn note_entropy(&mut self, sequence: usize, entropy: f32) -> Result<(), CacheError> {
        let lengths = self.table.lengths();
        let length = *lengths.get(sequence).ok_or(CacheError::Sequence {
            sequence,
            batch: lengths.len(),
        })?;
        self.entropies.note(sequence, length, entropy);
        Ok(())
    }

    pub(super) fn upload_page_table(&mut self) {
        let (batch, max_pages) = (self.config.batch, self.config.max_pages());
        let pages = self.table.pages().iter().map(Vec::as_slice);
        let entries = page_table_entries(pages, batch, max_pages);
        let device = self.device_page_table.device();
        self.device_page_table = ints(entries, [batch, max_pages], &device);
    }

    /// Frees full pages of each sequence that `held` names in no layer, as all layers share pages; none where
    /// it says nothing of a layer. Says how many there were.
    ///
    /// It is called before each decode step, with what the step's policy
    /// [holds](crate::policy::PagePolicy::pages_held): a cache with such gaps takes no other step.
    ///
    /// # Errors
    ///
    /// When pages were freed before, and `held` says nothing of a layer.
    pub fn free_all_but(
        &mut self,
        held: impl Fn(&LayerCache, usize) -> Option<Vec<usize>>,
    ) -> Result<usize, CacheError> {
        let mut freed = 0;
        for sequence in 0..self.config.batch {
            let held = self.layers.iter().map(|layer| held(layer, sequence));
            match held.collect::<Option<Vec<_>>>() {
                Some(held) => {
                    let held = held.into_iter().flatten().collect::<BTreeSet<_>>();
                    let n_pages = self.table.pages()[sequence].len();
                    let unread = (0..n_pages).filter(|place| !held.contains(place));
                    freed += self.table.free(sequence, unread);
                }
                None if self.table.gaps(sequence).is_empty() => (),
                None => return Err(CacheError::Gaps { sequence }),
            }
        }
        self.gaps_allowed = true;
        Ok(freed)
    }

    /// Pages of the pool that each sequence has, without those that were [freed](Self::free_all_but).
    pub fn pages_in_use(&self) -> Vec<usize> {
        let sequences = self.table.pages().iter().enumerate();
        sequences
            .map(|(sequence, pages)| pages.len() - self.table.gaps(sequence).len())
            .collect()
    }

    /// Shortens a sequence to `length` tokens and frees the pages behind it. What policies remember
    /// of the sequence is forgotten: the tokens that stay count as a prompt.
    ///
    /// # Errors
    ///
    /// When there is no such sequence, it is shorter, or pages that would stay were freed; the cache is then
    /// unchanged.
    pub fn truncate(&mut self, sequence: usize, length: usize) -> Result<(), CacheError> {
        let held = self.table.lengths().get(sequence).copied();
        self.table.truncate(sequence, length)?;
        self.forget(sequence);
        if held != Some(length) {
            self.fold_last_page(sequence);
        }
        Ok(())
    }

    /// Folds the rows of a sequence's last page anew, as no digest can forget a key.
    pub(crate) fn fold_last_page(&mut self, sequence: usize) {
        let length = self.table.lengths()[sequence];
        let kept = length % self.config.page_size;
        if kept == 0 {
            return;
        }
        let page = self.table.pages()[sequence][length / self.config.page_size] as usize;
        for layer in &mut self.layers {
            layer.expect_tensor_writes();
            layer.pool.fold_pages(page..page + 1, kept);
            layer.pool.pack_pages(page..page + 1);
        }
    }

    /// Empties a sequence and frees its pages.
    ///
    /// # Errors
    ///
    /// When there is no such sequence.
    pub fn release(&mut self, sequence: usize) -> Result<(), CacheError> {
        self.table.truncate(sequence, 0)?;
        self.forget(sequence);
        Ok(())
    }

    fn forget(&mut self, sequence: usize) {
        self.entropies
            .truncate(sequence, self.table.lengths()[sequence]);
        for layer in &mut self.layers {
            layer.states_mut().forget(sequence);
        }
    }

    /// Empties every sequence.
    pub fn reset(&mut self) {
        for sequence in 0..self.config.batch {
            self.release(sequence)
                .expect("every sequence of the batch exists");
        }
    }

    /// The pages of a layer.
    ///
    /// # Panics
    ///
    /// When there is no such layer.
    pub fn layer(&self, layer: usize) -> &LayerCache {
        &self.layers[layer]
    }

    /// The pages of a layer, to append to.
    ///
    /// # Panics
    ///
    /// When there is no such layer.
    pub fn layer_mut(&mut self, layer: usize) -> &mut LayerCache {
        &mut self.layers[layer]
    }

    /// The sizes that the cache was made with.
    pub fn config(&self) -> &PagedKvCacheConfig {
        &self.config
    }

    /// Number of layers.
    pub fn n_layers(&self) -> usize {
        self.layers.len()
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        self.config.batch
    }

    /// Tokens per page.
    pub fn page_size(&self) -> usize {
        self.config.page_size
    }

    /// Tokens of a sequence before the first page that its policy has [freed](Self::free_all_but), where there is one:
    /// to so many it can be truncated.
    ///
    /// # Panics
    ///
    /// When there is no such sequence.
    pub fn tokens_before_freed(&self, sequence: usize) -> Option<usize> {
        let first = self.table.gaps(sequence).first()?;
        Some(first * self.config.page_size)
    }

    /// Tokens that each sequence holds.
    pub fn lengths(&self) -> &[usize] {
        self.table.lengths()
    }

    /// Pool pages that each sequence holds, in order.
    pub fn pages(&self) -> &[Vec<u32>] {
        self.table.pages()
    }

    /// Pages of the pool that no sequence holds.
    pub fn free_pages(&self) -> usize {
        self.table.n_free()
    }

    /// Bytes of keys, values and digests that the cache takes on its device.
    pub fn bytes(&self) -> u64 {
        self.config.bytes(self.dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> PagedKvCacheConfig {
        PagedKvCacheConfig::for_tokens(2, 2, 4, 8, 2, 20)
    }

    #[test]
    fn a_step_knows_where_tokens_go() {
        let mut cache = config().init(&Device::default(), DType::F32).unwrap();
        cache.prefill(&[9, 2]).unwrap();
        let step = cache.decode_active(&[true, false]).unwrap();
        assert_eq!(step.phase(), Phase::Decode);
        assert_eq!((step.starts(), step.lengths()), (&[9, 2][..], &[10, 2][..]));
        assert_eq!((step.new_tokens(0), step.new_tokens(1)), (1, 0));
        assert_eq!(step.pages(0), [0, 1]);
        let table = step.device_page_table().clone().into_data();
        assert_eq!(
            table.convert::<i64>().try_to_vec::<i64>().unwrap(),
            [0, 1, 0, 2, 0, 0]
        );
        let positions = step.positions().clone().into_data();
        assert_eq!(
            positions.convert::<i64>().try_to_vec::<i64>().unwrap(),
            [9, 2]
        );
    }

    #[test]
    fn reset_and_release_free_every_page() {
        let mut cache = config().init(&Device::default(), DType::F32).unwrap();
        cache.prefill(&[20, 20]).unwrap();
        assert_eq!(cache.free_pages(), 0);
        cache.release(1).unwrap();
        assert_eq!((cache.free_pages(), cache.lengths()), (3, &[20, 0][..]));
        cache.reset();
        assert_eq!((cache.free_pages(), cache.lengths()), (6, &[0, 0][..]));
    }
}
