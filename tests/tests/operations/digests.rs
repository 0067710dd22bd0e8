//! The digests of filled pages.

use quest_burn_tests::arrays::rows;

use super::for_each_shape;

#[test]
fn digests_are_the_extremes_of_each_page() {
    for_each_shape(|shape, filled, _, context| {
        let digests = rows(filled.layer().digests());
        for (sequence, heads) in filled.keys.iter().enumerate() {
            for (head, keys) in heads.iter().enumerate() {
                let pages = filled
                    .step
                    .pages(sequence)
                    .iter()
                    .zip(keys.chunks(shape.page_size));
                for (&page, keys) in pages {
                    let row = (page as usize * shape.n_kv_heads + head) * 2;
                    for channel in 0..shape.head_dim {
                        let of_channel = keys.iter().map(|key| key[channel]);
                        let min = of_channel.clone().fold(f64::INFINITY, f64::min);
                        let max = of_channel.fold(f64::NEG_INFINITY, f64::max);
                        let found = (digests[row][channel], digests[row + 1][channel]);
                        assert_eq!(
                            found,
                            (min, max),
                            "{context}: pool page {page}, head {head}"
                        );
                    }
                }
            }
        }
    });
}
