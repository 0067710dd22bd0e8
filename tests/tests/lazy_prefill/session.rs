//! Sessions whose prompts leave tokens behind.

use std::sync::Arc;

use quest_burn::policy::{DensePolicy, PagePolicy};
use quest_burn_models::generation::GenerationConfig;

use super::*;

#[test]
fn progress_ends_with_the_tokens_of_the_prompt() {
    let folder = folder();
    let lazy = PrefillConfig::Lazy(lazy(["0.3", "0.5"], None));
    let mut session = model(&folder, &Device::default(), lazy).session().unwrap();
    let mut told = Vec::new();
    session
        .prefill(&ids(90), CHUNK, &mut |done| told.push(done))
        .unwrap();
    assert!(told.is_sorted() && told.len() > 3, "{told:?}");
    assert_eq!(told.last(), Some(&90));
}

#[test]
fn first_and_last_tokens_stay_where_they_are_to() {
    let folder = folder();
    let lazy = lazy(["0.9", "0"], None)
        .with_keep_first(4)
        .with_keep_last(20);
    let model = model(&folder, &Device::default(), PrefillConfig::Lazy(lazy));
    let mut session = model.session().unwrap();
    session.prefill(&ids(60), CHUNK, &mut |_| ()).unwrap();
    let kept = (0..4).chain(40..60).collect::<BTreeSet<_>>();
    assert_eq!(held(&session)[2..], vec![kept; 4]);
}

#[test]
fn the_last_token_stays_and_a_single_one_does_not_leave() {
    let folder = folder();
    let lazy = lazy(["0.999", "0.999"], None);
    let model = model(&folder, &Device::default(), PrefillConfig::Lazy(lazy));
    let mut session = model.session().unwrap();
    session.prefill(&ids(40), CHUNK, &mut |_| ()).unwrap();
    assert_eq!(held(&session)[5], BTreeSet::from([39]));
    session.prefill(&[7], CHUNK, &mut |_| ()).unwrap();
    assert_eq!(held(&session)[5], BTreeSet::from([39, 40]));
}

#[test]
fn a_session_goes_back_forks_and_goes_on() {
    let folder = folder();
    let (ids, prompt) = (ids(90), 60);
    for revival in [None, Some("0.3")] {
        let lazy = PrefillConfig::Lazy(lazy(["0.4", "0.4"], revival));
        let model = model(&folder, &Device::default(), lazy);
        let mut session = model.session().unwrap();
        let before = logits(&mut session, &ids[..prompt], &[]);
        let held_before = held(&session);
        let mut fork = session.fork();
        let decoded = |session: &mut Session| {
            let logits = ids[prompt..].iter().map(|&id| {
                session.decode(id).unwrap();
                session.logits().unwrap()
            });
            logits.collect::<Vec<_>>()
        };
        let expected = decoded(&mut session);
        assert_eq!(decoded(&mut fork), expected);
        session.truncate(prompt + 3).unwrap();
        session.decode(ids[prompt + 3]).unwrap();
        assert_close(&session.logits().unwrap(), &widened(&expected[3]), 1e-4);
        session.truncate(prompt).unwrap();
        assert_eq!(held(&session), held_before);
        assert_eq!(decoded(&mut session), expected);
        session.truncate(0).unwrap();
        assert_eq!(logits(&mut session, &ids[..prompt], &[]), before);

        // Another prompt: what was there is not asked to leave.
        session.prefill(&ids[..20], CHUNK, &mut |_| ()).unwrap();
        let held = held(&session);
        for (layer, held_before) in held_before.iter().enumerate() {
            assert!(held[layer].is_superset(held_before));
        }
        assert_eq!(held[2].len() - held_before[2].len(), 12);
        assert!(held[5].contains(&79));
    }
}

#[test]
fn generations_are_those_of_single_steps() {
    let folder = folder();
    let prompt = ids(70);
    let lazy = PrefillConfig::Lazy(lazy(["0.4", "0.4"], Some("0.3")));
    let model = model(&folder, &Device::default(), lazy);
    let mut session = model.session().unwrap();
    let config = GenerationConfig::new()
        .with_max_new_tokens(8)
        .with_stop_ids(Some(Vec::new()))
        .with_prefill_chunk(CHUNK);
    let stream = session.generate_ids(&prompt, config).unwrap();
    let generated = stream.map(Result::unwrap).collect::<Vec<_>>();
    let mut steps = model.session().unwrap();
    steps.prefill(&prompt, CHUNK, &mut |_| ()).unwrap();
    for id in generated {
        assert_eq!(steps.most_probable().unwrap(), id);
        steps.decode(id).unwrap();
    }
}

#[test]
fn policies_of_decoded_tokens_read_what_stages_hold() {
    let folder = folder();
    let ids = ids(90);
    let run = |policy: Arc<dyn PagePolicy>| {
        let lazy = PrefillConfig::Lazy(lazy(["0.4", "0.4"], None));
        let model = model(&folder, &Device::default(), lazy).with_policy(policy);
        let mut session = model.session().unwrap();
        let logits = logits(&mut session, &ids[..77], &ids[77..]);
        (logits, session.statistics().share_read.unwrap())
    };
    let quest = |budget| -> Arc<dyn PagePolicy> {
        Arc::new(QuestConfig::new().with_token_budget(budget).init().unwrap())
    };
    let (dense, read) = run(Arc::new(DensePolicy));
    assert!(read < 0.85, "{read}");
    assert_eq!(run(quest(96)), (dense.clone(), read));
    assert_ne!(run(quest(16)).0[3..], dense[3..]);
}
