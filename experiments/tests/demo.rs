//! The demonstration on a small random model.

mod common;

use common::subject;
use quest_burn::QuestConfig;
use quest_burn_experiments::demo::{self, DemoConfig, page_map};

fn config(budget: &str) -> DemoConfig {
    DemoConfig {
        length: 1024,
        budget: budget.parse().unwrap(),
        depth: 0.5,
        tail: 60,
        answer_tokens: 6,
        prefill_chunk: 256,
        quest: QuestConfig::kv_group(),
        page_size: 16,
        seed: 1,
    }
}

#[test]
fn what_was_read_is_the_budget_and_the_digests() {
    let demo = demo::run(&subject(), &config("1/8"), &mut |_| ()).unwrap();
    assert_eq!((demo.tokens, demo.budget, demo.n_pages), (1018, 128, 64));
    assert!((1..=50_000).contains(&demo.passkey));
    assert!(demo.ms_per_token_dense > 0.0 && demo.ms_per_token_quest > 0.0);

    // Two of four layers read everything; the others 8 pages of 64 and the digests of all, for contexts of
    // 1018 to 1023 tokens. A digest, of minimum and maximum, is as long as the key and the value of a token.
    let pages = 128.0 / 1021.0;
    let digests = 64.0 / 1021.0;
    assert!((demo.share_read_sparse_layers - pages - digests).abs() < 0.005);
    let all = (2.0 + 2.0 * demo.share_read_sparse_layers) / 4.0;
    assert!((demo.share_read - all).abs() < 1e-9);

    // Layers 0 and 1, and two KV heads of layers 2 and 3.
    let lists = demo.chosen.iter().map(|list| (list.layer, list.head));
    assert_eq!(
        lists.collect::<Vec<_>>(),
        [(0, 0), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1)]
    );
    for list in &demo.chosen {
        match &list.pages {
            None => assert!(list.layer < 2),
            Some(steps) => {
                assert!(list.layer >= 2);
                assert!(steps.len() <= 6 && !steps.is_empty());
                for pages in steps {
                    assert_eq!(pages.len(), 8);
                    assert!(pages.is_sorted() && pages.contains(&63));
                }
            }
        }
    }

    // Every token of the answer has a list, the one that is shown among them.
    let steps = demo.chosen.iter().filter_map(|list| list.pages.as_ref());
    assert!(
        steps
            .clone()
            .all(|steps| steps.len() > demo.retrieving_token)
    );

    // 56 bytes of passkey are in four or five pages, about the middle of the text.
    assert!((4..=5).contains(&demo.passkey_pages.len()));
    assert!(
        demo.passkey_pages
            .iter()
            .all(|page| (28..40).contains(page))
    );
    let map = page_map(&demo, 100);
    assert_eq!(map.lines().count(), 7);
    assert!(map.lines().all(|line| line.chars().count() <= 100), "{map}");
    assert_eq!(map.matches('▲').count(), demo.passkey_pages.len());
}

#[test]
fn with_the_whole_context_as_budget_the_answers_are_equal() {
    let demo = demo::run(&subject(), &config("1024"), &mut |_| ()).unwrap();
    assert_eq!(demo.answer_dense, demo.answer_quest);
    assert_eq!((demo.share_read, demo.share_read_sparse_layers), (1.0, 1.0));
    assert!(demo.chosen.iter().all(|list| list.pages.is_none()));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let subject = subject();
    let refused = |change: fn(&mut DemoConfig), message: &str| {
        let mut config = config("1/8");
        change(&mut config);
        let error = config
            .check(subject.config(), subject.tokenizer())
            .unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    };
    refused(|c| c.length = 4096, "at most 2048 tokens, found 4096");
    refused(|c| c.length = 64, "length: expected at least");
    refused(
        |c| c.depth = 1.5,
        "depth: expected a share from 0 to 1, found 1.5",
    );
    refused(
        |c| c.depth = f64::NAN,
        "depth: expected a share from 0 to 1, found NaN",
    );
    refused(|c| c.budget = "8".parse().unwrap(), "token budget");
    refused(|c| c.tail = 0, "tail: expected at least 1");
}
