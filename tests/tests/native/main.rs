//! The native operations of the Flex backend against their bodies in tensor operations, in every
//! dtype, over the catalogue of shapes, in caches whose unfilled rows are NaN.
#![cfg(feature = "flex")]

mod case;
mod filled;
mod in_place;
mod reference;
mod threads;

use burn::tensor::Tensor;
use quest_burn::{GroupRule, PageScoring, PageSharing, digest::DigestKind, policy::PageSelection};
use quest_burn_tests::{
    arrays::{assert_close, rows},
    catalogue::AttentionShape,
};

use self::case::{Case, cases};

/// Sums in f32 of up to some thousand products of values in -2..2, in another order.
const TOLERANCE: f64 = 2e-5;

fn close<const D: usize>(found: &Tensor<D>, expected: &Tensor<D>, context: &str) {
    close_within(TOLERANCE, found, expected, context);
}

fn close_within<const D: usize>(
    tolerance: f64,
    found: &Tensor<D>,
    expected: &Tensor<D>,
    context: &str,
) {
    assert_eq!(found.dtype(), expected.dtype(), "{context}");
    let flat = |tensor: &Tensor<D>| rows(tensor).concat();
    assert_close(&flat(found), &flat(expected), tolerance, context);
}

/// Every way to make a list's scores of those of query heads, and other deviations than the digest's.
fn scorings() -> [PageScoring; 4] {
    let group = PageScoring::from(PageSharing::KvHead);
    [
        group,
        PageSharing::QueryHead.into(),
        PageScoring {
            group_rule: GroupRule::Mean,
            ..group
        },
        PageScoring {
            deviations: Some("0.75".parse().expect("a number")),
            ..group
        },
    ]
}

/// With the paper's digests.
fn for_each_case(test: impl Fn(&Case)) {
    for_each_case_of(&[DigestKind::MinMax], test);
}

/// With every kind of digests.
fn for_each_digest(test: impl Fn(&Case)) {
    for_each_case_of(DigestKind::ALL, test);
}

fn for_each_case_of(digests: &[DigestKind], test: impl Fn(&Case)) {
    let seed = quest_burn_tests::seed();
    println!("QUEST_TEST_SEED={seed}");
    cases(digests, seed).iter().for_each(test);
}

fn selection(shape: &AttentionShape, recent_pages: usize) -> PageSelection {
    PageSelection {
        k: shape.budget_pages,
        sink_pages: usize::from(shape.budget_pages > 2),
        recent_pages,
    }
}
