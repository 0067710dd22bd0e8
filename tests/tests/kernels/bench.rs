//! A pool of pages on the device and on the host.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use quest_burn::{
    cache::{Digests, Int8Rows, KvPool, KvRows, KvStorage, Sequences, contiguous},
    digest::DigestKind,
};
use quest_burn_tests::naive;
use rand::{rngs::StdRng, seq::SliceRandom};

use super::{
    cases::Case,
    numbers::{digest_len, normal, rounded},
};

/// A case with the rows of its sequences.
pub(super) struct Bench {
    pub(super) case: Case,
    pub(super) digest: DigestKind,
    /// How keys and values are kept; those of the host are what rows stand for.
    pub(super) storage: KvStorage,
    pub(super) dtype: DType,
    pub(super) device: Device,
    /// Pool pages of each sequence.
    pub(super) pages: Vec<Vec<usize>>,
    pub(super) n_pool: usize,
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
    pub(super) digests: Vec<f32>,
    pub(super) query: Vec<f32>,
}

impl Bench {
    pub(super) fn new(
        case: Case,
        digest: DigestKind,
        dtype: DType,
        device: &Device,
        rng: &mut StdRng,
    ) -> Self {
        Self::stored(case, digest, KvStorage::Full, dtype, device, rng)
    }

    /// The same with keys and values that are kept in this form.
    pub(super) fn stored(
        case: Case,
        digest: DigestKind,
        storage: KvStorage,
        dtype: DType,
        device: &Device,
        rng: &mut StdRng,
    ) -> Self {
        let Case {
            page_size,
            head_dim,
            n_kv_heads,
            group,
            ..
        } = case;
        let counts: Vec<usize> = case.lengths.iter().map(|l| l.div_ceil(page_size)).collect();
        let n_pool = counts.iter().sum::<usize>() + 3;
        let mut order: Vec<usize> = (0..n_pool).collect();
        order.shuffle(rng);
        let mut order = order.into_iter();
        let pages: Vec<Vec<usize>> = counts
            .iter()
            .map(|&n| order.by_ref().take(n).collect())
            .collect();
        let mut bench = Self {
            keys: vec![f32::NAN; n_pool * n_kv_heads * page_size * head_dim],
            values: vec![f32::NAN; n_pool * n_kv_heads * page_size * head_dim],
            digests: vec![f32::NAN; n_pool * n_kv_heads * digest_len(digest, head_dim)],
            query: normal(
                case.lengths.len() * n_kv_heads * group * head_dim,
                dtype,
                rng,
            ),
            case,
            digest,
            storage,
            dtype,
            device: device.clone(),
            pages,
            n_pool,
        };
        for sequence in 0..bench.case.lengths.len() {
            for position in 0..bench.case.lengths[sequence] {
                for head in 0..n_kv_heads {
                    let key = normal(head_dim, dtype, rng);
                    let value = normal(head_dim, dtype, rng);
                    bench.write(sequence, head, position, &key, &value);
                }
            }
        }
        bench
    }

    /// Offset of a row of keys or values.
    pub(super) fn row(&self, sequence: usize, head: usize, position: usize) -> usize {
        let Case {
            page_size,
            head_dim,
            n_kv_heads,
            ..
        } = self.case;
        let page = self.pages[sequence][position / page_size];
        ((page * n_kv_heads + head) * page_size + position % page_size) * head_dim
    }

    pub(super) fn write(
        &mut self,
        sequence: usize,
        head: usize,
        position: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let d = self.case.head_dim;
        let row = self.row(sequence, head, position);
        let (key, value) = (self.kept(key), self.kept(value));
        self.keys[row..row + d].copy_from_slice(&key);
        self.values[row..row + d].copy_from_slice(&value);
        let page = self.pages[sequence][position / self.case.page_size];
        let held = position % self.case.page_size + 1;
        let first = row + d - held * d;
        let keys = self.keys[first..row + d].chunks(d);
        let keys: Vec<Vec<f64>> = keys
            .map(|key| key.iter().map(|&x| x.into()).collect())
            .collect();
        let mut digest = naive::digest(self.digest, &keys).concat();
        let last = digest[digest.len() - 1];
        let n = digest_len(self.digest, d);
        digest.resize(n, last);
        let digest = digest.into_iter().map(|x| x as f32).collect();
        let digest = rounded(digest, self.dtype);
        let at = (page * self.case.n_kv_heads + head) * n;
        self.digests[at..at + n].copy_from_slice(&digest);
    }

    /// What a row is kept as.
    pub(super) fn kept(&self, row: &[f32]) -> Vec<f32> {
        match self.storage {
            KvStorage::Full => row.to_vec(),
            KvStorage::Int8 => {
                let largest = row.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                let scale = largest / 127.0;
                let kept = row.iter().map(|x| (x / scale + 0.5).floor() * scale);
                kept.collect()
            }
        }
    }

    pub(super) fn batch(&self) -> usize {
        self.case.lengths.len()
    }
    pub(super) fn n_heads(&self) -> usize {
        self.case.n_kv_heads * self.case.group
    }
    pub(super) fn n_pages(&self, sequence: usize) -> usize {
        self.pages[sequence].len()
    }
    pub(super) fn max_pages(&self) -> usize {
        self.pages.iter().map(Vec::len).max().unwrap().max(1)
    }
    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.case.head_dim as f32).sqrt()
    }

    pub(super) fn float<const D: usize>(&self, data: &[f32], shape: [usize; D]) -> Tensor<D> {
        // CUDA may pitch the rows of an upload; a reshaped line has none.
        let data = TensorData::new(data.to_vec(), [data.len()]).convert_dtype(self.dtype);
        Tensor::<1>::from_data(data, (&self.device, self.dtype)).reshape(shape)
    }
    /// Keys or values as they are kept.
    pub(super) fn pool(&self, data: &[f32]) -> KvRows {
        let Case {
            page_size,
            head_dim,
            n_kv_heads,
            ..
        } = self.case;
        let shape = [self.n_pool, n_kv_heads, page_size, head_dim];
        match self.storage {
            KvStorage::Full => self.float(data, shape).into(),
            KvStorage::Int8 => {
                let data = TensorData::new(data.to_vec(), shape);
                let rows = Tensor::<4>::from_data(data, (&self.device, DType::F32));
                let rows = Int8Rows::quantized(rows);
                let (words, scales) = (rows.words().clone(), rows.scales().clone());
                drop(rows);
                Int8Rows::from_parts(contiguous(words), contiguous(scales)).into()
            }
        }
    }
    pub(super) fn device_digests(&self) -> Tensor<4> {
        let [rows, channels] = self.digest.shape(self.case.head_dim);
        let shape = [self.n_pool, self.case.n_kv_heads, rows, channels];
        self.float(&self.digests, shape)
    }
    pub(super) fn device_query(&self) -> Tensor<3> {
        self.float(
            &self.query,
            [self.batch(), self.n_heads(), self.case.head_dim],
        )
    }
    pub(super) fn page_table(&self) -> Tensor<2, Int> {
        let max_pages = self.max_pages();
        // Past a sequence's pages the table names one that nobody wrote.
        let used: Vec<usize> = self.pages.iter().flatten().copied().collect();
        let unused = (0..self.n_pool).find(|page| !used.contains(page)).unwrap();
        let mut entries = vec![unused as i32; self.batch() * max_pages];
        for (row, pages) in entries.chunks_exact_mut(max_pages).zip(&self.pages) {
            for (entry, &page) in row.iter_mut().zip(pages) {
                *entry = page as i32;
            }
        }
        let entries = TensorData::new(entries, [self.batch(), max_pages]);
        Tensor::from_data(entries, (&self.device, DType::I32))
    }
    pub(super) fn ints(&self, counts: &[usize]) -> Tensor<1, Int> {
        let counts: Vec<i32> = counts.iter().map(|&n| n as i32).collect();
        let n = counts.len();
        Tensor::from_data(TensorData::new(counts, [n]), (&self.device, DType::I32))
    }
    pub(super) fn lengths(&self) -> Tensor<1, Int> {
        self.ints(&self.case.lengths)
    }
    /// The sequences while they grow from some lengths to others.
    pub(super) fn sequences_of(&self, starts: &[usize], lengths: &[usize]) -> Sequences {
        Sequences {
            page_table: self.page_table(),
            starts: self.ints(starts),
            lengths: self.ints(lengths),
        }
    }
    /// The sequences, which hold all of their tokens.
    pub(super) fn sequences(&self) -> Sequences {
        self.sequences_of(&self.case.lengths, &self.case.lengths)
    }
    /// Digests in the dtype of the cache.
    pub(super) fn digests_of(&self, rows: Tensor<4>) -> Digests {
        Digests {
            kind: self.digest,
            rows,
            int8: None,
        }
    }
    /// Everything that the pages hold.
    pub(super) fn kv_pool(&self) -> KvPool {
        KvPool {
            keys: self.pool(&self.keys),
            values: self.pool(&self.values),
            digests: self.digests_of(self.device_digests()),
        }
    }
    /// Pages that nobody wrote.
    pub(super) fn unwritten_pool(&self) -> KvPool {
        let [rows, channels] = self.digest.shape(self.case.head_dim);
        let shape = [self.n_pool, self.case.n_kv_heads, rows, channels];
        let digests = self.float(&vec![f32::NAN; self.digests.len()], shape);
        KvPool {
            keys: self.pool(&vec![f32::NAN; self.keys.len()]),
            values: self.pool(&vec![f32::NAN; self.values.len()]),
            digests: self.digests_of(digests),
        }
    }

    pub(super) fn name(&self) -> String {
        let (digest, storage) = (self.digest, self.storage);
        format!("{:?} {digest} {storage} {:?}", self.dtype, self.case)
    }
}
