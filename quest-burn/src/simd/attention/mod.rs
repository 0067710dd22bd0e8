mod part;
mod split;

use burn::tensor::Tensor;

use self::split::{Lists, attend_to_lists};
use super::{
    element::Widen,
    pool,
    pool::{OnRows, Pool, on_rows},
    scores::scores_of_all,
    select::best_of_all,
};
use crate::{
    cache::{LayerCache, Step},
    pages::{PageScoring, PageSelection, Pages},
};

/// [`crate::ops::paged_attention`].
///
/// # Panics
///
/// When the choice of pages is of a kind that [`super::reads`] denies.
pub(crate) fn paged_attention(
    query: Tensor<3>,
    cache: &LayerCache,
    pages: &Pages,
    step: &Step,
    scale: f64,
) -> Tensor<3> {
    let lists = match pages {
        Pages::All => (0..step.batch()).map(|_| None).collect(),
        Pages::Listed { ids, counts } => {
            let [_, lists, k] = ids.dims();
            let ids = ids.clone().into_data().convert::<i32>();
            let ids = ids.try_to_vec::<i32>().expect("converted to i32");
            let of_sequence = |(sequence, &count): (usize, &usize)| {
                // A list of every page is the dense case.
                let is_shorter = count < step.pages(sequence).len();
                is_shorter.then(|| {
                    let ids = &ids[sequence * lists * k..][..lists * k];
                    let list = |ids: &[i32]| ids[..count].iter().map(|&id| id as u32).collect();
                    ids.chunks_exact(k).map(list).collect()
                })
            };
            counts.iter().enumerate().map(of_sequence).collect()
        }
        #[allow(unreachable_patterns, reason = "policies may choose in other ways")]
        _ => unreachable!("the caller asks whether such a choice is read"),
    };
    let dtype = query.dtype();
    let shape = query.dims();
    let device = query.device();
    let output = attend(&pool::floats(query), shape, cache, lists, step, scale);
    pool::tensor(output, shape, &device).cast(dtype)
}

/// [`crate::ops::top_k_attention`].
pub(crate) fn top_k_attention(
    query: Tensor<3>,
    cache: &LayerCache,
    step: &Step,
    selection: &PageSelection,
    scoring: PageScoring,
    scale: f64,
) -> Tensor<3> {
    let dtype = query.dtype();
    let shape = query.dims();
    let device = query.device();
    let [_, n_heads, _] = shape;
    let [_, n_kv_heads, _, _] = cache.dims();
    let query = pool::floats(query);
    let lists = scoring.lists(n_heads, n_kv_heads);
    let scores = scores_of_all(&query, n_heads, cache, step, scoring);
    let chosen = best_of_all(&scores, lists, step, selection);
    let chosen = chosen.into_iter().enumerate().map(|(sequence, chosen)| {
        let is_shorter = selection.k < step.pages(sequence).len();
        is_shorter.then_some(chosen)
    });
    let output = attend(&query, shape, cache, chosen.collect(), step, scale);
    pool::tensor(output, shape, &device).cast(dtype)
}

fn attend(
    query: &[f32],
    shape: [usize; 3],
    cache: &LayerCache,
    lists: Vec<Lists>,
    step: &Step,
    scale: f64,
) -> Vec<f32> {
    let scaled = query.iter().map(|q| q * scale as f32).collect::<Vec<_>>();
    let work = AttendToLists {
        query: &scaled,
        shape,
        lists,
        step,
    };
    on_rows(&cache.pool.keys, &cache.pool.values, work)
}

/// [`attend_to_lists`] on rows of any elements.
struct AttendToLists<'a> {
    query: &'a [f32],
    shape: [usize; 3],
    lists: Vec<Lists>,
    step: &'a Step,
}

impl OnRows for AttendToLists<'_> {
    type Output = Vec<f32>;

    fn run<E: Widen>(self, keys: Pool<'_, E>, values: Pool<'_, E>) -> Vec<f32> {
        attend_to_lists(self.query, self.shape, keys, values, self.lists, self.step)
    }
}
