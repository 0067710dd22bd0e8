use burn::tensor::DType;
use indicatif::BinaryBytes;
use quest_burn::{
    cache::{DigestStorage, KvStorage, PagedKvCacheConfig},
    digest::DigestKind,
    inference::WeightFormat,
};
use quest_burn_models::{
    config::ModelConfig,
    weights::{KeptForm, KeptWeights},
};

/// What a tokenizer, buffers of threads and the like take: 31 MiB with the model that ships.
const PROGRAM: u64 = 32 << 20;

/// What a model at work takes.
#[derive(Clone, Debug)]
pub(crate) struct Demand<'a> {
    pub config: &'a ModelConfig,
    pub form: Form,
    /// What stays as it is stored where weights are [stored](WeightFormat::Stored).
    pub kept: Option<KeptWeights>,
    pub page_size: usize,
    pub digest: DigestKind,
    pub digest_storage: DigestStorage,
    pub kv_storage: KvStorage,
    /// Whether tokens of prompts leave on their way through the layers.
    pub is_lazy: bool,
    /// Whether a context may be longer than what the cache holds at once.
    pub frees_pages: bool,
    /// Tokens that the cache has room for.
    pub tokens: usize,
    pub work: Work,
}

/// What a recording of a decode step takes whatever the model: a block of small tensors, which CubeCL keeps apart (8 MiB),
/// and the sums of attention's splits, a few rows for each cube that the device runs at once.
pub(super) const PER_RECORDING: u64 = 24 << 20;
/// What CubeCL adds to the size of a block.
pub(super) const BLOCK_SLACK: u64 = 2 << 20;

/// What a user can choose about a model's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    pub dtype: DType,
    pub weights: WeightFormat,
}

/// What goes through the model at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub tokens: usize,
    /// Tokens of these that logits are computed for.
    pub logits: usize,
    /// Recordings of decode steps, of up to as many sequences as there are logits.
    pub recordings: usize,
}

impl Work {
    /// Prefill in chunks, of which the last token alone is continued.
    pub(crate) fn chunk(tokens: usize) -> Self {
        Self {
            tokens,
            logits: 1,
            recordings: 0,
        }
    }
}

impl Demand<'_> {
    /// Bytes of everything; the largest number where they cannot be counted.
    pub(crate) fn bytes(&self, form: Form, tokens: usize) -> u64 {
        self.weight_bytes(form)
            .saturating_add(self.cache_bytes(form, tokens))
            .saturating_add(self.work_bytes(form, tokens))
            .saturating_add(self.recordings_bytes(form, tokens))
    }

    /// The parts in words.
    pub(crate) fn parts(&self) -> String {
        let form = self.form;
        let dtype = form.dtype.name();
        let rows = match self.kv_storage {
            KvStorage::Full => dtype,
            KvStorage::Int8 => self.kv_storage.name(),
        };
        let kept = self.kept_of(form).map(|kept| kept.form);
        let weights = match (kept, self.config.weights_name(form.weights)) {
            (Some(KeptForm::Blocks(format)), _) => format!("{format} blocks"),
            (Some(KeptForm::Half(half)), _) => half.name().to_owned(),
            (None, "full") => dtype.to_owned(),
            (None, format) => format.to_owned(),
        };
        let recordings = match self.work.recordings {
            0 => String::new(),
            n => {
                let bytes = self.recordings_bytes(form, self.tokens);
                format!(", {n} recordings of decode steps {}", BinaryBytes(bytes))
            }
        };
        format!(
            "weights {} in {weights}, KV cache {} in {rows} for {} tokens{}, work space {}{recordings}",
            BinaryBytes(self.weight_bytes(form)),
            BinaryBytes(self.cache_bytes(form, self.tokens)),
            self.tokens,
            match self.frees_pages {
                true => " at once",
                false => "",
            },
            BinaryBytes(self.work_bytes(form, self.tokens)),
        )
    }

    /// Bytes of the files of the weights, which are mapped while they are read.
    pub(crate) fn mapped_bytes(&self) -> u64 {
        self.weight_bytes(Form {
            dtype: self.config.dtype.unwrap_or(self.form.dtype),
            weights: WeightFormat::Full,
        })
    }

    /// The most tokens of whole pages that fit, no more than the model's context has.
    pub(crate) fn longest(&self, fits: &dyn Fn(usize) -> bool) -> Option<usize> {
        let pages = self.config.max_positions / self.page_size;
        let (mut fitting, mut beyond) = (0, pages + 1);
        while fitting + 1 < beyond {
            let middle = fitting + (beyond - fitting) / 2;
            match fits(middle * self.page_size) {
                true => fitting = middle,
                false => beyond = middle,
            }
        }
        (fitting > 0).then_some(fitting * self.page_size)
    }

    fn weight_bytes(&self, form: Form) -> u64 {
        let bytes = self.config.weight_bytes(form.dtype, form.weights);
        // A form that the weights cannot have fits nowhere.
        let bytes = bytes.unwrap_or(u64::MAX);
        let kept = self.kept_of(form);
        kept.map_or(bytes, |kept| kept.weight_bytes(bytes, form.dtype))
    }

    fn kept_of(&self, form: Form) -> Option<KeptWeights> {
        self.kept.filter(|_| form.weights == WeightFormat::Stored)
    }

    fn cache_bytes(&self, form: Form, tokens: usize) -> u64 {
        self.cache(tokens).bytes(form.dtype)
    }

    fn cache(&self, tokens: usize) -> PagedKvCacheConfig {
        let cache = self.config.cache(self.page_size, 1, tokens);
        cache
            .with_digest(self.digest)
            .with_digest_storage(self.digest_storage)
            .with_kv_storage(self.kv_storage)
    }

    /// The work on hidden states or, before it, the copy that Burn makes of a tensor where zeros do
    /// not lie as it wants them: the keys or the values of a layer. And what the program takes
    /// besides.
    fn work_bytes(&self, form: Form, tokens: usize) -> u64 {
        let copy = self.layer_keys_bytes(form, tokens);
        let hidden = self.hidden_bytes(form, tokens);
        let hidden = hidden
            .saturating_add(self.window_bytes(tokens))
            .saturating_add(self.widened_bytes(form, tokens))
            .saturating_add(self.lazy_bytes(form, tokens));
        hidden.max(copy).saturating_add(PROGRAM)
    }

    /// The keys or the values of a layer.
    fn layer_keys_bytes(&self, form: Form, tokens: usize) -> u64 {
        let tensors = 2 * self.config.n_layers.max(1) as u64;
        self.cache(tokens).key_value_bytes(form.dtype) / tensors
    }

    /// What recordings keep, if all are of the largest bucket: the memory that their step was at work in, in whole blocks of
    /// CubeCL's allocator, as nothing else is put into a block that a recording uses. A block is as large as the largest
    /// tensor that there was: the keys of a layer, logits, or what a prompt's feed-forward block makes. The step has
    /// hidden states and logits as any other, and scores of pages with what is chosen of them. It is reckoned, not measured.
    fn recordings_bytes(&self, form: Form, tokens: usize) -> u64 {
        if self.work.recordings == 0 {
            return 0;
        }
        let config = self.config;
        let sequences = self.work.logits.checked_next_power_of_two();
        let sequences = sequences.unwrap_or(usize::MAX);
        let product = |factors: [usize; 4]| {
            let factors = factors.into_iter().map(|n| n as u64);
            factors.fold(1, u64::saturating_mul)
        };
        let pages = tokens.min(config.max_positions).div_ceil(self.page_size);
        let scores = product([2 * size_of::<f32>(), sequences, config.n_heads, pages]);
        let step = Self {
            work: Work {
                tokens: sequences,
                logits: sequences,
                recordings: 0,
            },
            ..self.clone()
        };
        let step = step.hidden_bytes(form, tokens).saturating_add(scores);
        let prompt = product([2, config.d_ff, self.work.tokens, form.dtype.size()]);
        let logits = product([size_of::<f32>(), sequences, config.vocab_size, 1]);
        let largest = self.layer_keys_bytes(form, tokens).max(prompt).max(logits);
        let block = largest.saturating_add(BLOCK_SLACK);
        let blocks = step.div_ceil(block).saturating_mul(block);
        (self.work.recordings as u64).saturating_mul(blocks.saturating_add(PER_RECORDING))
    }

    /// Keys and values of a layer that a prompt's attention takes widened on GPUs.
    fn widened_bytes(&self, form: Form, tokens: usize) -> u64 {
        let whole = self.cache(tokens).with_kv_storage(KvStorage::Full);
        match self.kv_storage {
            KvStorage::Full => 0,
            KvStorage::Int8 => {
                whole.key_value_bytes(form.dtype) / self.config.n_layers.max(1) as u64
            }
        }
    }

    /// Hidden states of a whole prompt where tokens leave: as they come into a stage, out of it chunk by chunk, and
    /// what is kept of those that left.
    fn lazy_bytes(&self, form: Form, tokens: usize) -> u64 {
        if !self.is_lazy {
            return 0;
        }
        (self.config.d_model.saturating_mul(6) as u64)
            .saturating_mul(tokens as u64)
            .saturating_mul(form.dtype.size() as u64)
    }

    /// Scores of a block of tokens in a sliding window, masked, and as weights: in f32, by tensor
    /// operations on every device.
    fn window_bytes(&self, tokens: usize) -> u64 {
        const QUERY_TOKENS: usize = 512;
        const KEY_TOKENS: usize = 1024;
        let Some(windows) = &self.config.blocks.windows else {
            return 0;
        };
        if tokens <= windows.tokens {
            return 0;
        }
        let scores = QUERY_TOKENS.min(self.work.tokens) * KEY_TOKENS.min(tokens);
        (self.config.n_heads as u64)
            .saturating_mul(scores as u64)
            .saturating_mul(4 * size_of::<f32>() as u64)
    }

    /// Hidden states of the tokens that are at work (as they came into a layer, normed and added
    /// to), with what either block of the layer makes of them: queries, keys and values before and
    /// after their rotation, or the feed-forward block's two halves, as one and activated. And
    /// logits, of which the softmax makes another copy.
    fn hidden_bytes(&self, form: Form, tokens: usize) -> u64 {
        let config = self.config;
        let (n, logits) = (self.work.tokens.min(tokens), self.work.logits.min(tokens));
        let heads = config.n_heads.saturating_add(2 * config.n_kv_heads);
        let projected = heads.saturating_mul(config.head_dim);
        let block = (projected.saturating_mul(3)).max(config.d_ff.saturating_mul(4));
        let channels = config.d_model.saturating_mul(3).saturating_add(block);
        let hidden = (channels as u64)
            .saturating_mul(n as u64)
            .saturating_mul(form.dtype.size() as u64);
        let logits = (config.vocab_size as u64)
            .saturating_mul(logits as u64)
            .saturating_mul(2 * size_of::<f32>() as u64);
        hidden.saturating_add(logits)
    }
}
