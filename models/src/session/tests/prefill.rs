//! Sessions of models whose prompts read pages of their past.

use quest_burn::policy::{PrefillConfig, QuestPrefillConfig};

use super::*;
use crate::speculative::LosslessConfig;

/// The same model, whose prompts read so many tokens of their past.
fn sparse_prompts(budget: usize) -> LocalModel {
    let quest = QuestPrefillConfig::new().with_token_budget(budget);
    model().with_prefill(PrefillConfig::Quest(quest))
}

fn logits_after(model: &LocalModel, ids: &[u32]) -> Vec<f32> {
    let mut session = model.session().unwrap();
    session.prefill(ids, 16, &mut |_| ()).unwrap();
    session.logits().unwrap()
}

#[test]
fn a_prompt_reads_its_past_by_the_models_prefill() {
    let ids = ids(90);
    let dense = logits_after(&model(), &ids);
    assert_eq!(logits_after(&sparse_prompts(80), &ids), dense);
    let sparse = logits_after(&sparse_prompts(16), &ids);
    assert_ne!(sparse, dense);

    let model = sparse_prompts(16);
    let mut session = model.session().unwrap();
    let config = config(1).with_prefill_chunk(16);
    let stream = session.generate_ids(&ids, config.clone()).unwrap();
    let new = stream.map(Result::unwrap).collect::<Vec<_>>();
    let best = (0..sparse.len()).max_by(|&a, &b| sparse[a].total_cmp(&sparse[b]));
    assert_eq!(new, [best.unwrap() as u32]);
    let mut fork = session.fork();
    fork.truncate(0).unwrap();
    fork.prefill(&ids, 16, &mut |_| ()).unwrap();
    assert_eq!(fork.logits().unwrap(), sparse);
    session.truncate(0).unwrap();
    session.set_lossless(Some(LosslessConfig::new())).unwrap();
    let stream = session.generate_ids(&ids, config).unwrap();
    assert_eq!(stream.map(Result::unwrap).collect::<Vec<_>>(), new);
}

#[test]
fn texts_are_scored_by_the_models_prefill() {
    let ids = ids(90);
    let nll = |model: &LocalModel| {
        let mut session = model.session().unwrap();
        let mode = LikelihoodMode::Dense { chunk: 16 };
        session.likelihoods(&ids, mode, &mut |_| ()).unwrap()
    };
    let (dense, sparse) = (nll(&model()), nll(&sparse_prompts(16)));
    assert_eq!(nll(&sparse_prompts(80)), dense);
    // Two chunks and their past are read whole, and the token after them is the first to miss something.
    assert_eq!(sparse[..32], dense[..32]);
    assert_ne!(sparse[32..], dense[32..]);
}

#[test]
fn a_prefill_that_does_not_fit_the_pages_is_refused() {
    let error = sparse_prompts(7).session().unwrap_err();
    assert!(error.is_bad_request());
    assert_eq!(
        error.to_string(),
        "prefill budget: expected at least one page of 8 tokens, found 7"
    );
}
