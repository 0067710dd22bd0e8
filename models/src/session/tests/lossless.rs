//! Answers that a policy drafts and dense attention verifies.

use quest_burn::{digest::DigestKind, policy::DensePolicy};

use super::*;

/// A policy that is far from dense attention: two pages of 8.
fn lossy(kind: PolicyKind) -> Arc<dyn PagePolicy> {
    let quest = QuestConfig::new()
        .with_token_budget(16)
        .with_dense_layers(0);
    let policy = PolicyConfig::new(kind).with_quest(quest).init(8);
    policy.unwrap().into()
}

/// A session whose answers dense attention verifies.
fn lossless(model: &LocalModel, policy: &str, draft_tokens: usize) -> Session {
    let mut session = model.session().unwrap();
    session.set_policy(lossy(policy.parse().unwrap()));
    let config = LosslessConfig::new().with_draft_tokens(draft_tokens);
    session.set_lossless(Some(config)).unwrap();
    session
}

fn dense(model: &LocalModel) -> Session {
    let mut session = model.session().unwrap();
    session.set_policy(Arc::new(DensePolicy));
    session
}

/// Every digest is that of the keys which its page holds, to the last bit.
#[track_caller]
fn assert_digests_are_those_of_the_keys(session: &Session) {
    let cache = session.cache();
    let (length, page_size) = (cache.lengths()[0], cache.page_size());
    for layer in 0..cache.n_layers() {
        let layer = cache.layer(layer);
        for (i, &page) in cache.pages()[0].iter().enumerate() {
            let (page, rows) = (page as usize, page_size.min(length - i * page_size));
            let keys = layer.keys().clone().slice_dim(0, page..page + 1);
            let expected = layer.digest().fold(keys.slice_dim(2, 0..rows));
            let found = layer.digests().clone().slice_dim(0, page..page + 1);
            let values = |tensor: Tensor<4>| tensor.into_data().try_to_vec::<f32>().unwrap();
            assert_eq!(values(found), values(expected), "page {i} with {rows} keys");
        }
    }
}

#[test]
fn lossless_answers_are_those_of_dense_attention_whatever_is_drafted() {
    let model = model();
    let prompt = ids(45);
    let expected = generate(&mut dense(&model), &prompt, 40);
    let mut accepted = Vec::new();
    for policy in ["quest", "recent", "random:prompt=competes", "h2o", "dense"] {
        for draft_tokens in [1, 3, 7, 50] {
            let mut session = lossless(&model, policy, draft_tokens);
            let mut stream = session.generate_ids(&prompt, config(40)).unwrap();
            let found = stream.by_ref().map(Result::unwrap).collect::<Vec<_>>();
            assert_eq!(found, expected, "{policy}, {draft_tokens}");
            assert_eq!(stream.timings().decode_tokens, 39);
            let drafts = stream.drafts().unwrap();
            assert_eq!(drafts.accepted + drafts.passes, 39, "{policy}");
            accepted.push((policy, drafts.acceptance().unwrap()));
            drop(stream);
            assert_eq!(session.cache().lengths(), [45 + 39]);
        }
    }
    let all_accepted = |policy| {
        accepted
            .iter()
            .filter(|(p, _)| *p == policy)
            .all(|a| a.1 == 1.0)
    };
    assert!(all_accepted("dense"));
    assert!(!all_accepted("recent"), "the test is about rejected drafts");
}

#[test]
fn digests_are_as_if_nothing_had_been_drafted() {
    // Means may be summed up in another order; extremes have no order.
    let model = model().with_digest(DigestKind::MinMax);
    for draft_tokens in [1, 5, 12] {
        let mut session = lossless(&model, "recent", draft_tokens);
        for n in [9, 1, 14] {
            generate(&mut session, &ids(11), n);
            assert_digests_are_those_of_the_keys(&session);
        }
        let stream = session.generate_ids(&[], config(20)).unwrap();
        // Dropped within a pass.
        assert_eq!(stream.take(3).count(), 3);
        assert_eq!(session.cache().lengths(), [session.len() - 1]);
        assert_digests_are_those_of_the_keys(&session);
    }
}

#[test]
fn a_lossless_answer_ends_at_a_stop_token_within_a_pass() {
    let model = model();
    let expected = generate(&mut dense(&model), &ids(45), 20);
    let stop = expected[6];
    let first = expected.iter().position(|&id| id == stop).unwrap();
    let mut session = lossless(&model, "quest", 7);
    let config = config(20).with_stop_ids(Some(vec![stop]));
    let mut stream = session.generate_ids(&ids(45), config).unwrap();
    let found = stream.by_ref().map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(found, expected[..=first]);
    assert_eq!(stream.finish(), Some(Finish::Stop));
    drop(stream);
    assert_eq!(session.cache().lengths(), [45 + first]);
    // It goes on as if nothing had been drafted.
    let rest = generate(&mut session, &[], 19 - first);
    assert_eq!(rest, expected[first + 1..]);
}

#[test]
fn a_penalty_on_repetition_counts_drafted_tokens() {
    let model = model();
    let sampling = SamplingConfig::new().with_repetition_penalty(1.5);
    let config = config(30).with_sampling(sampling);
    let answer = |mut session: Session| {
        let new = session.generate_ids(&ids(21), config.clone()).unwrap();
        new.map(Result::unwrap).collect::<Vec<_>>()
    };
    let expected = answer(dense(&model));
    assert_eq!(answer(lossless(&model, "quest", 4)), expected);
    assert_eq!(answer(lossless(&model, "recent", 4)), expected);
}

#[test]
fn sampled_lossless_answers_are_distributed_as_those_of_dense_attention() {
    const DRAWS: u64 = 2000;
    let model = model();
    let prompt = ids(30);
    let sampling = SamplingConfig::new()
        .with_temperature(1.0)
        .with_top_k(Some(3));
    // What dense attention gives after some tokens.
    let mut sampler = sampling.init().unwrap();
    let mut after = |tokens: &[u32]| {
        let mut session = dense(&model);
        session.feed(&prompt).unwrap();
        for &id in tokens {
            session.decode(id).unwrap();
        }
        let logits = session.logits().unwrap();
        sampler.distribution(&logits, &[]).unwrap()
    };
    let mut paths = vec![(Vec::new(), 1.0)];
    for _ in 0..3 {
        let longer = paths.into_iter().flat_map(|(path, p): (Vec<u32>, f64)| {
            let next = after(&path);
            let ids = (0..40).filter(|&id| next.probability(id) > 0.0);
            let longer = ids.map(|id| {
                let path = path.iter().copied().chain([id]).collect::<Vec<_>>();
                (path, p * next.probability(id))
            });
            longer.collect::<Vec<_>>()
        });
        paths = longer.collect();
    }
    let mut counts = std::collections::BTreeMap::new();
    let mut session = lossless(&model, "recent", 2);
    session.feed(&prompt).unwrap();
    for seed in 0..DRAWS {
        session.truncate(prompt.len()).unwrap();
        let config = config(3).with_sampling(sampling.clone().with_seed(seed));
        let new = session.generate_ids(&[], config).unwrap();
        let new = new.map(Result::unwrap).collect::<Vec<_>>();
        *counts.entry(new).or_insert(0.0) += 1.0;
    }
    assert!(
        counts
            .keys()
            .all(|new| paths.iter().any(|(path, _)| path == new))
    );
    let statistic = paths.iter().map(|(path, p)| {
        let expected = p * DRAWS as f64;
        (counts.get(path).unwrap_or(&0.0) - expected).powi(2) / expected
    });
    let (statistic, freedom) = (statistic.sum::<f64>(), (paths.len() - 1) as f64);
    assert!(
        statistic < freedom + 4.5 * (2.0 * freedom).sqrt(),
        "{statistic} of {freedom}"
    );
}

#[test]
fn a_session_without_drafts_is_refused() {
    let model = model();
    let mut session = model.session().unwrap();
    let none = LosslessConfig::new().with_draft_tokens(0);
    let error = session.set_lossless(Some(none)).unwrap_err();
    assert!(error.is_bad_request());
    assert_eq!(
        error.to_string(),
        "draft tokens: expected at least 1, found 0"
    );
    assert_eq!(generate(&mut session, &ids(3), 2).len(), 2);
}
