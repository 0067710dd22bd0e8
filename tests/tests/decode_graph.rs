//! Recorded decode steps: the same tokens as without a recording, and the same cache after them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{DType, Device, Int, Tensor, TensorData},
};
use quest_burn::{
    QuestConfig,
    attention::RopeConfig,
    cache::{DigestFormat, PagedKvCache},
    decode::{DecodeError, DecodeGraph, DecodeGraphConfig},
    policy::{DensePolicy, PagePolicy},
};
use quest_burn_models::{
    config::{Architecture, ModelConfig},
    generation::{GenerationConfig, Generator, decode_graph},
    model::CausalLm,
};
use quest_burn_tests::{
    devices::{TestDevice, devices},
    layer::Randomize,
};
use rand::{SeedableRng, rngs::StdRng};

const VOCAB_SIZE: usize = 197;
const HEAD_DIM: usize = 16;
const PAGE_SIZE: usize = 8;
const STEPS: usize = 500;
/// A recording is good for fewer tokens than there are steps, and for no whole number of pages.
const PER_RECORDING: usize = 75;
const PROMPTS: [usize; 3] = [61, 8, 23];

fn config() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Llama,
        vocab_size: VOCAB_SIZE,
        d_model: 48,
        d_ff: 64,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: HEAD_DIM,
        max_positions: 4096,
        sliding_window: None,
        rms_norm_epsilon: 1e-5,
        rope: RopeConfig::new(),
        qkv_bias: true,
        output_bias: false,
        mlp_bias: false,
        qk_norm: true,
        tie_word_embeddings: false,
        quantization: None,
        dtype: None,
        bos_token_id: None,
        stop_token_ids: Vec::new(),
    }
}

/// Scales the norms of queries and keys, the only vectors as long as a head is wide.
struct Sharpen;

impl ModuleMapper for Sharpen {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| match tensor.dims()[..] {
            [HEAD_DIM] => tensor * 2.0,
            _ => tensor,
        })
    }
}

/// Attention to a few tokens, and so a next token that depends on more than the newest one: greedy
/// decoding of blunt attention soon repeats itself.
fn model(device: &Device) -> CausalLm {
    let mut rng = StdRng::seed_from_u64(11);
    let model = config().init(device).map(&mut Randomize(&mut rng));
    model.map(&mut Sharpen)
}

/// A recording is not valid if another thread allocates on the device meanwhile: tests take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Dense attention, and Quest with a list per KV head and per query head, both with more pages
/// than the budget from early on, and with digests of either form.
fn policies() -> Vec<(&'static str, Box<dyn PagePolicy>, DigestFormat)> {
    use DigestFormat::{Full, Int8};
    let quest = |config: QuestConfig| {
        let config = config
            .with_page_size(PAGE_SIZE)
            .with_token_budget(5 * PAGE_SIZE)
            .with_dense_layers(1);
        Box::new(config.init().unwrap())
    };
    vec![
        ("dense", Box::new(DensePolicy), Full),
        ("kv-group", quest(QuestConfig::kv_group()), Full),
        ("kernels", quest(QuestConfig::kernels()), Full),
        ("accuracy-code", quest(QuestConfig::accuracy_code()), Full),
        ("kv-group", quest(QuestConfig::kv_group()), Int8),
        ("kernels", quest(QuestConfig::kernels()), Int8),
    ]
}

fn prompt(sequence: usize, n: usize) -> Vec<u32> {
    let vocab_size = VOCAB_SIZE as u32;
    (0..n as u32)
        .map(|i| (i * i * 7 + 31 * i + sequence as u32 * 57) % vocab_size)
        .collect()
}

fn ids(rows: &[Vec<u32>], device: &Device) -> Tensor<2, Int> {
    let longest = rows.iter().map(Vec::len).max().unwrap();
    let padded = rows.iter().flat_map(|row| {
        let padding = longest - row.len();
        row.iter().map(|&id| id as i32).chain(vec![0; padding])
    });
    let padded = padded.collect::<Vec<_>>();
    Tensor::from_data(TensorData::new(padded, [rows.len(), longest]), device)
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_to_vec().unwrap()
}

fn argmax(row: &[f32]) -> u32 {
    let mut best = 0;
    for (id, &value) in row.iter().enumerate() {
        assert!(value.is_finite());
        if value > row[best] {
            best = id;
        }
    }
    best as u32
}

fn best_of_rows(logits: Tensor<2>) -> Vec<u32> {
    floats(logits).chunks(VOCAB_SIZE).map(argmax).collect()
}

/// A cache with prompts, and the token that follows each.
fn prefilled(model: &CausalLm, prompts: &[Vec<u32>], device: &Device) -> (PagedKvCache, Vec<u32>) {
    prefilled_with(DigestFormat::Full, model, prompts, device)
}

fn prefilled_with(
    digests: DigestFormat,
    model: &CausalLm,
    prompts: &[Vec<u32>],
    device: &Device,
) -> (PagedKvCache, Vec<u32>) {
    let mut cache = config()
        .cache(PAGE_SIZE, prompts.len(), 61 + STEPS + 1)
        .with_digests(digests)
        .init(device, DType::F32)
        .unwrap();
    let lengths = prompts.iter().map(Vec::len).collect::<Vec<_>>();
    let step = cache.prefill(&lengths).unwrap();
    let hidden = model.hidden(ids(prompts, device), &mut cache, &step, &DensePolicy);
    let last = lengths.iter().enumerate().map(|(sequence, n)| {
        hidden
            .clone()
            .slice([sequence..sequence + 1, n - 1..*n])
            .squeeze_dim::<2>(1)
    });
    let last = Tensor::cat(last.collect(), 0).unsqueeze_dim::<3>(1);
    let newest = best_of_rows(model.logits(last).squeeze_dim(1));
    (cache, newest)
}

/// Greedy tokens, one pass through the model each.
fn uncaptured(
    model: &CausalLm,
    cache: &mut PagedKvCache,
    policy: &dyn PagePolicy,
    newest: &[u32],
    steps: usize,
    device: &Device,
) -> Vec<Vec<u32>> {
    let mut newest = newest.to_vec();
    let mut tokens = vec![Vec::new(); newest.len()];
    for _ in 0..steps {
        let step = cache.decode().unwrap();
        let rows = newest.iter().map(|&id| vec![id]).collect::<Vec<_>>();
        let hidden = model.hidden(ids(&rows, device), cache, &step, policy);
        newest = best_of_rows(model.logits(hidden).squeeze_dim(1));
        for (tokens, &id) in tokens.iter_mut().zip(&newest) {
            tokens.push(id);
        }
    }
    tokens
}

/// Keys, values, digests and the scales of packed digests of what a sequence holds in every layer.
fn contents(cache: &PagedKvCache, sequence: usize) -> Vec<Vec<f32>> {
    let length = cache.lengths()[sequence];
    let device = cache.layer(0).keys().device();
    let pages = cache.pages()[sequence].iter().map(|&p| p as i32);
    let pages = pages.collect::<Vec<_>>();
    let n = pages.len();
    let pages = Tensor::<1, Int>::from_data(TensorData::new(pages, [n]), &device);
    let rows = |pool: &Tensor<4>, rows: usize, kept: usize| {
        let [_, heads, _, head_dim] = pool.dims();
        let pages = pool.clone().select(0, pages.clone()).swap_dims(0, 1);
        let pages = pages.reshape([heads, n * rows, head_dim]);
        floats(pages.slice([0..heads, 0..kept]))
    };
    let layers = (0..cache.n_layers()).map(|layer| {
        let layer = cache.layer(layer);
        let scales = layer.int8_digests().map(|digests| {
            let scales = digests.scales().clone().select(1, pages.clone());
            floats(scales)
        });
        [
            rows(layer.keys(), PAGE_SIZE, length),
            rows(layer.values(), PAGE_SIZE, length),
            rows(layer.digests(), 2, 2 * n),
            scales.unwrap_or_default(),
        ]
    });
    layers.flatten().collect()
}

#[track_caller]
fn assert_same_contents(found: &PagedKvCache, expected: &PagedKvCache, case: &str) {
    assert_eq!(found.lengths(), expected.lengths(), "{case}");
    assert_eq!(found.free_pages(), expected.free_pages(), "{case}: pages");
    for sequence in 0..expected.batch() {
        let pairs = contents(found, sequence)
            .into_iter()
            .zip(contents(expected, sequence));
        for (pool, (found, expected)) in pairs.enumerate() {
            for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
                assert!(
                    (f - e).abs() <= 1e-3 * (1.0 + e.abs()),
                    "{case}: sequence {sequence}, pool {pool}, {i}: {f}, expected {e}"
                );
            }
        }
    }
}

fn graph_config() -> DecodeGraphConfig {
    DecodeGraphConfig::new().with_tokens_per_recording(PER_RECORDING)
}

/// Whether a device records: CubeCL ones do.
fn records(device: &TestDevice) -> bool {
    !matches!(device.name.as_str(), "flex" | "ndarray")
}

fn assert_recorded(graph: &DecodeGraph, device: &TestDevice) {
    println!("{device}: {graph:?}");
    if records(device) {
        assert!(graph.is_hardware(), "{graph:?}");
        assert!(graph.recordings() > STEPS / PER_RECORDING, "{graph:?}");
    }
}

fn assert_tokens_are_those_without_a_recording(prompts: &[Vec<u32>]) {
    for test_device in devices() {
        let device = &test_device.device;
        let model = model(device);
        for (name, policy, digests) in policies() {
            let case = format!("{test_device}, {name}, {digests} digests");
            let policy = policy.as_ref();
            let (mut plain, newest) = prefilled_with(digests, &model, prompts, device);
            let expected = uncaptured(&model, &mut plain, policy, &newest, STEPS, device);

            let (mut cache, newest) = prefilled_with(digests, &model, prompts, device);
            let mut graph =
                decode_graph(&model, &mut cache, policy, &newest, graph_config()).unwrap();
            let mut tokens = vec![Vec::new(); prompts.len()];
            // One by one, then several at a time, more than the device keeps for the host.
            for n in [1, 1, 1, 150, 3, 64, STEPS - 220] {
                for (tokens, new) in tokens.iter_mut().zip(graph.run(n).unwrap()) {
                    assert_eq!(new.len(), n);
                    tokens.extend(new);
                }
            }
            assert_recorded(&graph, &test_device);
            drop(graph);
            for (sequence, (tokens, expected)) in tokens.iter().zip(&expected).enumerate() {
                let distinct = expected.iter().collect::<std::collections::BTreeSet<_>>();
                assert!(distinct.len() > 20, "{case}: {} tokens", distinct.len());
                let differs = tokens.iter().zip(expected).position(|(a, b)| a != b);
                assert_eq!(differs, None, "{case}: sequence {sequence}");
            }
            assert_same_contents(&cache, &plain, &case);
        }
    }
}

#[test]
fn tokens_of_one_sequence_are_those_without_a_recording() {
    let _alone = alone();
    assert_tokens_are_those_without_a_recording(&[prompt(0, PROMPTS[0])]);
}

#[test]
fn tokens_of_a_ragged_batch_are_those_without_a_recording() {
    let _alone = alone();
    let prompts = PROMPTS.iter().enumerate().map(|(i, &n)| prompt(i, n));
    assert_tokens_are_those_without_a_recording(&prompts.collect::<Vec<_>>());
}

#[test]
fn int8_digests_change_nothing_where_the_budget_covers_the_context() {
    let _alone = alone();
    let prompts = [prompt(0, PROMPTS[0]), prompt(1, PROMPTS[2])];
    for test_device in devices() {
        let device = &test_device.device;
        let model = model(device);
        let quest = QuestConfig::kv_group().with_page_size(PAGE_SIZE);
        let policy = quest.with_dense_layers(0).init().unwrap();
        let [full, int8] = DigestFormat::ALL.map(|digests| {
            let (mut cache, newest) = prefilled_with(digests, &model, &prompts, device);
            assert_eq!(
                cache.layer(0).int8_digests().is_some(),
                digests == DigestFormat::Int8
            );
            let config = graph_config();
            let mut graph = decode_graph(&model, &mut cache, &policy, &newest, config).unwrap();
            let tokens = graph.run(40).unwrap();
            (tokens, graph.logits().unwrap())
        });
        assert_eq!(full, int8, "{test_device}");
    }
}

#[test]
fn a_sequence_that_has_ended_stays_as_it_is_while_the_others_go_on() {
    let _alone = alone();
    let prompts = PROMPTS.iter().enumerate().map(|(i, &n)| prompt(i, n));
    let prompts = prompts.collect::<Vec<_>>();
    for test_device in devices() {
        let device = &test_device.device;
        let model = model(device);
        let (mut plain, newest) = prefilled(&model, &prompts, device);
        let expected = uncaptured(&model, &mut plain, &DensePolicy, &newest, 30, device);

        let (mut cache, newest) = prefilled(&model, &prompts, device);
        let mut graph =
            decode_graph(&model, &mut cache, &DensePolicy, &newest, graph_config()).unwrap();
        // Sequence 1 ends where its next token would open a page.
        let first = graph.run(8).unwrap();
        graph.stop(1).unwrap();
        let rest = graph.run(22).unwrap();
        assert_eq!(graph.active(), [true, false, true]);
        assert_eq!(graph.lengths(), [91, 16, 53]);
        assert!(rest[1].is_empty());
        for sequence in [0, 2] {
            let tokens = [&first[sequence][..], &rest[sequence]].concat();
            assert_eq!(tokens, expected[sequence], "{test_device}");
        }
        assert_eq!(first[1], expected[1][..8], "{test_device}");
        graph.stop(0).unwrap();
        graph.stop(2).unwrap();
        let error = graph.step().unwrap_err();
        assert_eq!(
            error.to_string(),
            "KV cache: expected at least one new token, found none"
        );
        assert!(graph.stop(3).is_err());
        drop(graph);
        for sequence in [0, 1, 2] {
            let length = [91, 16, 53][sequence];
            plain.truncate(sequence, length).unwrap();
        }
        assert_same_contents(&cache, &plain, &test_device.name);
    }
}

#[test]
fn tokens_that_are_fed_take_the_place_of_the_most_probable() {
    let _alone = alone();
    for test_device in devices() {
        let device = &test_device.device;
        let model = model(device);
        let prompts = [prompt(0, 20)];
        let (mut plain, newest) = prefilled(&model, &prompts, device);
        let (mut cache, _) = prefilled(&model, &prompts, device);
        let config = DecodeGraphConfig::new().with_tokens_per_recording(5);
        let mut graph = decode_graph(&model, &mut cache, &DensePolicy, &newest, config).unwrap();
        assert_eq!(graph.logits().unwrap(), None);
        let mut token = newest[0];
        for i in 0..13 {
            let step = plain.decode().unwrap();
            let input = ids(&[vec![token]], device);
            let hidden = model.hidden(input, &mut plain, &step, &DensePolicy);
            let expected = floats(model.logits(hidden));
            graph.advance().unwrap();
            let logits = graph.logits().unwrap().unwrap().remove(0);
            for (found, expected) in logits.iter().zip(&expected) {
                let is_close = (found - expected).abs() <= 1e-4 * (1.0 + expected.abs());
                assert!(is_close, "{test_device}, step {i}: {found}, {expected}");
            }
            token = (argmax(&expected) + 1 + i) % VOCAB_SIZE as u32;
            graph.feed(&[token]).unwrap();
        }
        let error = graph.feed(&[VOCAB_SIZE as u32]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tokens: expected ids below the vocabulary size 197, found 197 for sequence 0"
        );
        let error = graph.feed(&[1, 2]).unwrap_err();
        assert!(matches!(error, DecodeError::Tokens { batch: 1, found: 2 }));
        drop(graph);
        assert_same_contents(&cache, &plain, &test_device.name);
    }
}

#[test]
fn a_full_cache_ends_the_steps_with_an_error_and_keeps_what_there_is() {
    let _alone = alone();
    for test_device in devices() {
        let device = &test_device.device;
        let model = model(device);
        let mut cache = config()
            .cache(PAGE_SIZE, 1, 3 * PAGE_SIZE)
            .init(device, DType::F32)
            .unwrap();
        let step = cache.prefill(&[20]).unwrap();
        let input = ids(&[prompt(0, 20)], device);
        model.hidden(input, &mut cache, &step, &DensePolicy);
        let mut graph = decode_graph(
            &model,
            &mut cache,
            &DensePolicy,
            &[7],
            DecodeGraphConfig::new(),
        )
        .unwrap();
        assert_eq!(graph.run(4).unwrap()[0].len(), 4);
        let error = graph.step().unwrap_err();
        assert_eq!(
            error.to_string(),
            "KV cache: expected at most 24 tokens in sequence 0, found 25"
        );
        assert_eq!(graph.lengths(), [24]);
        drop(graph);
        assert_eq!((cache.lengths(), cache.free_pages()), (&[24][..], 0));
    }
}

#[test]
fn logits_without_an_answer_are_an_error_that_names_the_sequence() {
    let _alone = alone();
    for test_device in devices() {
        let device = &test_device.device;
        let mut model = model(device);
        let broken = model.norm.gamma.val() * f32::NAN;
        model.norm.gamma = burn::module::Param::from_tensor(broken);
        let mut cache = config()
            .cache(PAGE_SIZE, 2, 64)
            .init(device, DType::F32)
            .unwrap();
        let mut graph = decode_graph(
            &model,
            &mut cache,
            &DensePolicy,
            &[7, 8],
            DecodeGraphConfig::new(),
        )
        .unwrap();
        let error = graph.step().unwrap_err();
        assert_eq!(
            error.to_string(),
            "logits of sequence 0 after 1 tokens: expected finite numbers or -inf, found none or \
             others"
        );
    }
}

#[test]
fn generated_tokens_do_not_depend_on_a_recording() {
    let _alone = alone();
    let prompt = prompt(2, 40);
    for test_device in devices() {
        let device = &test_device.device;
        let model = model(device);
        let quest = QuestConfig::kv_group()
            .with_page_size(PAGE_SIZE)
            .with_token_budget(48)
            .init()
            .unwrap();
        let generate = |config: GenerationConfig| {
            let mut cache = config_cache(device);
            let generator = Generator::new(&model, &mut cache, &quest, &prompt, config);
            let ids = generator.unwrap().map(Result::unwrap).collect::<Vec<_>>();
            (ids, cache)
        };
        let greedy = GenerationConfig::new().with_max_new_tokens(60);
        let sampled = greedy.clone().with_sampling(
            quest_burn_models::sampling::SamplingConfig::new()
                .with_temperature(0.8)
                .with_top_p(0.95)
                .with_repetition_penalty(1.1)
                .with_seed(3),
        );
        let (all, _) = generate(greedy.clone());
        let stopped = greedy.clone().with_stop_ids(vec![all[33]]);
        for config in [greedy, sampled, stopped] {
            let (expected, plain) = generate(config.clone().with_capture(false));
            let (ids, cache) = generate(config);
            assert_eq!(ids, expected, "{test_device}");
            assert_eq!(cache.lengths(), [40 + ids.len() - 1], "{test_device}");
            assert_same_contents(&cache, &plain, &test_device.name);
        }
    }
}

fn config_cache(device: &Device) -> PagedKvCache {
    config()
        .cache(PAGE_SIZE, 1, 100)
        .init(device, DType::F32)
        .unwrap()
}
