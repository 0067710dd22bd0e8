//! A whole layer under the policies.

use std::ops::Range;

use burn::tensor::Tensor;
use proptest::prelude::*;
use quest_burn::{
    attention::{QuestAttention, QuestAttentionConfig, RopeConfig},
    policy::{DensePolicy, PagePolicy, PolicyKind},
};
use quest_burn_tests::{
    arrays::{assert_close, values},
    cases,
    devices::{TestDevice, devices},
    layer::{Passage, random_hidden, random_layer},
};
use rand::{SeedableRng, rngs::StdRng};

use super::{PAGE_SIZE, config};

/// Sequences that go through a layer.
struct Case {
    layer: QuestAttention,
    hidden: Vec<Tensor<2>>,
    prompts: Vec<usize>,
}

impl Case {
    fn new(lengths: &[(usize, usize)], device: &TestDevice, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let config = QuestAttentionConfig::new(24, 4)
            .with_n_kv_heads(Some(2))
            .with_head_dim(Some(8))
            .with_rope(Some(RopeConfig::new()));
        let (lengths, prompts): (Vec<_>, Vec<_>) = lengths.iter().copied().unzip();
        Self {
            layer: random_layer(&config, &device.device, &mut rng),
            hidden: random_hidden(&lengths, 24, &device.device, &mut rng),
            prompts,
        }
    }

    fn run(&self, policy: &dyn PagePolicy, sequences: Range<usize>) -> Vec<Vec<f32>> {
        let passage = Passage {
            layer: &self.layer,
            policy,
            page_size: PAGE_SIZE,
            chunk: 16,
        };
        let outputs = passage.run(&self.hidden[sequences.clone()], &self.prompts[sequences]);
        outputs.iter().map(values).collect()
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_budget_that_covers_the_cache_equals_dense_to_the_last_bit(
        lengths in prop::collection::vec((1usize..70).prop_flat_map(|n| (Just(n), 1..=n)), 1..4),
        more in 0usize..3,
        seed: u64,
    ) {
        for device in devices() {
            let case = Case::new(&lengths, &device, seed);
            let dense = case.run(&DensePolicy, 0..lengths.len());
            let longest = lengths.iter().map(|l| l.0).max().unwrap_or_default();
            for &kind in PolicyKind::ALL {
                // The first pages and the newest are two at least.
                let budget = longest.next_multiple_of(PAGE_SIZE).max(2 * PAGE_SIZE) + more;
                let policy = config(kind, budget).init(PAGE_SIZE).expect("the configuration is valid");
                prop_assert_eq!(&case.run(&*policy, 0..lengths.len()), &dense, "{} on {}", kind, device);
            }
        }
    }

    #[test]
    fn a_sequence_does_not_depend_on_the_rest_of_the_batch(
        lengths in prop::collection::vec((1usize..70).prop_flat_map(|n| (Just(n), 1..=n)), 2..4),
        seed: u64,
    ) {
        for device in devices() {
            let case = Case::new(&lengths, &device, seed);
            for &kind in PolicyKind::ALL {
                let policy = config(kind, 2 * PAGE_SIZE).init(PAGE_SIZE).expect("the configuration is valid");
                let together = case.run(&*policy, 0..lengths.len());
                for (i, together) in together.iter().enumerate() {
                    let alone = &case.run(&*policy, i..i + 1)[0];
                    let wide = |v: &[f32]| v.iter().copied().map(f64::from).collect::<Vec<_>>();
                    let context = format!("{kind} on {device}, sequence {i}");
                    assert_close(&wide(together), &wide(alone), 1e-4, &context);
                }
            }
        }
    }
}
