//! The operations as kernels, with what they need taken from the cache and the step.

use burn::tensor::{Bool, DType, Int, Tensor, TensorData};

use super::{HeadNorms, past_table};
use crate::{
    cache::{Digests, Int8Digests, KvPool, LayerCache, Sequences, Step},
    kernels::{self, DecodeState, ReadPages, Scoring, TopKPages, TopPages},
    pages::{PageScoring, PageSelection, Pages, PastPages},
    rope::Rotations,
};

/// Lets a launch write the pool of a layer in place. The pool stays where it is if something else
/// holds a part of it, so that a refusal leaves the cache as it was.
fn write_pool<R>(
    operation: &str,
    cache: &mut LayerCache,
    stand_in: Tensor<4>,
    write: impl FnOnce(KvPool) -> (KvPool, R),
) -> R {
    kernels::check_held_alone(operation, &cache.pool);
    // Another tensor stands in meanwhile. An empty one, as `Tensor::extract` leaves, would have to
    // be allocated, and while a step is recorded no memory can be taken.
    let stand_in = KvPool {
        keys: stand_in.clone().into(),
        values: stand_in.clone().into(),
        digests: Digests {
            kind: cache.pool.digests.kind,
            rows: stand_in,
            int8: None,
        },
    };
    let pool = std::mem::replace(&mut cache.pool, stand_in);
    let (pool, rest) = write(pool);
    cache.pool = pool;
    rest
}

pub(super) fn most_probable(logits: Tensor<2>) -> Tensor<1, Int> {
    let ([batch, _], device) = (logits.dims(), logits.device());
    let ints = |value: i32| {
        let values = TensorData::new(vec![value; batch], [batch]);
        Tensor::<1, Int>::from_data(values, (&device, DType::I32))
    };
    // The end of a recorded step, of which one token of history is all that is looked at.
    let state = DecodeState {
        tokens: ints(0),
        starts: ints(0),
        lengths: ints(0),
        history: ints(0).reshape([batch, 1]),
    };
    kernels::next_tokens(logits, ints(1), state)
        .history
        .squeeze_dim(1)
}

pub(super) fn append(cache: &mut LayerCache, keys: Tensor<4>, values: Tensor<4>, step: &Step) {
    write_pool("append", cache, keys.clone(), |pool| {
        let pool = kernels::append(pool, keys, values, step.sequences());
        (pool, ())
    });
}

pub(super) fn rotate_append(
    cache: &mut LayerCache,
    qkv: Tensor<4>,
    norms: Option<&HeadNorms>,
    rotations: &Rotations,
    step: &Step,
) -> Tensor<4> {
    let dtype = cache.pool.dtype();
    write_pool("rotate_append", cache, qkv.clone(), |pool| {
        let norms = norms.map(|norms| (norms.gammas().cast(dtype), norms.epsilon()));
        let qkv = qkv.cast(dtype);
        kernels::rotate_append(pool, qkv, norms, rotations.table(), step.sequences())
    })
}

/// Query tokens of a pass that are few: their attention is split over a long context, as that of decoded tokens
/// is. A prompt's attention is not, and fills a device by its many tokens.
const FEW_TOKENS: usize = 16;

/// Whether attention of `tokens` new tokens in all is a kernel on this cache.
pub(super) fn prefills(cache: &LayerCache, tokens: usize) -> bool {
    let (dtype, head_dim) = (cache.pool.dtype(), cache.pool.head_dim());
    tokens <= FEW_TOKENS || kernels::prefills(&cache.device(), dtype, head_dim)
}

pub(super) fn prefill_attention(
    query: Tensor<4>,
    cache: &LayerCache,
    step: &Step,
    scale: f64,
) -> Tensor<4> {
    let dtype = query.dtype();
    let (keys, values) = (cache.key_rows().clone(), cache.value_rows().clone());
    let query = query.cast(cache.pool.dtype());
    let [batch, _, tokens, _] = query.dims();
    let (sequences, scale) = (step.sequences(), scale as f32);
    let output = match batch * tokens {
        1..=FEW_TOKENS => {
            let bound = step.max_pages();
            kernels::few_token_attention(query, keys, values, bound, sequences, scale)
        }
        _ => kernels::prefill_attention(query, keys, values, sequences, scale),
    };
    output.cast(dtype)
}

/// Whether [`sparse_prefill_attention`] is a kernel on this cache.
pub(super) fn prefills_sparsely(cache: &LayerCache) -> bool {
    kernels::prefills(&cache.device(), cache.pool.dtype(), cache.pool.head_dim())
}

pub(super) fn sparse_prefill_attention(
    query: Tensor<4>,
    cache: &LayerCache,
    past: &PastPages,
    step: &Step,
    scale: f64,
) -> Tensor<4> {
    let dtype = query.dtype();
    let (keys, values) = (cache.key_rows().clone(), cache.value_rows().clone());
    let query = query.cast(cache.pool.dtype());
    let sequences = past_table::sequences(past, step);
    kernels::prefill_attention(query, keys, values, &sequences, scale as f32).cast(dtype)
}

/// Packs every digest of a pool: as those of one sequence with all its pages.
pub(super) fn packed(mut digests: Digests, head_dim: usize) -> Digests {
    let [n_pages, n_kv_heads, _, _] = digests.rows.dims();
    let device = digests.rows.device();
    let int8 = Int8Digests::new(digests.kind, n_pages, n_kv_heads, head_dim, &device);
    digests.int8 = Some(int8);
    let pages = Tensor::<1, Int>::arange(0..n_pages as i64, (&device, DType::I32));
    let count = |n: usize| Tensor::<1, Int>::full([1], n as i32, (&device, DType::I32));
    let page_table = pages.reshape([1, n_pages]);
    // Some devices launch fewer than 65,536 cubes along an axis.
    const PAGES: usize = 1 << 15;
    for first in (0..n_pages).step_by(PAGES) {
        let last = n_pages.min(first + PAGES);
        let sequences = Sequences {
            page_table: page_table.clone(),
            starts: count(first),
            lengths: count(last),
        };
        // How many tokens a page holds does not matter to its digest.
        let page_size = 1;
        digests = kernels::quantize_digests(digests, &sequences, page_size, last - first);
    }
    digests
}

pub(super) fn page_scores(
    query: Tensor<3>,
    cache: &LayerCache,
    step: &Step,
    rule: PageScoring,
) -> Tensor<3> {
    let query = query.cast(cache.pool.dtype());
    let scoring = Scoring {
        page_size: step.page_size(),
        rule,
        n_scores: step.max_pages(),
    };
    kernels::page_scores(query, &cache.pool.digests, step.sequences(), scoring)
}

pub(super) fn top_pages(scores: Tensor<3>, step: &Step, selection: &PageSelection) -> Pages {
    Pages::Listed {
        ids: top_pages_ahead(scores, step, selection, 0),
        counts: selection.counts(step),
    }
}

pub(super) fn top_pages_ahead(
    scores: Tensor<3>,
    step: &Step,
    selection: &PageSelection,
    coming_pages: usize,
) -> Tensor<3, Int> {
    let top = top(step, selection, coming_pages);
    kernels::top_pages(scores, step.device_lengths().clone(), top)
}

pub(super) fn renew_top_pages(
    scores: Tensor<3>,
    step: &Step,
    (selection, coming_pages): (&PageSelection, usize),
    due: Tensor<1, Int>,
    ids: Tensor<3, Int>,
) -> Tensor<3, Int> {
    let top = top(step, selection, coming_pages);
    kernels::renew_top_pages(scores, step.device_lengths().clone(), due, ids, top)
}

fn top(step: &Step, selection: &PageSelection, coming_pages: usize) -> TopPages {
    TopPages {
        page_size: step.page_size(),
        selection: *selection,
        coming_pages,
    }
}

pub(super) fn paged_attention(
    query: Tensor<3>,
    cache: &LayerCache,
    pages: &Pages,
    step: &Step,
    scale: f64,
) -> Tensor<3> {
    let dtype = query.dtype();
    let (keys, values) = (cache.key_rows().clone(), cache.value_rows().clone());
    let query = query.cast(cache.pool.dtype());
    let pages = match pages {
        Pages::All => ReadPages::All {
            bound: step.max_pages(),
        },
        Pages::Listed { ids, .. } => ReadPages::Listed(ids.clone()),
        Pages::Tokens(_) => unreachable!("lists of tokens have an operation of their own"),
    };
    let output =
        kernels::paged_attention(query, keys, values, pages, step.sequences(), scale as f32);
    zero_where_idle(output.cast(dtype), step)
}

pub(super) fn top_k_attention(
    query: Tensor<3>,
    cache: &LayerCache,
    step: &Step,
    selection: &PageSelection,
    rule: PageScoring,
    scale: f64,
) -> Tensor<3> {
    let dtype = query.dtype();
    let pages = TopKPages {
        selection: *selection,
        rule,
        n_pages_bound: step.max_pages(),
    };
    let query = query.cast(cache.pool.dtype());
    let scale = scale as f32;
    let output = kernels::top_k_attention(query, &cache.pool, step.sequences(), pages, scale);
    zero_where_idle(output.cast(dtype), step)
}

/// Zeros for sequences that gain no token.
fn zero_where_idle(out: Tensor<3>, step: &Step) -> Tensor<3> {
    let batch = step.batch();
    let idle = (0..batch).map(|sequence| step.new_tokens(sequence) == 0);
    let idle = idle.collect::<Vec<_>>();
    if !idle.contains(&true) {
        return out;
    }
    let idle = TensorData::new(idle, [batch, 1, 1]);
    let idle = Tensor::<3, Bool>::from_data(idle, &out.device());
    let shape = out.dims();
    out.mask_fill(idle.expand(shape), 0.0)
}
