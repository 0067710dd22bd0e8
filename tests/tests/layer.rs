//! The attention layer on every device: the ways through it agree, whatever the shapes, the chunks
//! and the rest of the batch.

use burn::{
    module::Module,
    nn::attention::{MhaInput, MultiHeadAttentionConfig, generate_autoregressive_mask},
    tensor::Tensor,
};
use proptest::{prelude::*, sample::select};
use quest_burn::{
    QuestConfig,
    attention::{QuestAttention, QuestAttentionConfig, RopeConfig},
    policy::{DensePolicy, PagePolicy},
};
use quest_burn_tests::{
    arrays::{assert_close, random, values},
    cases,
    devices::{TestDevice, devices},
    layer::{Passage, Randomize, random_hidden, random_layer},
};
use rand::{SeedableRng, rngs::StdRng};

/// f32 through projections with peaky attention.
const TOLERANCE: f64 = 1e-4;

/// A layer and sequences to send through it.
#[derive(Clone, Debug)]
struct Case {
    config: QuestAttentionConfig,
    page_size: usize,
    /// Tokens of each sequence, and how many of them are prompt.
    sequences: Vec<(usize, usize)>,
    chunk: usize,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let heads = select(vec![(1, 1), (2, 1), (4, 2), (3, 3), (6, 2)]);
    let layer = (heads, select(vec![8, 16, 24]), any::<[bool; 3]>());
    let config = layer.prop_map(|((n_heads, n_kv_heads), head_dim, [bias, norm, rope])| {
        QuestAttentionConfig::new(24, n_heads)
            .with_n_kv_heads(Some(n_kv_heads))
            .with_head_dim(Some(head_dim))
            .with_qkv_bias(bias)
            .with_output_bias(bias)
            .with_qk_norm_epsilon(norm.then_some(1e-6))
            .with_rope(rope.then(RopeConfig::new))
    });
    let sequence = (1usize..70).prop_flat_map(|length| (Just(length), 1..=length));
    let sequences = prop::collection::vec(sequence, 1..4);
    (
        config,
        select(vec![8, 16, 32]),
        sequences,
        1usize..40,
        any::<u64>(),
    )
        .prop_map(|(config, page_size, sequences, chunk, seed)| Case {
            config,
            page_size,
            sequences,
            chunk,
            seed,
        })
}

/// A case on a device.
struct Setup {
    layer: QuestAttention,
    hidden: Vec<Tensor<2>>,
    prompts: Vec<usize>,
    page_size: usize,
    chunk: usize,
    context: String,
}

impl Case {
    fn on(&self, device: &TestDevice) -> Setup {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let (lengths, prompts): (Vec<_>, Vec<_>) = self.sequences.iter().copied().unzip();
        Setup {
            layer: random_layer(&self.config, &device.device, &mut rng),
            hidden: random_hidden(&lengths, self.config.d_model, &device.device, &mut rng),
            prompts,
            page_size: self.page_size,
            chunk: self.chunk,
            context: device.to_string(),
        }
    }
}

impl Setup {
    fn run(&self, policy: &dyn PagePolicy, chunk: usize) -> Vec<Vec<f32>> {
        self.run_some(0..self.hidden.len(), policy, chunk)
    }

    /// Only the given sequences of the batch.
    fn run_some(
        &self,
        sequences: std::ops::Range<usize>,
        policy: &dyn PagePolicy,
        chunk: usize,
    ) -> Vec<Vec<f32>> {
        let passage = Passage {
            layer: &self.layer,
            policy,
            page_size: self.page_size,
            chunk,
        };
        let outputs = passage.run(&self.hidden[sequences.clone()], &self.prompts[sequences]);
        outputs.iter().map(values).collect()
    }

    /// Two pages of the three presets.
    fn policies(&self) -> impl Iterator<Item = impl PagePolicy + use<>> {
        let page_size = self.page_size;
        [
            QuestConfig::accuracy_code(),
            QuestConfig::kernels(),
            QuestConfig::kv_group(),
        ]
        .into_iter()
        .map(move |preset| {
            preset
                .with_token_budget(2 * page_size)
                .with_min_pages(2)
                .with_dense_layers(0)
                .init()
                .expect("the configuration is valid")
        })
    }
}

fn assert_outputs_close(found: &[Vec<f32>], expected: &[Vec<f32>], context: &str) {
    assert_eq!(
        found.len(),
        expected.len(),
        "{context}: number of sequences"
    );
    for (sequence, (found, expected)) in found.iter().zip(expected).enumerate() {
        let [found, expected] =
            [found, expected].map(|v| v.iter().copied().map(f64::from).collect::<Vec<_>>());
        assert_close(
            &found,
            &expected,
            TOLERANCE,
            &format!("{context}, sequence {sequence}"),
        );
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn without_a_cache_it_equals_prefill_and_decode_with_one(case in case()) {
        for device in devices() {
            let setup = case.on(&device);
            let expected = setup
                .hidden
                .iter()
                .map(|hidden| values(&setup.layer.forward(hidden.clone().unsqueeze())))
                .collect::<Vec<_>>();
            let found = setup.run(&DensePolicy, case.chunk);
            assert_outputs_close(&found, &expected, &setup.context);
        }
    }

    #[test]
    fn chunked_prefill_equals_one_piece(case in case()) {
        for device in devices() {
            let setup = case.on(&device);
            let whole = setup.run(&DensePolicy, usize::MAX);
            assert_outputs_close(&setup.run(&DensePolicy, setup.chunk), &whole, &setup.context);
        }
    }

    #[test]
    fn a_sequence_does_not_depend_on_the_rest_of_the_batch(case in case()) {
        for device in devices() {
            let setup = case.on(&device);
            for policy in setup.policies() {
                let together = setup.run(&policy, setup.chunk);
                for (i, together) in together.iter().enumerate() {
                    let alone = setup.run_some(i..i + 1, &policy, setup.chunk);
                    let context = format!("{}, sequence {i}, {policy:?}", setup.context);
                    assert_outputs_close(std::slice::from_ref(together), &alone, &context);
                }
            }
        }
    }

    #[test]
    fn a_budget_that_covers_the_cache_equals_dense_to_the_last_bit(case in case()) {
        for device in devices() {
            let setup = case.on(&device);
            let dense = setup.run(&DensePolicy, setup.chunk);
            for preset in [QuestConfig::accuracy_code(), QuestConfig::kernels(), QuestConfig::kv_group()] {
                let policy = preset
                    .with_token_budget(70usize.next_multiple_of(setup.page_size))
                    .with_dense_layers(0)
                    .init()
                    .expect("the configuration is valid");
                prop_assert_eq!(&setup.run(&policy, setup.chunk), &dense, "{}", setup.context);
            }
        }
    }
}

/// A covering budget is only worth something where a smaller one makes a difference.
#[test]
fn a_budget_that_does_not_cover_the_cache_differs_from_dense() {
    for device in devices() {
        let case = Case {
            config: QuestAttentionConfig::new(24, 4).with_n_kv_heads(Some(2)),
            page_size: 8,
            sequences: vec![(64, 40)],
            chunk: 64,
            seed: 1,
        };
        let setup = case.on(&device);
        let dense = setup.run(&DensePolicy, 64);
        for policy in setup.policies() {
            assert_ne!(setup.run(&policy, 64), dense, "{device}, {policy:?}");
        }
    }
}

#[test]
fn gradients_reach_the_input_and_every_parameter() {
    for device in devices() {
        let device = device.device.autodiff();
        let mut rng = StdRng::seed_from_u64(1);
        let config = QuestAttentionConfig::new(16, 4)
            .with_n_kv_heads(Some(2))
            .with_qkv_bias(true)
            .with_qk_norm_epsilon(Some(1e-6))
            .with_rope(Some(RopeConfig::new()));
        let layer = random_layer(&config, &device, &mut rng);
        let hidden = random([2, 9, 16], &device, &mut rng).require_grad();
        let direction = random([2, 9, 16], &device, &mut rng);
        let weight = random([2, 9, 16], &device, &mut rng);
        let loss = |hidden: Tensor<3>| (layer.forward(hidden) * weight.clone()).sum();

        let gradients = loss(hidden.clone()).backward();
        let gradient = hidden.grad(&gradients).expect("the input has a gradient");
        let slope = f64::from(values(&(gradient * direction.clone().inner()).sum())[0]);
        let step = 1e-2;
        let [above, below] = [step, -step]
            .map(|step| f64::from(values(&loss(hidden.clone() + direction.clone() * step))[0]));
        let expected = (above - below) / (2.0 * step);
        assert_close(&[slope], &[expected], 1e-2, "directional derivative");

        for (name, parameter) in [
            ("q_proj", &layer.q_proj.weight),
            ("k_proj", &layer.k_proj.weight),
            ("v_proj", &layer.v_proj.weight),
            ("o_proj", &layer.o_proj.weight),
        ] {
            let gradient = parameter
                .grad(&gradients)
                .unwrap_or_else(|| panic!("{name}"));
            assert!(values(&gradient.abs().sum())[0] > 0.0, "{name}");
        }
        for norm in [&layer.q_norm, &layer.k_norm] {
            let gamma = &norm.as_ref().expect("the layer has norms").gamma;
            let gradient = gamma.grad(&gradients).expect("the norm has a gradient");
            assert!(values(&gradient.abs().sum())[0] > 0.0);
        }
    }
}

#[test]
fn a_converted_multi_head_attention_gives_the_same_outputs() {
    for device in devices() {
        let mut rng = StdRng::seed_from_u64(2);
        let attention = MultiHeadAttentionConfig::new(24, 3)
            .init(&device.device)
            .map(&mut Randomize(&mut rng));
        let hidden = random([2, 37, 24], &device.device, &mut rng);
        let mask = generate_autoregressive_mask(2, 37, &device.device);
        let input = MhaInput::self_attn(hidden.clone()).mask_attn(mask);
        let expected = values(&attention.forward(input).context);

        let layer = QuestAttention::try_from(attention).expect("an ordinary softmax");
        let context = device.to_string();
        let found = values(&layer.forward(hidden.clone()));
        assert_outputs_close(&[found], std::slice::from_ref(&expected), &context);

        let passage = Passage {
            layer: &layer,
            policy: &DensePolicy,
            page_size: 8,
            chunk: 10,
        };
        let sequences = hidden
            .iter_dim(0)
            .map(|h| h.squeeze_dim::<2>(0))
            .collect::<Vec<_>>();
        let found = passage
            .run(&sequences, &[20, 20])
            .iter()
            .map(values)
            .collect::<Vec<_>>()
            .concat();
        assert_outputs_close(&[found], &[expected], &context);
    }
}
