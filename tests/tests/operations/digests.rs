//! The digests of filled pages.

use quest_burn_tests::{
    arrays::{assert_close, rows},
    naive,
};

use super::{TOLERANCE, for_each_digest};

#[test]
fn digests_are_those_of_the_keys_of_each_page() {
    for_each_digest(|shape, filled, _, context| {
        let digest = filled.layer().digest();
        let [rows_of_page, _] = digest.shape(shape.head_dim);
        let digests = rows(filled.layer().digests());
        for (sequence, heads) in filled.keys.iter().enumerate() {
            for (head, keys) in heads.iter().enumerate() {
                let pages = filled.step.pages(sequence).iter();
                for (&page, keys) in pages.zip(keys.chunks(shape.page_size)) {
                    let row = (page as usize * shape.n_kv_heads + head) * rows_of_page;
                    let found = digests[row..row + rows_of_page].concat();
                    let mut expected = naive::digest(digest, keys).concat();
                    // The number for all channels is kept several times.
                    let last = expected[expected.len() - 1];
                    expected.resize(found.len(), last);
                    let context = format!("{context}: pool page {page}, head {head}");
                    if digest.is_bound() {
                        assert_eq!(found, expected, "{context}");
                    } else {
                        assert_close(&found, &expected, TOLERANCE, &context);
                    }
                }
            }
        }
    });
}
