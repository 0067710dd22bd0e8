use burn::{
    config::Config,
    tensor::{DType, Device},
};

use super::{
    CacheError, DigestStorage, Int8Digests, KvStorage, PagedKvCache, digests::check_head_dim,
};
use crate::digest::DigestKind;

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
    #[config(default = "PagedKvCacheConfig::PAGE_SIZE")]
    pub page_size: usize,
    /// Sequences.
    #[config(default = 1)]
    pub batch: usize,
    /// Pages that one sequence can hold; the whole pool when not given.
    pub max_pages_per_sequence: Option<usize>,
    /// What a page's digest keeps of its keys.
    #[config(default = "DigestKind::default()")]
    pub digest: DigestKind,
    /// In which numbers the digests are read.
    #[config(default = "DigestStorage::Full")]
    pub digest_storage: DigestStorage,
    /// In which numbers keys and values are kept.
    #[config(default = "KvStorage::Full")]
    pub kv_storage: KvStorage,
}

impl PagedKvCacheConfig {
    /// Tokens per page where nothing else is asked for. The paper has 16; of digests that take as many bytes those of
    /// small pages lose less.
    pub const PAGE_SIZE: usize = 8;

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

    /// The same room for each sequence of a batch of so many.
    pub fn for_batch(mut self, batch: usize) -> Self {
        let pages = self.max_pages();
        self.n_pages = pages.saturating_mul(batch);
        self.max_pages_per_sequence = Some(pages);
        self.batch = batch;
        self
    }

    /// The same for a model of so many layers.
    pub fn for_layers(mut self, n_layers: usize) -> Self {
        self.n_layers = n_layers;
        self
    }

    /// Bytes of keys, values and digests that the cache will take on its device; the largest number
    /// where they cannot be counted.
    pub fn bytes(&self, dtype: DType) -> u64 {
        self.key_value_bytes(dtype)
            .saturating_add(self.digest_bytes(dtype))
    }

    /// Bytes of keys and values.
    pub fn key_value_bytes(&self, dtype: DType) -> u64 {
        let row = self.kv_storage.bytes_per_row(self.head_dim, dtype);
        product([
            self.n_layers,
            self.n_pages,
            self.n_kv_heads,
            self.page_size,
            2,
            row,
        ])
    }

    /// Bytes of digests: what Quest adds to a KV cache.
    pub fn digest_bytes(&self, dtype: DType) -> u64 {
        let [rows, channels] = self.digest.shape(self.head_dim);
        let full = self.bytes_per_page(rows.saturating_mul(channels), dtype);
        match self.digest_storage {
            DigestStorage::Full => full,
            DigestStorage::Int8 => {
                let page = Int8Digests::bytes(self.digest, 1, self.head_dim);
                full.saturating_add(product([
                    self.n_layers,
                    self.n_pages,
                    self.n_kv_heads,
                    page,
                ]))
            }
        }
    }

    /// Bytes of that many elements of every page and head of every layer.
    fn bytes_per_page(&self, elements: usize, dtype: DType) -> u64 {
        product([
            self.n_layers,
            self.n_pages,
            self.n_kv_heads,
            elements,
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
        if self.kv_storage == KvStorage::Int8 && check_head_dim(self.head_dim).is_err() {
            return Err(CacheError::Int8KvHeadDim(self.head_dim));
        }
        match self.digest_storage {
            DigestStorage::Full => Ok(()),
            DigestStorage::Int8 => check_head_dim(self.head_dim),
        }
    }

    /// Pages that one sequence can hold.
    pub fn max_pages(&self) -> usize {
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
        Ok(PagedKvCache::new(self.clone(), device, dtype))
    }
}

/// Whether pages can be of so many tokens.
pub(crate) fn validate_page_size(page_size: usize) -> Result<(), CacheError> {
    if page_size.is_power_of_two() && (8..=128).contains(&page_size) {
        Ok(())
    } else {
        Err(CacheError::PageSize(page_size))
    }
}

/// A product, or the largest number where it is beyond that.
fn product<const N: usize>(factors: [usize; N]) -> u64 {
    let factors = factors.iter().map(|&factor| factor as u64);
    factors.fold(1, u64::saturating_mul)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> PagedKvCacheConfig {
        PagedKvCacheConfig::for_tokens(2, 2, 4, 8, 2, 20).with_digest(DigestKind::MeanVar)
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
    fn rows_in_8_bits_take_a_byte_per_channel_and_a_scale() {
        let config = PagedKvCacheConfig::for_tokens(2, 2, 16, 8, 2, 20);
        let config = config.with_kv_storage(KvStorage::Int8);
        for dtype in [DType::F16, DType::F32] {
            assert_eq!(config.key_value_bytes(dtype), 6 * 2 * 2 * 8 * 2 * (16 + 4));
        }
        let error = PagedKvCacheConfig::for_tokens(2, 2, 24, 8, 2, 20)
            .with_kv_storage(KvStorage::Int8)
            .init(&Device::default(), DType::F32)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "int8 KV cache: expected a head dim that is a multiple of 16, found 24"
        );
    }

    #[test]
    fn a_batch_has_the_room_of_one_sequence_for_each() {
        let one = PagedKvCacheConfig::for_tokens(1, 2, 4, 8, 1, 20);
        let one = one.with_digest(DigestKind::MeanVar);
        assert_eq!(one.for_layers(2).for_batch(2), config());
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
            for digests in DigestStorage::ALL {
                let config = config.clone().with_digest_storage(digests);
                let error = config.init(&Device::default(), DType::F16).unwrap_err();
                assert_eq!(error, CacheError::TooLarge { n_pages, batch });
            }
        }
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
