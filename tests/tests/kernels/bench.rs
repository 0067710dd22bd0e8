//! A pool of pages on the device and on the host, and the cases that the kernels are tried on.

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use quest_burn::{
    cache::{Digests, Int8Rows, KvPool, KvRows, KvStorage, Sequences, contiguous},
    digest::DigestKind,
    kernels,
};
use quest_burn_tests::naive;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

/// One problem: a pool of pages that several sequences share.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) page_size: usize,
    pub(super) head_dim: usize,
    pub(super) n_kv_heads: usize,
    pub(super) group: usize,
    pub(super) lengths: Vec<usize>,
    pub(super) ks: Vec<usize>,
}

pub(super) fn case(
    (page_size, head_dim): (usize, usize),
    (n_kv_heads, group): (usize, usize),
    lengths: &[usize],
    ks: &[usize],
) -> Case {
    Case {
        page_size,
        head_dim,
        n_kv_heads,
        group,
        lengths: lengths.to_vec(),
        ks: ks.to_vec(),
    }
}

/// Page sizes, head dims and groups at their extremes, lengths at and around page edges.
pub(super) fn catalogue() -> Vec<Case> {
    vec![
        case((16, 128), (2, 4), &[1, 16, 17, 100, 0], &[1, 3, 7]),
        case((16, 128), (3, 1), &[333], &[5, 20, 21, 30]),
        case((8, 64), (1, 3), &[7, 8, 9, 64], &[1, 2, 8]),
        case((32, 32), (2, 2), &[31, 32, 200], &[2, 6]),
        case((64, 80), (1, 8), &[63, 64, 65, 300], &[3]),
        case((128, 256), (1, 2), &[129, 500], &[1, 3]),
        case((16, 8), (4, 2), &[40, 5], &[2]),
        case((16, 16), (1, 16), &[77, 160], &[4]),
        case((16, 96), (2, 7), &[50], &[3]),
        case((16, 64), (2, 2), &[5001], &[64, 313]),
        case((8, 48), (1, 5), &[2048, 2049, 1], &[100]),
        case((128, 128), (2, 2), &[129, 700], &[1, 3]),
        case((8, 128), (1, 8), &[203, 1, 0], &[2, 26, 40]),
        case((16, 112), (1, 12), &[35], &[2]),
        case((32, 64), (1, 32), &[70, 400], &[5]),
        case((16, 128), (1, 16), &[333, 17], &[4]),
        case((16, 128), (1, 17), &[40], &[2]),
    ]
}

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

    pub(super) fn name(&self) -> String {
        let (digest, storage) = (self.digest, self.storage);
        format!("{:?} {digest} {storage} {:?}", self.dtype, self.case)
    }
}

/// Normal numbers as the dtype holds them.
pub(super) fn normal(n: usize, dtype: DType, rng: &mut impl Rng) -> Vec<f32> {
    let numbers: Vec<f32> = (0..n)
        .map(|_| {
            let sum: f32 = (0..6).map(|_| rng.random_range(-1.0f32..1.0)).sum();
            sum / 2f32.sqrt()
        })
        .collect();
    rounded(numbers, dtype)
}

/// Numbers as the dtype holds them.
pub(super) fn rounded(numbers: Vec<f32>, dtype: DType) -> Vec<f32> {
    let n = numbers.len();
    let data = TensorData::new(numbers, [n]).convert_dtype(dtype);
    data.convert::<f32>().try_into_vec().unwrap()
}

/// Numbers in a page's digest of one head.
pub(super) fn digest_len(digest: DigestKind, head_dim: usize) -> usize {
    digest.shape(head_dim).iter().product()
}

pub(super) fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().unwrap()
}

pub(super) fn ints<const D: usize>(tensor: Tensor<D, Int>) -> Vec<i32> {
    tensor.into_data().convert::<i32>().try_into_vec().unwrap()
}

/// Leaves NaN in memory that the next allocations of up to `n` elements will get.
pub(super) fn poison(n: usize, device: &Device) {
    let buffers: Vec<Tensor<1>> = (0..4)
        .map(|_| Tensor::full([n.max(64)], f32::NAN, (device, DType::F32)))
        .collect();
    device.sync().unwrap();
    drop(buffers);
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

/// The device, for one test at a time: while a thread records a CUDA graph, no other may wait for
/// the device.
pub(super) fn device() -> (Device, MutexGuard<'static, ()>) {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let device = Device::default();
    assert!(kernels::supported(&device), "{device:?} runs the kernels");
    (device, alone)
}

pub(super) fn dtypes(device: &Device) -> Vec<DType> {
    let dtypes: Vec<DType> = [DType::F32, DType::F16, DType::BF16]
        .into_iter()
        .filter(|&dtype| kernels::supports(device, dtype, 128))
        .collect();
    assert!(dtypes.contains(&DType::F32));
    println!("{device:?}: {dtypes:?}");
    dtypes
}

pub(super) fn rng() -> StdRng {
    let seed = quest_burn_tests::seed();
    println!("QUEST_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Calls `test` for every case, form of rows and dtype of the device, with the paper's digests.
pub(super) fn for_each(test: impl Fn(&mut Bench, &mut StdRng)) {
    for_each_of(&[DigestKind::MinMax], &KvStorage::ALL, test);
}

/// The same with every kind of digests, of rows in the dtype.
pub(super) fn for_each_digest(test: impl Fn(&mut Bench, &mut StdRng)) {
    for_each_of(DigestKind::ALL, &[KvStorage::Full], test);
}

/// The same with every kind of digests of rows in every form.
pub(super) fn for_each_digest_and_form(test: impl Fn(&mut Bench, &mut StdRng)) {
    for_each_of(DigestKind::ALL, &KvStorage::ALL, test);
}

fn for_each_of(
    digests: &[DigestKind],
    storages: &[KvStorage],
    test: impl Fn(&mut Bench, &mut StdRng),
) {
    let ((device, _alone), mut rng) = (device(), rng());
    for dtype in dtypes(&device) {
        for case in catalogue() {
            let taken = storages
                .iter()
                .filter(|&&storage| kernels::takes_rows(&device, storage));
            for &storage in taken {
                // Rows in 8 bits have whole loads of 16 bytes.
                if storage == KvStorage::Int8 && !case.head_dim.is_multiple_of(16) {
                    continue;
                }
                for &digest in digests {
                    let (case, rng) = (case.clone(), &mut rng);
                    let mut bench = Bench::stored(case, digest, storage, dtype, &device, rng);
                    test(&mut bench, rng);
                }
            }
        }
    }
}
