//! Packed digests and their scales against the numbers that they stand for.

use quest_burn_tests::arrays::rows;

use super::{LEAST, for_each_shape, unpacked};

#[test]
fn minima_are_rounded_down_and_maxima_up_by_less_than_two_steps() {
    for_each_shape(|_, shape, filled, _, context| {
        let layer = filled.layer();
        for kv_head in 0..shape.n_kv_heads {
            let (packed, scales) = unpacked(layer, kv_head);
            for (sequence, heads) in filled.keys.iter().enumerate() {
                let pages = heads[kv_head].chunks(shape.page_size);
                for (keys, &page) in pages.zip(filled.step.pages(sequence)) {
                    let page = page as usize;
                    for channel in 0..shape.head_dim {
                        let keys = keys.iter().map(|key| key[channel]);
                        let low = keys.clone().fold(f64::INFINITY, f64::min);
                        let high = keys.fold(f64::NEG_INFINITY, f64::max);
                        let [below, above] = [0, 1].map(|row| packed[page][row][channel]);
                        let context = format!(
                            "{context}: sequence {sequence}, KV head {kv_head}, page {page}, \
                             channel {channel}: {low} to {high} became {below} to {above}"
                        );
                        assert!(below <= low + LEAST && above >= high - LEAST, "{context}");
                        // A step, and what a quotient near an integer is moved besides.
                        let most = 1.001 * scales[page][channel];
                        assert!(low - below <= most && above - high <= most, "{context}");
                    }
                }
            }
        }
    });
}

#[test]
fn scales_are_the_largest_magnitude_over_127() {
    for_each_shape(|_, shape, filled, _, context| {
        let layer = filled.layer();
        let digests = layer.digests().clone().swap_dims(0, 1);
        let digests = rows(&digests);
        let scales = rows(layer.int8_digests().expect("packed").scales());
        let [n_pages, ..] = layer.keys().dims();
        for (place, scales) in scales.iter().enumerate() {
            let (kv_head, page) = (place / n_pages, place % n_pages);
            assert_eq!(scales.len(), shape.head_dim.div_ceil(32));
            for (group, &found) in scales.iter().enumerate() {
                let channels = 32 * group..shape.head_dim.min(32 * (group + 1));
                let digest = &digests[2 * place..2 * place + 2];
                let largest = digest
                    .iter()
                    .flat_map(|row| &row[channels.clone()])
                    .fold(0.0, |largest: f64, x| largest.max(x.abs()));
                let least = largest / 127.0;
                assert!(
                    found > 0.0 && found >= least && (found <= 1.00001 * least || found < 1e-29),
                    "{context}: KV head {kv_head}, page {page}, group {group}: scale {found} for \
                     {largest}"
                );
            }
        }
    });
}
