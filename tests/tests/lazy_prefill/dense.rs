//! Where nothing leaves, or all comes back.

use quest_burn_tests::devices::devices;

use super::*;

#[test]
fn rates_of_zero_give_the_bits_of_a_dense_prompt() {
    let folder = folder();
    let ids = ids(90);
    for test_device in devices() {
        let run = |prefill| {
            let model = model(&folder, &test_device.device, prefill);
            logits(&mut model.session_for(90).unwrap(), &ids[..77], &ids[77..])
        };
        let dense = run(PrefillConfig::Dense);
        for revival in [None, Some("0")] {
            let lazy = lazy(["0", "0"], revival);
            assert_eq!(run(PrefillConfig::Lazy(lazy)), dense, "{test_device}");
        }
    }
}

#[test]
fn a_decoded_token_that_needs_all_of_a_last_layer_is_that_of_a_dense_prompt() {
    let folder = folder();
    let ids = ids(90);
    for test_device in devices() {
        let run = |prefill| {
            let model = model(&folder, &test_device.device, prefill);
            let mut session = model.session().unwrap();
            logits(&mut session, &ids[..77], &ids[77..]).split_off(1)
        };
        let only_last = LazyPrefillConfig::new()
            .with_layers(vec![N_LAYERS - 1])
            .with_rates(vec![rate("0.6")]);
        let dense = run(PrefillConfig::Dense);
        let without = run(PrefillConfig::Lazy(only_last.clone()));
        let with = run(PrefillConfig::Lazy(only_last.with_revival(Some(rate("0")))));
        let difference = |other: &[Vec<f32>]| {
            let pairs = other.iter().flatten().zip(dense.iter().flatten());
            pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        for (found, expected) in with.iter().zip(&dense) {
            assert_close(
                found,
                &widened(expected),
                test_device.tolerance_of_sums(1e-4),
            );
        }
        assert!(difference(&without) > 1e-2, "{}", difference(&without));
    }
}

#[test]
fn where_chunks_end_does_not_matter() {
    let folder = folder();
    let ids = ids(90);
    let lazy = PrefillConfig::Lazy(lazy(["0.3", "0.5"], None));
    let model = model(&folder, &Device::default(), lazy);
    let run = |chunk| {
        let mut session = model.session().unwrap();
        session.prefill(&ids, chunk, &mut |_| ()).unwrap();
        (held(&session), session.logits().unwrap())
    };
    let (expected, logits) = run(512);
    for chunk in [20, 33] {
        let (held, found) = run(chunk);
        assert_eq!(held, expected);
        assert_close(&found, &widened(&logits), 1e-4);
    }
}
