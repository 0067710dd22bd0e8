//! Rows without a sequence, and steps that a recording was not made for.

use quest_burn::{
    cache::{AssignedPages, PagedKvCache, Phase},
    policy::{DensePolicy, PagePolicy},
};
use quest_burn_models::{generation::batch_graph, model::LanguageModel};
use quest_burn_tests::devices::devices;

use super::{
    super::{VOCAB_SIZE, alone, argmax, floats, ids, model, tokens::records},
    PAGES, Recorded, WHOLE, cache, differing, for_each, for_each_model, pages,
};

#[test]
fn padding_rows_write_to_no_page() {
    for_each(|case| {
        let Recorded {
            name: case,
            device,
            model,
            policy,
            stored,
        } = case;
        let mut cache = cache(stored, device);
        let before = pages(&cache);
        let lm: &dyn LanguageModel = model;
        let graph = batch_graph(lm, policy, &mut cache, 4, 4);
        let mut graph = graph.expect("the device records");
        assert!(graph.logits().is_none());
        assert!(
            differing(&pages(&cache), &before).is_empty(),
            "{case}: recording"
        );
        // The page of row 0 of an empty page table is not that of a sequence.
        let assigned = AssignedPages {
            pages: &[7],
            length: 0,
            new_tokens: 1,
        };
        graph.step(&mut cache, &[assigned], &[5]).unwrap();
        assert_eq!(graph.most_probable().unwrap().len(), 1);
        let logits = floats(graph.logits().unwrap());
        assert!(logits.iter().all(|x| x.is_finite()), "{case}");
        let after = pages(&cache);
        assert_eq!(differing(&after, &before), [7].into(), "{case}");
        // Rows that have had a sequence are padding again when it is gone.
        let both = [[8], [9]].map(|pages| (pages, 0));
        let both = both.each_ref().map(|(pages, length)| AssignedPages {
            pages,
            length: *length,
            new_tokens: 1,
        });
        graph.step(&mut cache, &both, &[5, 6]).unwrap();
        let both = pages(&cache);
        let one = AssignedPages {
            pages: &[8],
            length: 1,
            new_tokens: 1,
        };
        graph.step(&mut cache, &[one], &[5]).unwrap();
        assert_eq!(differing(&pages(&cache), &both), [8].into(), "{case}");
    });
}

#[test]
fn a_step_that_does_not_fit_its_recording_is_refused_and_changes_nothing() {
    let _alone = alone();
    for test_device in devices() {
        let device = &test_device.device;
        let model = model(device);
        let lm: &dyn LanguageModel = &model;
        let mut cache = cache(WHOLE, device);
        let graph = batch_graph(lm, &DensePolicy as &dyn PagePolicy, &mut cache, 2, 2);
        assert_eq!(graph.is_some(), records(&test_device), "{test_device}");
        let Some(mut graph) = graph else {
            continue;
        };
        let before = pages(&cache);
        let sequence = |pages: &'static [u32], length, new_tokens| AssignedPages {
            pages,
            length,
            new_tokens,
        };
        let page = |page: &'static [u32]| sequence(page, 0, 1);
        let mut refused = |cache: &mut PagedKvCache,
                           sequences: &[AssignedPages<'_>],
                           tokens: &[u32],
                           message: &str| {
            let error = graph.step(cache, sequences, tokens).unwrap_err();
            assert_eq!(error.to_string(), message);
        };
        let all = [page(&[0]), page(&[1]), page(&[2])];
        refused(
            &mut cache,
            &all,
            &[1, 2, 3],
            "recorded step: expected at most 2 sequences, found 3",
        );
        refused(
            &mut cache,
            &all[..2],
            &[1],
            "tokens: expected one for each of 2 sequences, found 1",
        );
        refused(
            &mut cache,
            &all[..2],
            &[1, 197],
            "tokens: expected ids below the vocabulary size 197, found 197 for sequence 1",
        );
        refused(
            &mut cache,
            &[page(&[0]), page(&[0])],
            &[1, 2],
            "KV cache: expected pages that are written to belong to one sequence, found page 0 in two places",
        );
        refused(
            &mut cache,
            &[sequence(&[0], 0, 2)],
            &[1],
            "recorded step: expected 1 new token of sequence 0, found 2",
        );
        refused(
            &mut cache,
            &[page(&[0]), sequence(&[1, 2, 3], 16, 1)],
            &[1, 2],
            "recorded step: expected at most 2 pages of sequence 1, found 3",
        );
        assert!(differing(&pages(&cache), &before).is_empty());
        let other = "recorded step: expected the KV cache that it was recorded over, found another one or one \
                     that has other memory since";
        refused(&mut cache.fork(), &[page(&[0])], &[1], other);
        cache.grow(PAGES + 1);
        refused(&mut cache, &[page(&[0])], &[1], other);
    }
}

#[test]
fn another_recording_is_made_when_the_pool_has_moved() {
    for_each_model(|test_device, model| {
        let device = &test_device.device;
        let lm: &dyn LanguageModel = model;
        let mut cache = cache(WHOLE, device);
        let record = |cache: &mut PagedKvCache| {
            let graph = batch_graph(lm, &DensePolicy as &dyn PagePolicy, cache, 2, 2);
            graph.expect("the device records")
        };
        let page = |length| AssignedPages {
            pages: &[3],
            length,
            new_tokens: 1,
        };
        {
            let mut graph = record(&mut cache);
            graph.step(&mut cache, &[page(0)], &[5]).unwrap();
            // What writes to a pool that is held elsewhere writes to a copy of it.
            let held = cache.layer(1).values().clone();
            cache.copy_page(3, 4, 1).unwrap();
            drop(held);
            assert!(graph.step(&mut cache, &[page(1)], &[6]).is_err());
        }
        // A plain step goes on, and so does a recording of its own.
        let step = cache.assigned_step(Phase::Decode, &[page(1)]).unwrap();
        let hidden = lm.hidden(ids(&[vec![6]], device), &mut cache, &step, &DensePolicy);
        let expected = floats(lm.logits(hidden).squeeze_dim::<2>(1));
        assert_eq!(expected.len(), VOCAB_SIZE);
        let mut graph = record(&mut cache);
        graph.step(&mut cache, &[page(1)], &[6]).unwrap();
        let chosen = graph.most_probable().unwrap();
        assert_eq!(chosen, [Some(argmax(&expected))], "{test_device}");
    });
}
