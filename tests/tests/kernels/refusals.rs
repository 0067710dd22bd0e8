//! Arguments that do not fit.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{DType, Int, Tensor};
use quest_burn::{PageSharing, digest::DigestKind, kernels};

use super::bench::{Bench, case, device, rng};

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
    let bench = Bench::new(small, DigestKind::MinMax, DType::F32, &device, &mut rng);
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

    let message = refusal(|| drop(kernels::top_pages(scores(), bench.lengths(), 16, 0, 0, 0)));
    assert!(
        message.contains("expected at least 1, found 0"),
        "{message}"
    );
    let message = refusal(|| drop(kernels::top_pages(scores(), bench.lengths(), 16, 2, 2, 1)));
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

    let no_lengths = || Tensor::<1, Int>::zeros([0], &device);
    let score = |sequences: usize, columns: usize| {
        kernels::page_scores(
            Tensor::zeros([sequences, 4, 64], &device),
            bench.device_digests(),
            bench.digest,
            Tensor::zeros([sequences, columns], &device),
            Tensor::zeros([sequences], &device),
            16,
            PageSharing::KvHead,
            2,
        )
    };
    let message = refusal(|| drop(score(1, 0)));
    assert!(
        message.contains("columns of the page table: expected at least 1, found 0"),
        "{message}"
    );
    let message = refusal(|| drop(score(0, 2)));
    assert!(
        message.contains("sequences: expected at least 1, found 0"),
        "{message}"
    );
    let no_scores = Tensor::<3>::zeros([0, 2, 4], (&device, DType::F32));
    let message = refusal(|| drop(kernels::top_pages(no_scores, no_lengths(), 16, 2, 0, 0)));
    assert!(message.contains("found 0 sequences"), "{message}");
}
