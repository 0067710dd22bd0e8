//! Arguments that do not fit.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{DType, Int, Tensor};
use quest_burn::{
    PageSharing,
    cache::Sequences,
    digest::DigestKind,
    kernels::{self, ReadPages, Scoring, TopPages},
    ops::PageSelection,
};

use super::{
    bench::Bench,
    cases::{case, device, rng},
};

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
            match pages {
                Some(ids) => ReadPages::Listed(ids),
                None => ReadPages::All { bound },
            },
            &bench.sequences(),
            1.0,
        );
    };
    let top = |scores, lengths, k, sink_pages, recent_pages| {
        let selection = PageSelection {
            k,
            sink_pages,
            recent_pages,
        };
        let page_size = 16;
        drop(kernels::top_pages(
            scores,
            lengths,
            TopPages {
                page_size,
                selection,
                coming_pages: 0,
            },
        ));
    };

    let message = refusal(|| top(scores(), bench.lengths(), 0, 0, 0));
    assert!(
        message.contains("expected at least 1, found 0"),
        "{message}"
    );
    let message = refusal(|| top(scores(), bench.lengths(), 2, 2, 1));
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
            &bench.digests_of(bench.device_digests()),
            &Sequences {
                page_table: Tensor::zeros([sequences, columns], &device),
                starts: Tensor::zeros([sequences], &device),
                lengths: Tensor::zeros([sequences], &device),
            },
            Scoring {
                page_size: 16,
                rule: PageSharing::KvHead.into(),
                n_scores: 2,
            },
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
    let message = refusal(|| top(no_scores, no_lengths(), 2, 0, 0));
    assert!(message.contains("found 0 sequences"), "{message}");
}
