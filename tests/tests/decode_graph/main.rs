//! Recorded decode steps: the same tokens as without a recording, and the same cache after them.

mod batches;
mod contents;
mod drafts;
mod endings;
mod generation;
mod kept_choices;
mod sparse;
mod tokens;

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{DType, Device, Int, Tensor, TensorData},
};
use quest_burn::{
    attention::RopeConfig,
    cache::{DigestStorage, KvStorage, PagedKvCache},
    decode::DecodeGraphConfig,
    policy::{DensePolicy, PagePolicy},
};
use quest_burn_models::{
    config::{Architecture, Blocks, ModelConfig},
    model::{CausalLm, LanguageModel},
};
use quest_burn_tests::layer::Randomize;
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
        rms_norm_epsilon: 1e-5,
        rope: RopeConfig::new(),
        blocks: Blocks {
            qkv_bias: true,
            qk_norm: true,
            ..Blocks::default()
        },
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
fn prefilled(
    model: &dyn LanguageModel,
    prompts: &[Vec<u32>],
    device: &Device,
) -> (PagedKvCache, Vec<u32>) {
    let whole = (DigestStorage::Full, KvStorage::Full);
    prefilled_with(whole, model, prompts, device)
}

fn prefilled_with(
    (digests, rows): (DigestStorage, KvStorage),
    model: &dyn LanguageModel,
    prompts: &[Vec<u32>],
    device: &Device,
) -> (PagedKvCache, Vec<u32>) {
    let mut cache = config()
        .cache(PAGE_SIZE, prompts.len(), 61 + STEPS + 1)
        .with_digest_storage(digests)
        .with_kv_storage(rows)
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
    model: &dyn LanguageModel,
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

fn graph_config() -> DecodeGraphConfig {
    DecodeGraphConfig::new().with_tokens_per_recording(PER_RECORDING)
}
