//! Lists of pages that serve several steps, made from those of one step on the host.

use burn::tensor::{Int, Tensor, TensorData};

use crate::{
    cache::Step,
    pages::{PageSelection, Pages},
};

/// What is chosen by scores where the last `coming_pages` of a list are still to come.
///
/// # Panics
///
/// When all pages of a list are.
pub(super) fn chosen(selection: &PageSelection, coming_pages: usize) -> PageSelection {
    assert!(
        coming_pages < selection.k,
        "pages to come: expected fewer than the {} pages to keep, found {coming_pages}",
        selection.k
    );
    PageSelection {
        k: selection.k - coming_pages,
        ..*selection
    }
}

/// The lists with the pages that are to come, `[batch, heads, selection.k]`.
pub(super) fn listed(
    pages: Pages,
    step: &Step,
    selection: &PageSelection,
    coming_pages: usize,
) -> Tensor<3, Int> {
    let Pages::Listed { ids, counts } = pages else {
        unreachable!("pages were chosen by their scores");
    };
    let ([batch, heads, longest], k) = (ids.dims(), selection.k);
    let device = ids.device();
    let chosen = ids.into_data().convert::<i32>().try_to_vec::<i32>();
    let chosen = chosen.expect("converted to i32");
    let mut lists = Vec::with_capacity(batch * heads * k);
    for (list, chosen) in chosen.chunks_exact(longest).enumerate() {
        let sequence = list / heads;
        let n_pages = step.pages(sequence).len();
        // A sequence that fits lists its pages whatever their scores.
        let (chosen, next) = match n_pages <= k {
            true => (&[][..], 0),
            false => (&chosen[..counts[sequence]], n_pages),
        };
        lists.extend_from_slice(chosen);
        let rest = (next..).take(k - chosen.len());
        lists.extend(rest.map(|page| match coming_pages > 0 || page < n_pages {
            true => page as i32,
            false => -1,
        }));
    }
    Tensor::from_data(TensorData::new(lists, [batch, heads, k]), &device)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;
    use crate::{cache::PagedKvCacheConfig, ops};

    #[test]
    fn lists_end_with_the_pages_that_come_next() {
        let device = Device::default();
        let config = PagedKvCacheConfig::for_tokens(1, 1, 8, 8, 4, 64);
        let mut cache = config.init(&device, DType::F32).unwrap();
        // 6, 4, 3 and 1 pages.
        let step = cache.prefill(&[48, 32, 24, 5]).unwrap();
        let scores = [1.0_f32, 9.0, 3.0, 8.0, 2.0, 0.0].repeat(4);
        let scores = Tensor::<3>::from_data(TensorData::new(scores, [4, 1, 6]), &device);
        let selection = PageSelection {
            k: 4,
            sink_pages: 1,
            recent_pages: 1,
        };
        let lists = |coming: usize| {
            let ids = ops::top_pages_ahead(scores.clone(), &step, &selection, coming);
            let ids = ids
                .into_data()
                .convert::<i32>()
                .try_to_vec::<i32>()
                .unwrap();
            ids.chunks(4).map(<[i32]>::to_vec).collect::<Vec<_>>()
        };
        let all = [0, 1, 2, 3];
        assert_eq!(
            lists(0),
            [[0, 1, 3, 5], all, [0, 1, 2, -1], [0, -1, -1, -1]]
        );
        assert_eq!(lists(1), [[0, 1, 5, 6], all, all, all]);
        assert_eq!(lists(2), [[0, 5, 6, 7], all, all, all]);
    }
}
