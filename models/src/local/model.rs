use std::{path::Path, sync::Arc};

use burn::tensor::{DType, Device};
use quest_burn::{
    cache::{DigestStorage, KvStorage, PagedKvCacheConfig},
    digest::DigestKind,
    inference::WeightFormat,
    policy::{DensePolicy, PagePolicy, PrefillConfig},
};

use super::LocalModelBuilder;
#[cfg(feature = "grammar")]
use crate::grammar::{GrammarCompiler, GrammarError};
use crate::{
    ModelError,
    activation_sparsity::ActivationSparsity,
    config::ModelConfig,
    generation::GenerateError,
    model::LanguageModel,
    session::Session,
    source::{self, CheckpointSource},
    tokenizer::Tokenizer,
    weights::{KeptForm, KeptWeights},
};

/// A model that is ready to run, with all that is known of it. Clones share its weights.
///
/// ```
/// use burn::tensor::Device;
/// use quest_burn::QuestConfig;
/// use quest_burn_models::{generation::GenerationConfig, local::LocalModel};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/quest-passkey");
/// let device = Device::default();
/// let model = LocalModel::open(path)?.policy(QuestConfig::new()).load(&device)?;
/// let mut session = model.session()?;
/// for text in session.generate("The grass is", GenerationConfig::new().with_max_new_tokens(8))? {
///     print!("{}", text?);
/// }
/// # assert_eq!(session.ids().len() - 8, model.tokenizer().unwrap().encode("The grass is")?.len());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct LocalModel {
    model: Arc<dyn LanguageModel>,
    config: Arc<ModelConfig>,
    tokenizer: Option<Arc<Tokenizer>>,
    policy: Arc<dyn PagePolicy>,
    prefill: PrefillConfig,
    weights: WeightFormat,
    activation_sparsity: Option<Arc<ActivationSparsity>>,
    kept: Option<KeptWeights>,
    page_size: usize,
    digest: DigestKind,
    digest_storage: DigestStorage,
    kv_storage: KvStorage,
    context: usize,
}

impl LocalModel {
    /// Tokens per page where nothing else is asked for.
    pub const PAGE_SIZE: usize = PagedKvCacheConfig::PAGE_SIZE;

    /// Reads what a checkpoint's folder holds beside the weights.
    ///
    /// # Errors
    ///
    /// When it is not a folder with a model of the supported architectures, or its tokenizer cannot
    /// be read. A folder without a tokenizer is a model of token ids.
    pub fn open(path: impl AsRef<Path>) -> Result<LocalModelBuilder, ModelError> {
        Self::of_source(source::open(path.as_ref())?)
    }

    /// The same of a checkpoint that was opened already, or is in no file.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn of_source(source: Box<dyn CheckpointSource>) -> Result<LocalModelBuilder, ModelError> {
        LocalModelBuilder::of(source)
    }

    /// A model that was made or loaded otherwise: dense, without a tokenizer.
    pub fn new(config: ModelConfig, model: impl LanguageModel + 'static) -> Self {
        Self {
            model: Arc::new(model),
            context: config.max_positions,
            config: Arc::new(config),
            tokenizer: None,
            policy: Arc::new(DensePolicy),
            prefill: PrefillConfig::Dense,
            weights: WeightFormat::Full,
            activation_sparsity: None,
            kept: None,
            page_size: Self::PAGE_SIZE,
            digest: DigestKind::default(),
            digest_storage: DigestStorage::Full,
            kv_storage: KvStorage::Full,
        }
    }

    /// The same model with a tokenizer.
    pub fn with_tokenizer(mut self, tokenizer: Tokenizer) -> Self {
        self.tokenizer = Some(Arc::new(tokenizer));
        self
    }

    /// The same model, whose sessions begin with this policy.
    pub fn with_policy(mut self, policy: Arc<dyn PagePolicy>) -> Self {
        self.policy = policy;
        self
    }

    /// The same model, the prompts of whose sessions attend to this.
    pub fn with_prefill(mut self, prefill: PrefillConfig) -> Self {
        self.prefill = prefill;
        self
    }

    /// The same model, whose projections are said to have this form.
    pub fn with_weights(mut self, weights: WeightFormat) -> Self {
        self.weights = weights;
        self
    }

    /// The same model, whose projections are said to skip these channels.
    pub fn with_activation_sparsity(mut self, sparsity: Option<Arc<ActivationSparsity>>) -> Self {
        self.activation_sparsity = sparsity;
        self
    }

    /// The same model, of whose weights these are said to be as they are stored.
    pub fn with_kept_weights(mut self, kept: Option<KeptWeights>) -> Self {
        self.kept = kept;
        self
    }

    /// The same model, whose sessions have pages of so many tokens.
    pub fn with_page_size(mut self, page_size: usize) -> Self {
        self.page_size = page_size;
        self
    }

    /// The same model, whose sessions have digests of this kind.
    pub fn with_digest(mut self, digest: DigestKind) -> Self {
        self.digest = digest;
        self
    }

    /// The same model, whose sessions read digests in these numbers.
    pub fn with_digest_storage(mut self, storage: DigestStorage) -> Self {
        self.digest_storage = storage;
        self
    }

    /// The same model, whose sessions keep keys and values in these numbers.
    pub fn with_kv_storage(mut self, storage: KvStorage) -> Self {
        self.kv_storage = storage;
        self
    }

    /// The same model, whose sessions hold at most so many tokens.
    pub fn with_context(mut self, tokens: usize) -> Self {
        self.context = tokens;
        self
    }

    /// A session that takes memory as it grows, up to the [context](Self::context).
    ///
    /// # Errors
    ///
    /// When its cache cannot be made with this page size and form of digests, or prompts cannot be read as was
    /// asked for.
    pub fn session(&self) -> Result<Session, GenerateError> {
        Session::growing(self)
    }

    /// A session with room for `tokens` tokens, which it takes at once.
    ///
    /// # Errors
    ///
    /// As [`session`](Self::session), and when the sizes are beyond what can be addressed.
    pub fn session_for(&self, tokens: usize) -> Result<Session, GenerateError> {
        Session::with_cache(self, &self.cache(1, tokens))
    }

    /// A KV cache for `tokens` tokens in each of `batch` sequences.
    pub fn cache(&self, batch: usize, tokens: usize) -> PagedKvCacheConfig {
        let cache = self.config.cache(self.page_size, batch, tokens);
        cache
            .with_digest(self.digest)
            .with_digest_storage(self.digest_storage)
            .with_kv_storage(self.kv_storage)
    }

    /// The model itself.
    pub fn model(&self) -> &dyn LanguageModel {
        &*self.model
    }

    /// The same, shared with whoever asks.
    pub fn shared_model(&self) -> Arc<dyn LanguageModel> {
        Arc::clone(&self.model)
    }

    /// Its configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Its tokenizer; a model of token ids has none.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_deref()
    }

    /// A compiler of grammars that answers are to follow, with the model's stop tokens. It reads the whole
    /// vocabulary, so one should serve all grammars.
    ///
    /// # Errors
    ///
    /// When the model has no tokenizer, or the bytes of its tokens cannot be told.
    #[cfg(feature = "grammar")]
    pub fn grammar_compiler(&self) -> Result<GrammarCompiler, GrammarError> {
        let tokenizer = self.tokenizer().ok_or(GrammarError::NoTokenizer)?;
        GrammarCompiler::new(tokenizer, self.model.vocab_size(), self.stop_ids())
    }

    /// Tokens that end a text.
    pub fn stop_ids(&self) -> &[u32] {
        &self.config.stop_token_ids
    }

    /// What the decoded tokens of new sessions attend to.
    pub fn policy(&self) -> &Arc<dyn PagePolicy> {
        &self.policy
    }

    /// What the prompts of new sessions attend to.
    pub fn prefill(&self) -> &PrefillConfig {
        &self.prefill
    }

    /// Where the model is.
    pub fn device(&self) -> Device {
        self.model.device()
    }

    /// Element type that is computed in, and of the KV cache.
    pub fn dtype(&self) -> DType {
        self.model.dtype()
    }

    /// The form of the projections' weights that was asked for.
    pub fn weights(&self) -> WeightFormat {
        self.weights
    }

    /// Which channels of the projections' inputs decoded tokens skip.
    pub fn activation_sparsity(&self) -> Option<&ActivationSparsity> {
        self.activation_sparsity.as_deref()
    }

    /// The name of the form that the projections' weights have.
    pub fn weights_name(&self) -> &'static str {
        match self.kept.map(|kept| kept.form) {
            Some(form) if form != KeptForm::Half(self.dtype()) => form.name(),
            _ => self.config.weights_name(self.weights),
        }
    }

    /// Element type of the embedding.
    pub fn embedding_dtype(&self) -> DType {
        let kept = self.kept.and_then(|kept| kept.embedding);
        kept.unwrap_or_else(|| self.dtype())
    }

    /// Whether the projection to logits has the blocks of a tied embedding, which is read a row at a time then.
    pub fn has_tied_head(&self) -> bool {
        self.kept.is_some_and(|kept| kept.has_tied_head)
    }

    /// Bytes of the weights.
    ///
    /// # Errors
    ///
    /// When the form of the weights does not fit the model's shape.
    pub fn weight_bytes(&self) -> Result<u64, ModelError> {
        let bytes = self.config.weight_bytes(self.dtype(), self.weights)?;
        let kept = self.kept;
        Ok(kept.map_or(bytes, |kept| kept.weight_bytes(bytes, self.dtype())))
    }

    /// Tokens per page of new sessions.
    pub fn page_size(&self) -> usize {
        self.page_size
    }

    /// What the page digests of new sessions keep.
    pub fn digest(&self) -> DigestKind {
        self.digest
    }

    /// Numbers that new sessions read the page digests in.
    pub fn digest_storage(&self) -> DigestStorage {
        self.digest_storage
    }

    /// Numbers that new sessions keep keys and values in.
    pub fn kv_storage(&self) -> KvStorage {
        self.kv_storage
    }

    /// Most tokens of a session.
    pub fn context(&self) -> usize {
        self.context
    }
}
