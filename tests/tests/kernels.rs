//! Every kernel against a plain computation on the host, in every dtype of the device.
//!
//! Runs on the device that `BURN_DEVICE` names, else on the first that is compiled in. Pools are
//! NaN where no token was written; outputs are allocated over NaN.
#![cfg(any(
    feature = "cuda",
    feature = "rocm",
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal"
))]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, MutexGuard, PoisonError},
};

use burn::tensor::{DType, Device, Int, Tensor, TensorData, capture};
use quest_burn::{PageSharing, kernels};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

/// One problem: a pool of pages that several sequences share.
#[derive(Clone, Debug)]
struct Case {
    page_size: usize,
    head_dim: usize,
    n_kv_heads: usize,
    group: usize,
    lengths: Vec<usize>,
    ks: Vec<usize>,
}

fn case(
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
fn catalogue() -> Vec<Case> {
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
    ]
}

struct Bench {
    case: Case,
    dtype: DType,
    device: Device,
    /// Pool pages of each sequence.
    pages: Vec<Vec<usize>>,
    n_pool: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
    digests: Vec<f32>,
    query: Vec<f32>,
}

impl Bench {
    fn new(case: Case, dtype: DType, device: &Device, rng: &mut StdRng) -> Self {
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
            digests: vec![f32::NAN; n_pool * n_kv_heads * 2 * head_dim],
            query: normal(
                case.lengths.len() * n_kv_heads * group * head_dim,
                dtype,
                rng,
            ),
            case,
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
    fn row(&self, sequence: usize, head: usize, position: usize) -> usize {
        let Case {
            page_size,
            head_dim,
            n_kv_heads,
            ..
        } = self.case;
        let page = self.pages[sequence][position / page_size];
        ((page * n_kv_heads + head) * page_size + position % page_size) * head_dim
    }

    fn write(&mut self, sequence: usize, head: usize, position: usize, key: &[f32], value: &[f32]) {
        let d = self.case.head_dim;
        let row = self.row(sequence, head, position);
        self.keys[row..row + d].copy_from_slice(key);
        self.values[row..row + d].copy_from_slice(value);
        let page = self.pages[sequence][position / self.case.page_size];
        let digest = (page * self.case.n_kv_heads + head) * 2 * d;
        for (channel, &k) in key.iter().enumerate() {
            let fresh = position.is_multiple_of(self.case.page_size);
            let low = &mut self.digests[digest + channel];
            *low = if fresh { k } else { low.min(k) };
            let high = &mut self.digests[digest + d + channel];
            *high = if fresh { k } else { high.max(k) };
        }
    }

    fn batch(&self) -> usize {
        self.case.lengths.len()
    }
    fn n_heads(&self) -> usize {
        self.case.n_kv_heads * self.case.group
    }
    fn n_pages(&self, sequence: usize) -> usize {
        self.pages[sequence].len()
    }
    fn max_pages(&self) -> usize {
        self.pages.iter().map(Vec::len).max().unwrap().max(1)
    }
    fn scale(&self) -> f32 {
        1.0 / (self.case.head_dim as f32).sqrt()
    }

    fn float<const D: usize>(&self, data: &[f32], shape: [usize; D]) -> Tensor<D> {
        // CUDA may pitch the rows of an upload; a reshaped line has none.
        let data = TensorData::new(data.to_vec(), [data.len()]).convert_dtype(self.dtype);
        Tensor::<1>::from_data(data, (&self.device, self.dtype)).reshape(shape)
    }
    fn pool(&self, data: &[f32]) -> Tensor<4> {
        let Case {
            page_size,
            head_dim,
            n_kv_heads,
            ..
        } = self.case;
        self.float(data, [self.n_pool, n_kv_heads, page_size, head_dim])
    }
    fn device_digests(&self) -> Tensor<4> {
        let shape = [self.n_pool, self.case.n_kv_heads, 2, self.case.head_dim];
        self.float(&self.digests, shape)
    }
    fn device_query(&self) -> Tensor<3> {
        self.float(
            &self.query,
            [self.batch(), self.n_heads(), self.case.head_dim],
        )
    }
    fn page_table(&self) -> Tensor<2, Int> {
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
    fn ints(&self, counts: &[usize]) -> Tensor<1, Int> {
        let counts: Vec<i32> = counts.iter().map(|&n| n as i32).collect();
        let n = counts.len();
        Tensor::from_data(TensorData::new(counts, [n]), (&self.device, DType::I32))
    }
    fn lengths(&self) -> Tensor<1, Int> {
        self.ints(&self.case.lengths)
    }

    /// `sum_i max(q_i * min_i, q_i * max_i)` of one query head and page.
    fn bound(&self, sequence: usize, head: usize, page: usize) -> f64 {
        let d = self.case.head_dim;
        let q = &self.query[(sequence * self.n_heads() + head) * d..][..d];
        let pool_page = self.pages[sequence][page];
        let kv_head = head / self.case.group;
        let digest = (pool_page * self.case.n_kv_heads + kv_head) * 2 * d;
        (0..d)
            .map(|i| {
                let (low, high) = (self.digests[digest + i], self.digests[digest + d + i]);
                (f64::from(q[i]) * f64::from(low)).max(f64::from(q[i]) * f64::from(high))
            })
            .sum()
    }

    /// Attention of one query head over pages.
    fn attention(&self, sequence: usize, head: usize, pages: &[usize]) -> Vec<f64> {
        let (d, page_size) = (self.case.head_dim, self.case.page_size);
        let q = &self.query[(sequence * self.n_heads() + head) * d..][..d];
        let tokens: Vec<usize> = pages
            .iter()
            .flat_map(|&page| page * page_size..(page + 1) * page_size)
            .filter(|&token| token < self.case.lengths[sequence])
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

    fn name(&self) -> String {
        format!("{:?} {:?}", self.dtype, self.case)
    }
}

/// Normal numbers as the dtype holds them.
fn normal(n: usize, dtype: DType, rng: &mut impl Rng) -> Vec<f32> {
    let numbers: Vec<f32> = (0..n)
        .map(|_| {
            let sum: f32 = (0..6).map(|_| rng.random_range(-1.0f32..1.0)).sum();
            sum / 2f32.sqrt()
        })
        .collect();
    let data = TensorData::new(numbers, [n]).convert_dtype(dtype);
    data.convert::<f32>().try_into_vec().unwrap()
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().unwrap()
}

fn ints<const D: usize>(tensor: Tensor<D, Int>) -> Vec<i32> {
    tensor.into_data().convert::<i32>().try_into_vec().unwrap()
}

/// Leaves NaN in memory that the next allocations of up to `n` elements will get.
fn poison(n: usize, device: &Device) {
    let buffers: Vec<Tensor<1>> = (0..4)
        .map(|_| Tensor::full([n.max(64)], f32::NAN, (device, DType::F32)))
        .collect();
    device.sync().unwrap();
    drop(buffers);
}

/// `|found - expected| / |expected|`; infinite where a number is not finite.
fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
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

fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-5,
        DType::F16 => 1e-3,
        _ => 8e-3,
    }
}

/// The device, for one test at a time: while a thread records a CUDA graph, no other may wait for
/// the device.
fn device() -> (Device, MutexGuard<'static, ()>) {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let device = Device::default();
    assert!(kernels::supported(&device), "{device:?} runs the kernels");
    (device, alone)
}

fn dtypes(device: &Device) -> Vec<DType> {
    let dtypes: Vec<DType> = [DType::F32, DType::F16, DType::BF16]
        .into_iter()
        .filter(|&dtype| kernels::supports(device, dtype, 128))
        .collect();
    assert!(dtypes.contains(&DType::F32));
    println!("{device:?}: {dtypes:?}");
    dtypes
}

fn rng() -> StdRng {
    let seed: u64 = std::env::var("QUEST_TEST_SEED")
        .ok()
        .map(|seed| seed.parse().expect("QUEST_TEST_SEED is a number"))
        .unwrap_or_else(|| rand::rng().random());
    println!("QUEST_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Calls `test` for every case and dtype of the device.
fn for_each(test: impl Fn(&mut Bench, &mut StdRng)) {
    let ((device, _alone), mut rng) = (device(), rng());
    for dtype in dtypes(&device) {
        for case in catalogue() {
            test(&mut Bench::new(case, dtype, &device, &mut rng), &mut rng);
        }
    }
}

#[test]
fn page_scores_bound_every_page() {
    for_each(|bench, _| {
        for sharing in [PageSharing::KvHead, PageSharing::QueryHead] {
            let (heads, group) = match sharing {
                PageSharing::KvHead => (bench.case.n_kv_heads, bench.case.group),
                PageSharing::QueryHead => (bench.n_heads(), 1),
            };
            // As many scores as the table has pages, and fewer, as under a shorter bound.
            for n_scores in [bench.max_pages(), bench.max_pages() + 5] {
                poison(bench.batch() * heads * n_scores, &bench.device);
                let scores = floats(kernels::page_scores(
                    bench.device_query(),
                    bench.device_digests(),
                    bench.page_table(),
                    bench.lengths(),
                    bench.case.page_size,
                    sharing,
                    n_scores,
                ));
                for sequence in 0..bench.batch() {
                    let n = bench.n_pages(sequence);
                    for head in 0..heads {
                        for page in 0..n {
                            let expected = (head * group..(head + 1) * group)
                                .map(|head| bench.bound(sequence, head, page))
                                .fold(f64::MIN, f64::max);
                            let found = scores[(sequence * heads + head) * n_scores + page];
                            let error = (f64::from(found) - expected).abs();
                            // Relative to the size of the products, which may cancel.
                            let products = 4.0 * (bench.case.head_dim as f64).sqrt();
                            assert!(
                                error < 1e-6 * products.max(expected.abs()),
                                "{} {sharing:?}: expected {expected}, found {found}",
                                bench.name()
                            );
                        }
                    }
                }
            }
        }
    });
}

/// The selection as its contract says, on the host.
fn select(scores: &[f32], k: usize, pin_newest: bool, sinks: usize) -> Vec<i32> {
    let n = scores.len();
    let kept = |page: usize| page < sinks || (pin_newest && page + 1 == n);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| {
        (kept(b).cmp(&kept(a)))
            .then(scores[b].partial_cmp(&scores[a]).unwrap())
            .then(a.cmp(&b))
    });
    order.truncate(k);
    order.sort_unstable();
    let mut ids: Vec<i32> = order.into_iter().map(|page| page as i32).collect();
    ids.resize(k, -1);
    ids
}

/// Runs the selection on rows of scores, with one length per row, and checks all of it.
fn check_selection(
    rows: &[Vec<f32>],
    lengths: &[usize],
    k: usize,
    pin_newest: bool,
    sinks: usize,
    device: &Device,
) {
    let page_size = 16;
    let n_scores = rows[0].len();
    let scores: Vec<f32> = rows
        .iter()
        .zip(lengths)
        .flat_map(|(row, &length)| {
            let n = length.div_ceil(page_size);
            (0..n_scores).map(move |page| if page < n { row[page] } else { f32::NAN })
        })
        .collect();
    let scores = TensorData::new(scores, [rows.len(), 1, n_scores]);
    let counts: Vec<i32> = lengths.iter().map(|&n| n as i32).collect();
    let counts = TensorData::new(counts, [rows.len()]);
    poison(rows.len() * k, device);
    let ids = ints(kernels::top_pages(
        Tensor::from_data(scores, (device, DType::F32)),
        Tensor::from_data(counts, (device, DType::I32)),
        page_size,
        k,
        pin_newest,
        sinks,
    ));
    for (row, &length) in lengths.iter().enumerate() {
        let n = length.div_ceil(page_size);
        assert_eq!(
            ids[row * k..(row + 1) * k],
            select(&rows[row][..n], k, pin_newest, sinks),
            "{n} of {n_scores} pages, k {k}, pinned {pin_newest}, first {sinks}, row {row}"
        );
    }
}

#[test]
fn top_pages_are_exact_ascending_and_ties_go_to_the_lower_page() {
    let ((device, _alone), mut rng) = (device(), rng());
    for n in [1, 2, 31, 33, 64, 255, 1000, 2048, 5000] {
        let normal = normal(n, DType::F32, &mut rng);
        let rows = vec![
            normal.clone(),
            normal.iter().map(|x| (x * 2.0).round()).collect(),
            vec![-3.5; n],
            (0..n)
                .map(|i| if i % 2 == 0 { 0.0 } else { -0.0 })
                .collect(),
            normal.iter().map(|x| x.powi(15) * 1e20).collect(),
            (0..n).map(|i| 1000.0 + i as f32 * 1e-3).collect(),
            (0..n)
                .map(|i| f32::from_bits(0x3f80_0000 + (i % 7) as u32))
                .collect(),
        ];
        for k in [1, 2, 17, n / 2, n - 1, n, n + 3] {
            for (pin_newest, sinks) in [(false, 0), (true, 0), (true, 1), (false, 3), (true, 4)] {
                if k == 0 || sinks + usize::from(pin_newest) > k {
                    continue;
                }
                let lengths = vec![n * 16 - 3; rows.len()];
                check_selection(&rows, &lengths, k, pin_newest, sinks, &device);
            }
        }
    }
}

#[test]
fn top_pages_of_ragged_sequences_leave_scores_past_their_pages_unread() {
    let ((device, _alone), mut rng) = (device(), rng());
    let n = 700;
    let lengths = [0, 1, 16, 17, 100, 16 * n, 16 * 64, 16 * 65, 5000];
    let rows: Vec<Vec<f32>> = lengths
        .iter()
        .map(|_| normal(n, DType::F32, &mut rng))
        .collect();
    for k in [1, 4, 64, 65, 700] {
        check_selection(&rows, &lengths, k, true, 0, &device);
    }
}

#[test]
fn top_pages_of_a_million_tokens() {
    let ((device, _alone), mut rng) = (device(), rng());
    for n in [16_384, 65_536] {
        let normal = normal(n, DType::F32, &mut rng);
        let ties: Vec<f32> = normal.iter().map(|x| x.round()).collect();
        for k in [1, 128, 4097, n - 1, n] {
            let rows = [normal.clone(), ties.clone()];
            check_selection(&rows, &[n * 16, n * 16 - 15], k, true, 0, &device);
        }
    }
}

#[test]
fn attention_over_all_pages_is_softmax_attention() {
    for_each(|bench, _| {
        let out = attention(bench, None);
        let d = bench.case.head_dim;
        for sequence in 0..bench.batch() {
            let all: Vec<usize> = (0..bench.n_pages(sequence)).collect();
            for head in 0..bench.n_heads() {
                let found = &out[(sequence * bench.n_heads() + head) * d..][..d];
                let error = relative_error(found, &bench.attention(sequence, head, &all));
                assert!(
                    error < tolerance(bench.dtype),
                    "{}: {error:e}",
                    bench.name()
                );
            }
        }
    });
}

/// Attention over listed pages, or over all of them.
fn attention(bench: &Bench, pages: Option<Tensor<3, Int>>) -> Vec<f32> {
    let n_pages_bound = if pages.is_some() {
        0
    } else {
        bench.max_pages()
    };
    poison(
        bench.batch() * bench.n_heads() * bench.case.head_dim,
        &bench.device,
    );
    floats(kernels::paged_attention(
        bench.device_query(),
        bench.pool(&bench.keys),
        bench.pool(&bench.values),
        pages,
        bench.page_table(),
        bench.lengths(),
        bench.scale(),
        n_pages_bound,
    ))
}

/// `k` distinct pages of each sequence and list, ascending, -1 past its pages.
fn random_lists(bench: &Bench, lists: usize, k: usize, rng: &mut StdRng) -> Vec<i32> {
    let mut ids = Vec::new();
    for sequence in 0..bench.batch() {
        for _ in 0..lists {
            let mut pages: Vec<i32> = (0..bench.n_pages(sequence) as i32).collect();
            pages.shuffle(rng);
            pages.truncate(k);
            pages.sort_unstable();
            pages.resize(k, -1);
            ids.extend(pages);
        }
    }
    ids
}

fn listed_attention(bench: &Bench, ids: &[i32], lists: usize, k: usize) -> Vec<f32> {
    let ids = TensorData::new(ids.to_vec(), [bench.batch(), lists, k]);
    let ids = Tensor::from_data(ids, (&bench.device, DType::I32));
    attention(bench, Some(ids))
}

#[test]
fn attention_over_listed_pages_reads_no_other_page() {
    for_each(|bench, rng| {
        let d = bench.case.head_dim;
        for lists in [bench.case.n_kv_heads, bench.n_heads()] {
            for k in bench.case.ks.clone() {
                let ids = random_lists(bench, lists, k, rng);
                let out = listed_attention(bench, &ids, lists, k);
                for sequence in 0..bench.batch() {
                    for head in 0..bench.n_heads() {
                        let list = sequence * lists + head * lists / bench.n_heads();
                        let pages: Vec<usize> = ids[list * k..(list + 1) * k]
                            .iter()
                            .filter_map(|&id| usize::try_from(id).ok())
                            .collect();
                        let found = &out[(sequence * bench.n_heads() + head) * d..][..d];
                        let expected = bench.attention(sequence, head, &pages);
                        let error = relative_error(found, &expected);
                        let name = bench.name();
                        assert!(
                            error < tolerance(bench.dtype),
                            "{name}, {lists} lists of {k}: {error:e}"
                        );
                    }
                }
            }
        }
    });
}

#[test]
fn a_list_of_every_page_equals_dense_exactly() {
    for_each(|bench, rng| {
        let dense = attention(bench, None);
        let lists = bench.case.n_kv_heads;
        for k in [bench.max_pages(), bench.max_pages() + 70] {
            let ids = random_lists(bench, lists, k, rng);
            assert_eq!(
                listed_attention(bench, &ids, lists, k),
                dense,
                "{}",
                bench.name()
            );
        }
    });
}

#[test]
fn selection_within_attention_reads_the_same_pages() {
    for_each(|bench, _| {
        for (sharing, lists) in [
            (PageSharing::KvHead, bench.case.n_kv_heads),
            (PageSharing::QueryHead, bench.n_heads()),
        ] {
            let mut ks = bench.case.ks.clone();
            ks.push(bench.max_pages() + 70);
            for k in ks {
                let (pin_newest, sink_pages) = (k > 1, usize::from(k > 2));
                let scores = kernels::page_scores(
                    bench.device_query(),
                    bench.device_digests(),
                    bench.page_table(),
                    bench.lengths(),
                    bench.case.page_size,
                    sharing,
                    bench.max_pages(),
                );
                let ids = ints(kernels::top_pages(
                    scores,
                    bench.lengths(),
                    bench.case.page_size,
                    k,
                    pin_newest,
                    sink_pages,
                ));
                let expected = listed_attention(bench, &ids, lists, k);
                poison(expected.len(), &bench.device);
                let found = kernels::best_attention(
                    bench.device_query(),
                    bench.pool(&bench.keys),
                    bench.pool(&bench.values),
                    bench.device_digests(),
                    bench.page_table(),
                    bench.lengths(),
                    bench.scale(),
                    kernels::BestPages {
                        k,
                        pin_newest,
                        sink_pages,
                        sharing,
                        n_pages_bound: bench.max_pages(),
                    },
                );
                let name = bench.name();
                assert_eq!(floats(found), expected, "{name} {sharing:?} {k}");
            }
        }
    });
}

/// NaN equals NaN: what nobody wrote must still be there.
fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(
            f == e || (f.is_nan() && e.is_nan()),
            "{what} at {i}: expected {e}, found {f}"
        );
    }
}

#[test]
fn append_writes_rows_and_digests_in_place_and_nothing_else() {
    for_each(|bench, rng| {
        let Case {
            head_dim,
            n_kv_heads,
            page_size,
            ..
        } = bench.case;
        // The case's lengths are the capacity; appended in chunks of these sizes.
        let capacity = bench.case.lengths.clone();
        bench.keys.fill(f32::NAN);
        bench.values.fill(f32::NAN);
        bench.digests.fill(f32::NAN);
        let mut keys = bench.pool(&bench.keys);
        let mut values = bench.pool(&bench.values);
        let mut digests = bench.device_digests();
        // An upload that is under way holds the memory as well.
        bench.device.sync().unwrap();
        let mut starts = vec![0; bench.batch()];
        for chunk in [1, page_size - 1, 3, page_size * 2 + 1, 1, 1, page_size] {
            let new: Vec<usize> = starts
                .iter()
                .zip(&capacity)
                .enumerate()
                .map(|(i, (&start, &capacity))| {
                    // Every third sequence gains fewer tokens than the chunk has.
                    let wanted = if i % 3 == 2 { chunk / 2 } else { chunk };
                    wanted.min(capacity - start)
                })
                .collect();
            let lengths: Vec<usize> = starts.iter().zip(&new).map(|(s, n)| s + n).collect();
            let rows = bench.batch() * n_kv_heads * chunk * head_dim;
            let new_keys = normal(rows, bench.dtype, rng);
            let new_values = normal(rows, bench.dtype, rng);
            for sequence in 0..bench.batch() {
                for head in 0..n_kv_heads {
                    for j in 0..new[sequence] {
                        let at = ((sequence * n_kv_heads + head) * chunk + j) * head_dim;
                        let (key, value) = (
                            new_keys[at..at + head_dim].to_vec(),
                            new_values[at..at + head_dim].to_vec(),
                        );
                        bench.write(sequence, head, starts[sequence] + j, &key, &value);
                    }
                }
            }
            let shape = [bench.batch(), n_kv_heads, chunk, head_dim];
            (keys, values, digests) = kernels::append(
                keys,
                values,
                digests,
                bench.float(&new_keys, shape),
                bench.float(&new_values, shape),
                bench.page_table(),
                bench.ints(&starts),
                bench.ints(&lengths),
            );
            starts = lengths;
        }
        assert_same(
            &floats(keys),
            &bench.keys,
            &format!("{} keys", bench.name()),
        );
        assert_same(
            &floats(values),
            &bench.values,
            &format!("{} values", bench.name()),
        );
        assert_same(
            &floats(digests),
            &bench.digests,
            &format!("{} digests", bench.name()),
        );
    });
}

#[test]
fn append_refuses_a_pool_that_something_else_holds() {
    let ((device, _alone), mut rng) = (device(), rng());
    let small = case((16, 64), (2, 2), &[20], &[1]);
    let bench = Bench::new(small, DType::F32, &device, &mut rng);
    let keys = bench.pool(&bench.keys);
    let held = keys.clone();
    device.sync().unwrap();
    let row = || Tensor::<4>::zeros([1, 2, 1, 64], &device);
    // With fusion the refusal comes when the operations drain.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let (keys, values, digests) = kernels::append(
            keys,
            bench.pool(&bench.values),
            bench.device_digests(),
            row(),
            row(),
            bench.page_table(),
            bench.ints(&[3]),
            bench.ints(&[4]),
        );
        (floats(keys), floats(values), floats(digests))
    }));
    assert!(outcome.is_err());
    assert_same(&floats(held), &bench.keys, "the keys that are held");
}

/// What a layer has of its tokens, as tensors that nothing else holds.
struct Pools {
    full: (Tensor<4>, Tensor<4>, Tensor<4>),
    packed: (Tensor<4, Int>, Tensor<3>),
}

impl Pools {
    /// Those that no token was written to.
    fn new(bench: &Bench) -> Self {
        let Case {
            head_dim,
            n_kv_heads,
            ..
        } = bench.case;
        let words = [n_kv_heads, bench.n_pool, 2, head_dim / 4];
        let scales = [n_kv_heads, bench.n_pool, head_dim.div_ceil(32)];
        // CUDA may pitch the rows of what is made; a reshaped line has none.
        let line = |shape: &[usize]| [shape.iter().product::<usize>()];
        let zeros = Tensor::<1, Int>::zeros(line(&words), (&bench.device, DType::I32));
        let steps = Tensor::<1>::zeros(line(&scales), (&bench.device, DType::F32));
        Self {
            full: (
                bench.pool(&vec![f32::NAN; bench.keys.len()]),
                bench.pool(&vec![f32::NAN; bench.values.len()]),
                bench.float(
                    &vec![f32::NAN; bench.digests.len()],
                    [bench.n_pool, n_kv_heads, 2, head_dim],
                ),
            ),
            packed: (zeros.reshape(words), steps.reshape(scales)),
        }
    }

    fn read(self) -> (Vec<Vec<f32>>, Vec<i32>) {
        let (keys, values, digests) = self.full;
        let (words, scales) = self.packed;
        let numbers = vec![
            floats(keys),
            floats(values),
            floats(digests),
            floats(scales),
        ];
        (numbers, ints(words))
    }
}

fn assert_same_pools(found: Pools, expected: Pools, what: &str) {
    let ((found, found_words), (expected, expected_words)) = (found.read(), expected.read());
    let names = ["keys", "values", "digests", "scales"];
    for (name, (found, expected)) in names.iter().zip(found.iter().zip(&expected)) {
        assert_same(found, expected, &format!("{what} {name}"));
    }
    assert_eq!(found_words, expected_words, "{what} words");
    assert!(found_words.iter().any(|&word| word != 0), "{what} words");
}

/// The starts and lengths of steps that end inside pages and at their edges, up to the case's
/// lengths; every third sequence gains fewer tokens than the step has. With each the tokens that
/// the step has room for.
fn steps(case: &Case) -> Vec<(usize, Vec<usize>, Vec<usize>)> {
    let mut starts = vec![0; case.lengths.len()];
    let chunks = [1, case.page_size - 1, 3, case.page_size * 2 + 1, 1, 1];
    let steps = chunks.into_iter().map(|chunk| {
        let lengths = starts.iter().zip(&case.lengths).enumerate();
        let lengths = lengths.map(|(i, (&start, &capacity))| {
            let wanted = if i % 3 == 2 { chunk / 2 } else { chunk };
            capacity.min(start + wanted)
        });
        let lengths = lengths.collect::<Vec<_>>();
        (
            chunk,
            std::mem::replace(&mut starts, lengths.clone()),
            lengths,
        )
    });
    steps.collect()
}

/// [`for_each`] with those cases whose digests can be packed.
fn for_each_packed(test: impl Fn(&mut Bench, &mut StdRng)) {
    for_each(|bench, rng| {
        if bench.case.head_dim.is_multiple_of(16) {
            test(bench, rng);
        }
    });
}

fn quantized(
    bench: &Bench,
    pools: Pools,
    (tokens, starts, lengths): (usize, &[usize], &[usize]),
) -> Pools {
    let (words, scales) = pools.packed;
    let packed = kernels::quantize_digests(
        words,
        scales,
        pools.full.2.clone(),
        bench.page_table(),
        bench.ints(starts),
        bench.ints(lengths),
        bench.case.page_size,
        tokens,
    );
    Pools { packed, ..pools }
}

#[test]
fn append_packs_digests_as_a_launch_of_its_own_does() {
    for_each_packed(|bench, rng| {
        if !kernels::int8_appends(&bench.device) {
            println!("SKIPPED: {:?} binds too few buffers", bench.device);
            return;
        }
        let mut found = Pools::new(bench);
        let mut expected = Pools::new(bench);
        bench.device.sync().unwrap();
        for (tokens, starts, lengths) in steps(&bench.case) {
            let shape = [
                bench.batch(),
                bench.case.n_kv_heads,
                tokens,
                bench.case.head_dim,
            ];
            let mut rows = || {
                let rows = normal(shape.iter().product(), bench.dtype, rng);
                bench.float(&rows, shape)
            };
            let (new_keys, new_values) = (rows(), rows());
            let (full, packed) = kernels::int8_append(
                found.full,
                found.packed,
                new_keys.clone(),
                new_values.clone(),
                bench.page_table(),
                bench.ints(&starts),
                bench.ints(&lengths),
            );
            found = Pools { full, packed };
            let (keys, values, digests) = expected.full;
            let full = kernels::append(
                keys,
                values,
                digests,
                new_keys,
                new_values,
                bench.page_table(),
                bench.ints(&starts),
                bench.ints(&lengths),
            );
            expected = quantized(
                bench,
                Pools { full, ..expected },
                (tokens, &starts, &lengths),
            );
        }
        assert_same_pools(found, expected, &bench.name());
    });
}

#[test]
fn rotate_append_packs_digests_as_a_launch_of_its_own_does() {
    for_each_packed(|bench, rng| {
        for normed in [false, true] {
            if !kernels::int8_rotates(&bench.device, normed) {
                println!("SKIPPED: {:?} binds too few buffers", bench.device);
                continue;
            }
            let d = bench.case.head_dim;
            let heads = bench.n_heads() + 2 * bench.case.n_kv_heads;
            let gammas = bench.float(&normal(2 * d, bench.dtype, rng), [2, d]);
            let norms = normed.then_some((gammas, 1e-5));
            let mut found = Pools::new(bench);
            let mut expected = Pools::new(bench);
            bench.device.sync().unwrap();
            for (tokens, starts, lengths) in steps(&bench.case) {
                let shape = [bench.batch(), tokens, heads, d];
                let qkv = normal(shape.iter().product(), bench.dtype, rng);
                let qkv = bench.float(&qkv, shape);
                let angles = [bench.batch(), tokens, d];
                let rotations = normal(angles.iter().product(), DType::F32, rng);
                let rotations = TensorData::new(rotations, angles);
                let rotations = Tensor::<3>::from_data(rotations, (&bench.device, DType::F32));
                let (full, packed, found_query) = kernels::int8_rotate_append(
                    found.full,
                    found.packed,
                    qkv.clone(),
                    norms.clone(),
                    rotations.clone(),
                    bench.page_table(),
                    bench.ints(&starts),
                    bench.ints(&lengths),
                );
                found = Pools { full, packed };
                let (keys, values, digests, query) = kernels::rotate_append(
                    expected.full,
                    qkv,
                    norms.clone(),
                    rotations,
                    bench.page_table(),
                    bench.ints(&starts),
                    bench.ints(&lengths),
                );
                let full = (keys, values, digests);
                expected = quantized(
                    bench,
                    Pools { full, ..expected },
                    (tokens, &starts, &lengths),
                );
                let what = format!("{} queries, normed: {normed}", bench.name());
                assert_same(&floats(found_query), &floats(query), &what);
            }
            let what = format!("{}, normed: {normed}", bench.name());
            assert_same_pools(found, expected, &what);
        }
    });
}

#[test]
fn packed_digests_that_something_else_holds_are_refused() {
    let ((device, _alone), mut rng) = (device(), rng());
    if !kernels::int8_appends(&device) {
        println!("SKIPPED: {device:?} binds too few buffers");
        return;
    }
    let small = case((16, 64), (2, 2), &[20], &[1]);
    let bench = Bench::new(small, DType::F32, &device, &mut rng);
    for words_are_held in [true, false] {
        let Pools { full, packed } = Pools::new(&bench);
        let held_words = words_are_held.then(|| packed.0.clone());
        let held_scales = (!words_are_held).then(|| packed.1.clone());
        device.sync().unwrap();
        let row = || Tensor::<4>::zeros([1, 2, 1, 64], &device);
        // With fusion the refusal comes when the operations drain.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let (full, packed) = kernels::int8_append(
                full,
                packed,
                row(),
                row(),
                bench.page_table(),
                bench.ints(&[3]),
                bench.ints(&[4]),
            );
            Pools { full, packed }.read()
        }));
        assert!(outcome.is_err(), "words are held: {words_are_held}");
        let held = held_words.map(|words| ints(words).into_iter().all(|word| word == 0));
        assert_ne!(held, Some(false), "the words that are held");
        let held = held_scales.map(|scales| floats(scales).into_iter().all(|scale| scale == 0.0));
        assert_ne!(held, Some(false), "the scales that are held");
    }
}

/// A decode step of one layer on the device: append, select, attend.
#[test]
fn a_captured_step_replays_at_any_position() {
    let ((device, _alone), mut rng) = (device(), rng());
    let (warm_up, replays) = (4usize, 40usize);
    for dtype in dtypes(&device) {
        let capacity = 100;
        let mut bench = Bench::new(
            case((16, 64), (2, 2), &[capacity], &[2]),
            dtype,
            &device,
            &mut rng,
        );
        bench.digests.fill(f32::NAN);
        let new_key = normal(2 * 64, dtype, &mut rng);
        let new_value = normal(2 * 64, dtype, &mut rng);
        let row = |data: &[f32]| bench.float(data, [1, 2, 1, 64]);
        let (new_keys, new_values) = (row(&new_key), row(&new_value));
        let query = bench.device_query();
        let page_table = bench.page_table();
        let max_pages = bench.max_pages();
        let scale = bench.scale();
        let mut state = Some((
            bench.pool(&vec![f32::NAN; bench.keys.len()]),
            bench.pool(&vec![f32::NAN; bench.values.len()]),
            bench.device_digests(),
            bench.ints(&[0]),
            bench.ints(&[1]),
        ));
        device.sync().unwrap();
        let mut graph = capture(&device, || {
            let (keys, values, digests, start, length) = state.take().unwrap();
            let (keys, values, digests) = kernels::append(
                keys,
                values,
                digests,
                new_keys.clone(),
                new_values.clone(),
                page_table.clone(),
                start.clone(),
                length.clone(),
            );
            let scores = kernels::page_scores(
                query.clone(),
                digests.clone(),
                page_table.clone(),
                length.clone(),
                16,
                PageSharing::KvHead,
                max_pages,
            );
            let pages = kernels::top_pages(scores, length.clone(), 16, 2, true, 0);
            let out = kernels::paged_attention(
                query.clone(),
                keys.clone(),
                values.clone(),
                Some(pages),
                page_table.clone(),
                length.clone(),
                scale,
                0,
            );
            let best = kernels::best_attention(
                query.clone(),
                keys.clone(),
                values.clone(),
                digests.clone(),
                page_table.clone(),
                length.clone(),
                scale,
                kernels::BestPages {
                    k: 2,
                    pin_newest: true,
                    sink_pages: 0,
                    sharing: PageSharing::KvHead,
                    n_pages_bound: max_pages,
                },
            );
            let (start, length) = (kernels::advance(start), kernels::advance(length));
            state = Some((keys, values, digests, start, length));
            (out, best)
        });
        device.sync().unwrap();
        for _ in 0..replays {
            // SAFETY: the state that the graph writes is alive and not touched in between.
            unsafe { graph.replay() };
        }
        device.sync().unwrap();
        let hardware = graph.is_hardware();
        let (out, best) = graph.output().clone();
        let (out, best) = (floats(out), floats(best));
        drop(graph);
        assert_eq!(best, out, "{dtype:?}");
        let (keys, values, digests, start, _) = state.take().unwrap();
        let length = ints(start)[0] as usize;
        println!("{dtype:?}: hardware graph {hardware}, {length} tokens");
        assert!(length > replays && length <= replays + warm_up, "{length}");
        // Every value row is the same, so that it is the output whatever the pages.
        for head in 0..4 {
            let expected: Vec<f64> = new_value[head / 2 * 64..][..64]
                .iter()
                .map(|&x| x.into())
                .collect();
            let error = relative_error(&out[head * 64..][..64], &expected);
            assert!(error < tolerance(dtype), "{dtype:?}: {error:e}");
        }
        bench.keys.fill(f32::NAN);
        bench.values.fill(f32::NAN);
        for position in 0..length {
            for head in 0..2 {
                let (key, value) = (&new_key[head * 64..][..64], &new_value[head * 64..][..64]);
                bench.write(0, head, position, key, value);
            }
        }
        assert_same(&floats(keys), &bench.keys, "keys");
        assert_same(&floats(values), &bench.values, "values");
        assert_same(&floats(digests), &bench.digests, "digests");
    }
}

/// What a call that must be refused says.
fn refusal(call: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(call)).expect_err("the call is refused");
    match payload.downcast::<String>() {
        Ok(message) => *message,
        Err(payload) => payload.downcast_ref::<&str>().unwrap().to_string(),
    }
}

#[test]
fn arguments_that_do_not_fit_are_refused_before_a_launch() {
    let ((device, _alone), mut rng) = (device(), rng());
    let small = case((16, 64), (2, 2), &[20], &[1]);
    let bench = Bench::new(small, DType::F32, &device, &mut rng);
    let scores = || Tensor::<3>::zeros([1, 2, 4], (&device, DType::F32));
    let attend = |query: Tensor<3>, pages: Option<Tensor<3, Int>>, bound: usize| {
        kernels::paged_attention(
            query,
            bench.pool(&bench.keys),
            bench.pool(&bench.values),
            pages,
            bench.page_table(),
            bench.lengths(),
            1.0,
            bound,
        );
    };

    let message = refusal(|| {
        drop(kernels::top_pages(
            scores(),
            bench.lengths(),
            16,
            0,
            false,
            0,
        ))
    });
    assert!(
        message.contains("expected at least 1, found 0"),
        "{message}"
    );
    let message = refusal(|| {
        drop(kernels::top_pages(
            scores(),
            bench.lengths(),
            16,
            2,
            true,
            2,
        ))
    });
    assert!(
        message.contains("at most the 2 pages to keep, found 3"),
        "{message}"
    );
    let message = refusal(|| attend(Tensor::zeros([1, 3, 64], &device), None, 2));
    assert!(
        message.contains("a multiple of the 2 KV heads, found 3"),
        "{message}"
    );
    let message = refusal(|| attend(bench.device_query(), None, 3));
    assert!(
        message.contains("at most the page table's 2, found 3"),
        "{message}"
    );
    let three = Tensor::<3, Int>::zeros([1, 3, 1], &device);
    let message = refusal(|| attend(bench.device_query(), Some(three), 0));
    assert!(
        message.contains("4 query heads or 2 KV heads, found 3"),
        "{message}"
    );
    refusal(|| attend(Tensor::zeros([1, 4, 32], &device), None, 2));
}
