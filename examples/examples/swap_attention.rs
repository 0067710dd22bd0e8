//! A GPT-2-style model of Burn's own modules that decodes through Quest: three lines of the model
//! change, and what was trained stays.
//!
//! ```text
//! cargo run --release -p quest-burn-examples --example swap_attention
//! ```

use burn::{
    module::Module,
    nn::{
        Embedding, EmbeddingConfig, Gelu, LayerNorm, LayerNormConfig, Linear, LinearConfig,
        attention::{
            MhaInput, MultiHeadAttention, MultiHeadAttentionConfig, generate_autoregressive_mask,
        },
    },
    tensor::{DType, Device, Int, Tensor},
};
use quest_burn::{
    QuestConfig,
    attention::QuestAttention,
    cache::{PagedKvCache, Step},
    policy::{DensePolicy, PagePolicy},
};

const VOCAB_SIZE: usize = 300;
const D_MODEL: usize = 128;
const N_HEADS: usize = 4;
const N_LAYERS: usize = 3;
const CONTEXT: usize = 512;

#[derive(Module, Debug)]
struct Gpt<A> {
    tokens: Embedding,
    positions: Embedding,
    blocks: Vec<Block<A>>,
    norm: LayerNorm,
}

#[derive(Module, Debug)]
struct Block<A> {
    attention_norm: LayerNorm,
    attention: A, // 1. MultiHeadAttention becomes QuestAttention
    mlp_norm: LayerNorm,
    up: Linear,
    down: Linear,
}

impl<A> Block<A> {
    fn mlp(&self, hidden: Tensor<3>) -> Tensor<3> {
        let up = self.up.forward(self.mlp_norm.forward(hidden.clone()));
        hidden + self.down.forward(Gelu::new().forward(up))
    }
}

impl<A> Gpt<A> {
    fn embed(&self, ids: Tensor<2, Int>, positions: Tensor<2, Int>) -> Tensor<3> {
        self.tokens.forward(ids) + self.positions.forward(positions)
    }

    /// The most probable token after the last position; the embedding is the output projection too.
    fn next(&self, hidden: Tensor<3>) -> Tensor<2, Int> {
        let [_, tokens, d_model] = hidden.dims();
        let last = self.norm.forward(hidden.narrow(1, tokens - 1, 1));
        let embedding = self.tokens.weight.val();
        let logits = last.reshape([1, d_model]).matmul(embedding.transpose());
        logits.argmax(1)
    }
}

impl Gpt<MultiHeadAttention> {
    fn new(device: &Device) -> Self {
        let norm = || LayerNormConfig::new(D_MODEL).init(device);
        let block = |_| Block {
            attention_norm: norm(),
            attention: MultiHeadAttentionConfig::new(D_MODEL, N_HEADS)
                .with_dropout(0.0)
                .init(device),
            mlp_norm: norm(),
            up: LinearConfig::new(D_MODEL, 4 * D_MODEL).init(device),
            down: LinearConfig::new(4 * D_MODEL, D_MODEL).init(device),
        };
        Self {
            tokens: EmbeddingConfig::new(VOCAB_SIZE, D_MODEL).init(device),
            positions: EmbeddingConfig::new(CONTEXT, D_MODEL).init(device),
            blocks: (0..N_LAYERS).map(block).collect(),
            norm: norm(),
        }
    }

    /// Without a cache: every step recomputes the whole text.
    fn forward(&self, ids: Tensor<2, Int>) -> Tensor<2, Int> {
        let [_, tokens] = ids.dims();
        let device = ids.device();
        let positions = Tensor::<1, Int>::arange(0..tokens as i64, &device).unsqueeze();
        let mask = generate_autoregressive_mask(1, tokens, &device);
        let mut hidden = self.embed(ids, positions);
        for block in &self.blocks {
            let normed = block.attention_norm.forward(hidden.clone());
            let input = MhaInput::self_attn(normed).mask_attn(mask.clone());
            let attended = block.attention.forward(input).context;
            hidden = block.mlp(hidden + attended);
        }
        self.next(hidden)
    }
}

impl Gpt<QuestAttention> {
    /// Of a step's new tokens alone, the others are in the cache.
    fn forward(
        &self,
        ids: Tensor<2, Int>,
        cache: &mut PagedKvCache,
        step: &Step,
        policy: &dyn PagePolicy,
    ) -> Tensor<2, Int> {
        let mut hidden = self.embed(ids, step.positions().clone()); // 2. the step knows positions
        for (index, block) in self.blocks.iter().enumerate() {
            let normed = block.attention_norm.forward(hidden.clone());
            let layer = cache.layer_mut(index);
            let attended = block.attention.forward_cache(normed, layer, step, policy); // 3.
            hidden = block.mlp(hidden + attended);
        }
        self.next(hidden)
    }
}

impl TryFrom<Gpt<MultiHeadAttention>> for Gpt<QuestAttention> {
    type Error = anyhow::Error;

    fn try_from(trained: Gpt<MultiHeadAttention>) -> anyhow::Result<Self> {
        let block = |block: Block<MultiHeadAttention>| {
            Ok(Block {
                attention_norm: block.attention_norm,
                attention: block.attention.try_into()?,
                mlp_norm: block.mlp_norm,
                up: block.up,
                down: block.down,
            })
        };
        Ok(Self {
            tokens: trained.tokens,
            positions: trained.positions,
            blocks: (trained.blocks.into_iter())
                .map(block)
                .collect::<anyhow::Result<_>>()?,
            norm: trained.norm,
        })
    }
}

fn main() -> anyhow::Result<()> {
    const PROMPT: usize = 400;
    const NEW: usize = 16;
    let device = Device::default();
    let trained = Gpt::new(&device);
    let prompt = Tensor::<1, Int>::arange(0..PROMPT as i64, &device) * 37;
    let prompt = (prompt % VOCAB_SIZE as i32).unsqueeze::<2>();

    let mut ids = prompt.clone();
    for _ in 0..NEW {
        let next = trained.forward(ids.clone());
        ids = Tensor::cat(vec![ids, next], 1);
    }
    let expected = to_vec(ids.narrow(1, PROMPT, NEW))?;

    let quest = Gpt::<QuestAttention>::try_from(trained)?;
    let attention = &quest.blocks[0].attention;
    let config = attention.cache_config(CONTEXT).for_layers(N_LAYERS);
    let budget = QuestConfig::new().with_token_budget(128).init()?;
    for (name, policy) in [
        ("dense", &DensePolicy as &dyn PagePolicy),
        ("quest", &budget),
    ] {
        let mut cache = config.init(&device, DType::F32)?;
        let step = cache.prefill(&[PROMPT])?;
        let mut new = vec![quest.forward(prompt.clone(), &mut cache, &step, policy)];
        while new.len() < NEW {
            let step = cache.decode()?;
            let newest = new[new.len() - 1].clone();
            new.push(quest.forward(newest, &mut cache, &step, policy));
        }
        let found = to_vec(Tensor::cat(new, 1))?;
        let equal = expected.iter().zip(&found).filter(|(a, b)| a == b).count();
        println!("{name}: {equal} of {NEW} tokens are those of the trained model");
        anyhow::ensure!(
            name != "dense" || equal == NEW,
            "expected {expected:?}, found {found:?}"
        );
    }
    Ok(())
}

fn to_vec(ids: Tensor<2, Int>) -> anyhow::Result<Vec<i64>> {
    let ids = ids.try_into_data()?.convert::<i64>();
    Ok(ids.try_to_vec()?)
}
