//! A session that is rewound is as it was.

mod common;

use common::subject;
use quest_burn::{
    QuestConfig,
    policy::{PolicyConfig, PolicyKind},
};

fn ids(n: u32) -> Vec<u32> {
    (0..n).map(|i| 3 + (i * i + 7 * i) % 250).collect()
}

#[test]
fn rewinding_makes_every_policy_decode_as_if_nothing_had_been_decoded() {
    let subject = subject();
    let text = ids(230);
    // In the middle of a page, at its end, and behind it.
    for prefill in [203, 208, 209] {
        let decode = |session: &mut quest_burn_experiments::session::Session, kind| {
            let quest = QuestConfig::kv_group()
                .with_page_size(8)
                .with_token_budget(32);
            let rope = Some(subject.config.rope.clone());
            let policy = PolicyConfig::new(kind).with_quest(quest).with_rope(rope);
            let policy = policy.init().unwrap();
            let mut logits = Vec::new();
            for &id in &text[prefill..] {
                let hidden = session.decode(id, &*policy).unwrap();
                logits.push(session.logits(hidden).unwrap());
            }
            logits
        };
        let fresh = |kind| {
            let mut session = subject.session(256, 8).unwrap();
            session.prefill(&text[..prefill], 64, &mut |_| ()).unwrap();
            decode(&mut session, kind)
        };
        let mut session = subject.session(256, 8).unwrap();
        session.prefill(&text[..prefill], 64, &mut |_| ()).unwrap();
        for &kind in PolicyKind::ALL.iter().chain(PolicyKind::ALL) {
            session.rewind(prefill).unwrap();
            assert_eq!(session.length(), prefill);
            assert_eq!(decode(&mut session, kind), fresh(kind), "{kind}");
        }
    }
}

#[test]
fn what_cannot_be_done_is_an_error() {
    let subject = subject();
    let mut session = subject.session(16, 8).unwrap();
    let mut prefill = |ids: &[u32], chunk| {
        let error = session.prefill(ids, chunk, &mut |_| ()).unwrap_err();
        assert!(error.is_bad_request());
        error.to_string()
    };
    assert!(prefill(&[], 8).contains("expected at least one token"));
    assert!(prefill(&[1], 0).contains("prefill chunk"));
    assert!(prefill(&[1, 9999], 8).contains("found 9999 at index 1"));
    assert!(prefill(&ids(17), 8).contains("KV cache"));
    assert!(session.rewind(100).is_err());
    assert!(subject.session(16, 12).is_err());
}
