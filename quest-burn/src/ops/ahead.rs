//! Lists of pages that serve several steps, made from those of one step on the host.

use burn::tensor::{DType, Int, Tensor, TensorData};

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
    let mut rest = Vec::with_capacity(batch * k);
    for (sequence, count) in counts.into_iter().enumerate() {
        let n_pages = step.pages(sequence).len();
        // A sequence that fits lists its pages whatever their scores.
        let (from, first) = match n_pages <= k {
            true => (0, 0),
            false => (count, n_pages),
        };
        rest.extend((0..k).map(|entry| match entry.checked_sub(from) {
            Some(after) if coming_pages > 0 || first + after < n_pages => (first + after) as i32,
            _ => -1,
        }));
    }
    let rest = TensorData::new(rest, [batch, 1, k]);
    let rest = Tensor::<3, Int>::from_data(rest, (&device, ids.dtype())).expand([batch, heads, k]);
    let none = Tensor::full([batch, heads, k - longest], -1, (&device, ids.dtype()));
    let ids = match longest < k {
        true => Tensor::cat(vec![ids, none], 2),
        false => ids,
    };
    let ids = ids.mask_where(rest.clone().greater_equal_scalar(0), rest);
    ids.cast(DType::I32)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

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
