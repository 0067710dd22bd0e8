use burn::{
    config::Config,
    tensor::{DType, Device, Int, Tensor, TensorData},
};

use super::{
    CacheError, DigestFormat, Int8Digests, LayerCache, Phase, Step, digests::check_head_dim,
    table::PageTable,
};
use crate::{config::validate_page_size, ops};

/// Sizes of a [`PagedKvCache`].
#[derive(Config, Debug, PartialEq, Eq)]
pub struct PagedKvCacheConfig {
    /// Layers of the model.
    pub n_layers: usize,
    /// KV heads of a layer.
    pub n_kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Pages in each layer's pool, shared by the sequences of the batch.
    pub n_pages: usize,
    /// Tokens per page: a power of two from 8 to 128.
    #[config(default = 16)]
    pub page_size: usize,
    /// Sequences.
    #[config(default = 1)]
    pub batch: usize,
    /// Pages that one sequence can hold; the whole pool when not given.
    pub max_pages_per_sequence: Option<usize>,
    /// In which form the digests are read.
    #[config(default = "DigestFormat::Full")]
    pub digests: DigestFormat,
}

impl PagedKvCacheConfig {
    /// Room for `tokens` tokens in each of `batch` sequences.
    pub fn for_tokens(
        n_layers: usize,
        n_kv_heads: usize,
        head_dim: usize,
        page_size: usize,
        batch: usize,
        tokens: usize,
    ) -> Self {
        // A page size of zero is refused by `init`; here it must only not divide.
        let pages = tokens.div_ceil(page_size.max(1));
        Self::new(n_layers, n_kv_heads, head_dim, pages.saturating_mul(batch))
            .with_page_size(page_size)
            .with_batch(batch)
            .with_max_pages_per_sequence(Some(pages))
    }

    /// Bytes of keys, values and digests that the cache will take on its device; the largest number
    /// where they cannot be counted.
    pub fn bytes(&self, dtype: DType) -> u64 {
        self.key_value_bytes(dtype)
            .saturating_add(self.digest_bytes(dtype))
    }

    /// Bytes of keys and values.
    pub fn key_value_bytes(&self, dtype: DType) -> u64 {
        let rows = (self.page_size as u64).saturating_mul(2);
        rows.saturating_mul(self.row_bytes(dtype))
    }

    /// Bytes of digests: what Quest adds to a KV cache.
    pub fn digest_bytes(&self, dtype: DType) -> u64 {
        let full = self.row_bytes(dtype).saturating_mul(2);
        match self.digests {
            DigestFormat::Full => full,
            DigestFormat::Int8 => {
                let page = Int8Digests::bytes(1, self.head_dim);
                full.saturating_add(product([
                    self.n_layers,
                    self.n_pages,
                    self.n_kv_heads,
                    page,
                ]))
            }
        }
    }

    /// Bytes of one row of every page of every layer.
    fn row_bytes(&self, dtype: DType) -> u64 {
        product([
            self.n_layers,
            self.n_pages,
            self.n_kv_heads,
            self.head_dim,
            dtype.size(),
        ])
    }

    /// Checks what does not depend on a device.
    ///
    /// # Errors
    ///
    /// When a size is zero, or the page size or the head dim is not supported.
    pub fn validate(&self) -> Result<(), CacheError> {
        validate_page_size(self.page_size)?;
        for (what, value) in [
            ("a number of layers", self.n_layers),
            ("a number of KV heads", self.n_kv_heads),
            ("a head dim", self.head_dim),
            ("a number of pages", self.n_pages),
            ("a batch", self.batch),
            ("a number of pages per sequence", self.max_pages()),
        ] {
            if value == 0 {
                return Err(CacheError::Empty(what));
            }
        }
        match self.digests {
            DigestFormat::Full => Ok(()),
            DigestFormat::Int8 => check_head_dim(self.head_dim),
        }
    }

    fn max_pages(&self) -> usize {
        self.max_pages_per_sequence.unwrap_or(self.n_pages)
    }

    /// Allocates the cache.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate), and when sizes are beyond what can be addressed.
    pub fn init(&self, device: &Device, dtype: DType) -> Result<PagedKvCache, CacheError> {
        self.validate()?;
        let max_pages = self.max_pages();
        // Pages are numbered in i32.
        let most_pages = self.n_pages.max(max_pages);
        let table = product([self.batch, max_pages, size_of::<i32>()]);
        if most_pages > i32::MAX as usize || self.bytes(dtype).max(table) > isize::MAX as u64 {
            return Err(CacheError::TooLarge {
                n_pages: most_pages,
                batch: self.batch,
            });
        }
        let pool = [self.n_pages, self.n_kv_heads, self.page_size, self.head_dim];
        let table = PageTable::new(self.n_pages, max_pages, self.page_size, self.batch);
        Ok(PagedKvCache {
            layers: (0..self.n_layers)
                .map(|index| LayerCache::new(index, pool, device, dtype, self.digests))
                .collect(),
            device_page_table: Tensor::zeros([self.batch, max_pages], (device, DType::I32)),
            table,
            config: self.clone(),
            dtype,
        })
    }
}

/// A product, or the largest number where it is beyond that.
fn product<const N: usize>(factors: [usize; N]) -> u64 {
    let factors = factors.iter().map(|&factor| factor as u64);
    factors.fold(1, u64::saturating_mul)
}

/// Keys and values of a batch of sequences in pages, with a digest of each page.
///
/// A forward pass begins with [`prefill`](Self::prefill) or [`decode`](Self::decode), which takes
/// the pages for the new tokens and gives a [`Step`]; each layer then writes its rows with
/// [`ops::append`]. Memory is allocated once; nothing grows per step.
#[derive(Debug)]
pub struct PagedKvCache {
    config: PagedKvCacheConfig,
    dtype: DType,
    layers: Vec<LayerCache>,
    table: PageTable,
    device_page_table: Tensor<2, Int>,
}

impl PagedKvCache {
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
        self.table.release_reserved();
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
        ))
    }

    fn upload_page_table(&mut self) {
        let [batch, max_pages] = self.device_page_table.dims();
        let mut entries = vec![0i32; batch * max_pages];
        for (row, pages) in entries.chunks_exact_mut(max_pages).zip(self.table.pages()) {
            for (entry, &page) in row.iter_mut().zip(pages) {
                *entry = page as i32;
            }
        }
        // CUDA pitches the rows of some tensors; a reshaped line has none.
        let entries = TensorData::new(entries, [batch * max_pages]);
        let device = self.device_page_table.device();
        self.device_page_table =
            Tensor::<1, Int>::from_data(entries, (&device, DType::I32)).reshape([batch, max_pages]);
    }

    /// Takes the pages for `new_tokens[i]` coming tokens of sequence `i` ahead, or changes nothing.
    #[cfg(feature = "cube")]
    pub(crate) fn reserve(&mut self, new_tokens: &[usize]) -> Result<(), CacheError> {
        if self.table.reserve(new_tokens)? {
            self.upload_page_table();
        }
        Ok(())
    }

    /// Frees the pages that were reserved and hold no token.
    #[cfg(feature = "cube")]
    pub(crate) fn release_reserved(&mut self) {
        self.table.release_reserved();
    }

    /// Tokens that the pages of a sequence can still take.
    #[cfg(feature = "cube")]
    pub(crate) fn room(&self, sequence: usize) -> usize {
        self.table.room(sequence)
    }

    /// Tokens that a sequence can hold.
    #[cfg(feature = "cube")]
    pub(crate) fn capacity(&self) -> usize {
        self.table.capacity()
    }

    /// Counts a token in that a captured step has appended to reserved pages.
    #[cfg(feature = "cube")]
    pub(crate) fn advance(&mut self, grown: &[bool]) {
        self.table.advance(grown);
    }

    /// A decode step of every sequence that is recorded now and replayed while there is room in
    /// the pages that are reserved: kernels read where they are from these tensors (`[batch]`).
    #[cfg(feature = "cube")]
    pub(crate) fn captured_step(&self, starts: Tensor<1, Int>, lengths: Tensor<1, Int>) -> Step {
        Step::captured(
            self.config.page_size,
            self.table.lengths().to_vec(),
            self.table.pages().to_vec(),
            self.device_page_table.clone(),
            starts,
            lengths,
        )
    }

    /// Shortens a sequence to `length` tokens and frees the pages behind it. What policies remember
    /// of the sequence is forgotten: the tokens that stay count as a prompt.
    ///
    /// # Errors
    ///
    /// When there is no such sequence or it is shorter; the cache is then unchanged.
    pub fn truncate(&mut self, sequence: usize, length: usize) -> Result<(), CacheError> {
        self.table.truncate(sequence, length)?;
        self.forget(sequence);
        let kept = length % self.config.page_size;
        if kept > 0 {
            // Minimum and maximum cannot forget a key: fold the rows that stay anew.
            let page = self.table.pages()[sequence][length / self.config.page_size] as usize;
            for layer in &mut self.layers {
                ops::rebuild_digest(layer, page, kept);
            }
        }
        Ok(())
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
    fn bytes_count_keys_values_and_digests() {
        // 3 pages of 8 tokens per sequence, 2 sequences, 2 layers, 2 heads of 4 channels.
        let rows = 6 * 2 * 2 * 4;
        assert_eq!(config().key_value_bytes(DType::F16), rows * 8 * 2 * 2);
        assert_eq!(config().digest_bytes(DType::F16), rows * 2 * 2);
        assert_eq!(config().bytes(DType::F32), 2 * config().bytes(DType::F16));
    }

    #[test]
    fn sizes_beyond_what_can_be_addressed_are_refused() {
        let many = PagedKvCacheConfig::new(32, 8, 128, 1 << 56);
        assert_eq!(many.bytes(DType::F16), u64::MAX);
        let table = PagedKvCacheConfig::new(1, 1, 16, 1).with_batch(1 << 36);
        for config in [
            many,
            PagedKvCacheConfig::for_tokens(32, 8, 128, 16, usize::MAX, 1 << 40),
            table.with_max_pages_per_sequence(Some(1 << 31)),
        ] {
            let n_pages = config.max_pages_per_sequence.unwrap_or(0);
            let (n_pages, batch) = (n_pages.max(config.n_pages), config.batch);
            for digests in DigestFormat::ALL {
                let config = config.clone().with_digests(digests);
                let error = config.init(&Device::default(), DType::F16).unwrap_err();
                assert_eq!(error, CacheError::TooLarge { n_pages, batch });
            }
        }
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

    #[test]
    fn sizes_of_zero_are_refused() {
        let device = Device::default();
        let mut no_heads = config();
        no_heads.n_kv_heads = 0;
        let error = no_heads.init(&device, DType::F32).unwrap_err();
        assert_eq!(
            error.to_string(),
            "KV cache: expected a number of KV heads of at least 1, found 0"
        );
        let error = config()
            .with_page_size(0)
            .init(&device, DType::F32)
            .unwrap_err();
        assert!(matches!(error, CacheError::PageSize(_)));
    }
}
