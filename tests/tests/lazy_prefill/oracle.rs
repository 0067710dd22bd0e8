//! What leaves and what comes back, and the logits of it.

use quest_burn_tests::{devices::devices, naive};

use super::*;

/// A session and an oracle go through the same tokens.
fn compare(rates: [&str; 2], leave: [naive::HowMany; 2], revival: Option<(&str, naive::HowMany)>) {
    let folder = folder();
    let oracle = naive::Lazy {
        leave: vec![(2, leave[0]), (4, leave[1])],
        unneeded: revival.map(|(_, unneeded)| unneeded),
    };
    let (ids, prompt) = (ids(90), 77);
    let expected = naive::Model::load(folder.path()).lazy(&oracle, &ids[..prompt], &ids[prompt..]);
    for test_device in devices() {
        let config = lazy(rates, revival.map(|(rate, _)| rate));
        let model = model(&folder, &test_device.device, PrefillConfig::Lazy(config));
        let mut session = model.session().unwrap();
        session.prefill(&ids[..prompt], CHUNK, &mut |_| ()).unwrap();
        for (step, logits) in expected.logits.iter().enumerate() {
            if step > 0 {
                session.decode(ids[prompt + step - 1]).unwrap();
            }
            assert_eq!(held(&session), expected.held[step], "after {step} tokens");
            let tolerance = test_device.tolerance_of_sums(1e-3);
            assert_close(&session.logits().unwrap(), logits, tolerance);
        }
        let computed = held(&session).iter().map(BTreeSet::len).sum::<usize>();
        let share = computed as f64 / (N_LAYERS * ids.len()) as f64;
        assert!((session.statistics().share_computed - share).abs() < 1e-12);
    }
}

#[test]
fn tokens_leave_by_the_attention_of_the_last_one_and_keep_their_positions() {
    compare(["0.3", "0.5"], [|n| 3 * n / 10, |n| n / 2], None);
}

#[test]
fn tokens_come_back_where_a_decoded_token_needs_them_and_are_computed_once() {
    compare(
        ["0.5", "0.5"],
        [|n| n / 2, |n| n / 2],
        Some(("0.4", |n| 4 * n / 10)),
    );
}
