use std::{path::Path, sync::Arc};

use burn::tensor::{DType, Device};
use quest_burn::{
    cache::{DigestStorage, KvStorage},
    digest::DigestKind,
    inference::WeightFormat,
    policy::{PagePolicy, PolicyConfig, PolicyKind, PrefillConfig},
};

use super::LocalModel;
use crate::{
    ModelError,
    activation_sparsity::{ActivationSparsity, Calibration, CalibrationReport, calibrate},
    config::ModelConfig,
    lazy,
    source::CheckpointSource,
    tokenizer::Tokenizer,
    weights::{KeptWeights, LoadProgress, load_for_inference_from},
};

/// A checkpoint of which all but the weights is known: made by [`LocalModel::open`].
#[derive(Clone, Debug)]
pub struct LocalModelBuilder {
    source: Arc<dyn CheckpointSource>,
    config: ModelConfig,
    tokenizer: Option<Tokenizer>,
    policy: Policy,
    prefill: PrefillConfig,
    dtype: Option<DType>,
    weights: WeightFormat,
    activation_sparsity: Option<Arc<ActivationSparsity>>,
    page_size: usize,
    digest: DigestKind,
    digest_storage: DigestStorage,
    kv_storage: KvStorage,
    context: usize,
}

#[derive(Clone, Debug)]
enum Policy {
    Of(Box<PolicyConfig>),
    Custom(Arc<dyn PagePolicy>),
}

impl LocalModelBuilder {
    pub(super) fn of(source: Box<dyn CheckpointSource>) -> Result<Self, ModelError> {
        let config = source.config()?;
        Ok(Self {
            tokenizer: source.tokenizer()?,
            policy: Policy::Of(PolicyConfig::new(PolicyKind::QUEST).into()),
            prefill: PrefillConfig::Dense,
            dtype: None,
            weights: WeightFormat::Stored,
            activation_sparsity: None,
            page_size: LocalModel::PAGE_SIZE,
            digest: DigestKind::default(),
            digest_storage: DigestStorage::Full,
            kv_storage: KvStorage::Full,
            context: config.max_positions,
            source: source.into(),
            config,
        })
    }

    /// What decoded tokens attend to: a [`QuestConfig`](quest_burn::QuestConfig), a [`PolicyKind`]
    /// or a [`PolicyConfig`]; Quest's defaults when not given. Its rotary
    /// embedding is the model's.
    pub fn policy(mut self, policy: impl Into<PolicyConfig>) -> Self {
        self.policy = Policy::Of(Box::new(policy.into()));
        self
    }

    /// The same by a policy of one's own.
    pub fn custom_policy(mut self, policy: Arc<dyn PagePolicy>) -> Self {
        self.policy = Policy::Custom(policy);
        self
    }

    /// What the tokens of prompts attend to; everything before them when not given.
    pub fn prefill(mut self, prefill: PrefillConfig) -> Self {
        self.prefill = prefill;
        self
    }

    /// Element type of weights and KV cache; that of the device when not given, which is f32 unless
    /// the device was configured otherwise.
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// Form of the weights of the layers' projections; as they are stored when not given: blocks of GGUF
    /// files stay where the device multiplies them, and the words of GPTQ and AWQ checkpoints.
    pub fn weights(mut self, weights: WeightFormat) -> Self {
        self.weights = weights;
        self
    }

    /// Skips input channels of the layers' projections in decoded tokens. Weights in blocks are widened for that.
    pub fn activation_sparsity(mut self, sparsity: ActivationSparsity) -> Self {
        self.activation_sparsity = Some(Arc::new(sparsity));
        self
    }

    /// Tokens per page of the KV cache: a power of two from 8 to 128, 16 when not given.
    pub fn page_size(mut self, page_size: usize) -> Self {
        self.page_size = page_size;
        self
    }

    /// What a page's digest keeps of its keys; mean and standard deviation when not given. Quest's
    /// published variants go with [`DigestKind::MinMax`].
    pub fn digest(mut self, digest: DigestKind) -> Self {
        self.digest = digest;
        self
    }

    /// Numbers that the page digests are read in.
    pub fn digest_storage(mut self, storage: DigestStorage) -> Self {
        self.digest_storage = storage;
        self
    }

    /// Numbers that keys and values are kept in.
    pub fn kv_storage(mut self, storage: KvStorage) -> Self {
        self.kv_storage = storage;
        self
    }

    /// Most tokens of a session; as many as the checkpoint is made for when not given.
    pub fn context(mut self, tokens: usize) -> Self {
        self.context = tokens;
        self
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The checkpoint's tokenizer, if it has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// The checkpoint.
    pub fn source(&self) -> &dyn CheckpointSource {
        &*self.source
    }

    /// What stays on a device as it is stored.
    ///
    /// # Errors
    ///
    /// When the names of the tensors cannot be read.
    pub fn kept_weights(&self, device: &Device) -> Result<Option<KeptWeights>, ModelError> {
        match self.loaded_weights() {
            WeightFormat::Stored => KeptWeights::of(&*self.source, &self.config, device),
            _ => Ok(None),
        }
    }

    /// The form in which weights are loaded: what skips channels is made of whole ones.
    pub fn loaded_weights(&self) -> WeightFormat {
        match self.activation_sparsity {
            Some(_) => WeightFormat::Full,
            None => self.weights,
        }
    }

    /// Where the checkpoint is.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Refuses what can be refused before the weights are read.
    ///
    /// # Errors
    ///
    /// When a policy or the cache cannot be made as configured, prompts cannot be read so by the model, or the
    /// context is beyond what the checkpoint is made for.
    pub fn check(&self) -> Result<(), ModelError> {
        self.policy_of_model()?;
        let prefill = self.prefill.validate_for(self.page_size);
        let cache = self.config.cache(self.page_size, 1, 1);
        let cache = cache
            .with_digest(self.digest)
            .with_digest_storage(self.digest_storage)
            .with_kv_storage(self.kv_storage);
        cache.validate().map_err(ModelError::Cache)?;
        prefill.map_err(ModelError::Prefill)?;
        lazy::check(&self.prefill, &self.config).map_err(ModelError::Prefill)?;
        match self.config.max_positions {
            most if self.context > most => Err(ModelError::Context {
                most,
                found: self.context,
            }),
            _ => Ok(()),
        }
    }

    /// Whether the policy frees pages as an answer goes on. Layers with a window have a policy of their own, which keeps
    /// all pages, and a page is of all layers.
    ///
    /// # Errors
    ///
    /// When the policy cannot be made as configured.
    pub fn frees_pages(&self) -> Result<bool, ModelError> {
        let has_windows = self.config.blocks.has_windows(self.config.n_layers);
        Ok(self.policy_of_model()?.frees_pages() && !has_windows)
    }

    /// Reads the weights.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check), and when the weights are not those of the configuration or the
    /// device does not compute in their element type.
    pub fn load(self, device: &Device) -> Result<LocalModel, ModelError> {
        self.load_with(device, &mut |_| ())
    }

    /// The same, and tells how far it has come.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_with(
        self,
        device: &Device,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<LocalModel, ModelError> {
        self.check()?;
        let policy = self.policy_of_model()?;
        let dtype = self.dtype_on(device);
        let kept = self.kept_weights(device)?;
        let loaded = self.loaded_weights();
        let (config, weights) = (self.config, self.weights);
        let sparsity = self.activation_sparsity;
        if let Some(sparsity) = &sparsity {
            sparsity.check(&config, weights, device)?;
        }
        let source = &*self.source;
        let mut model = load_for_inference_from(source, &config, device, dtype, loaded, progress)?;
        if let Some(sparsity) = &sparsity {
            model = sparsity.apply(model, &config, weights)?;
        }
        let model = LocalModel::new(config, model)
            .with_policy(policy)
            .with_prefill(self.prefill)
            .with_weights(weights)
            .with_activation_sparsity(sparsity)
            .with_kept_weights(kept)
            .with_page_size(self.page_size)
            .with_digest(self.digest)
            .with_digest_storage(self.digest_storage)
            .with_kv_storage(self.kv_storage)
            .with_context(self.context);
        Ok(match self.tokenizer {
            Some(tokenizer) => model.with_tokenizer(tokenizer),
            None => model,
        })
    }

    /// Reads the weights and finds which channels decoded tokens can skip; `progress` is told the tokens of the
    /// text that are done.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load) and [`calibrate`](crate::activation_sparsity::calibrate).
    pub fn calibrate(
        self,
        device: &Device,
        ids: &[u32],
        calibration: Calibration,
        progress: &mut dyn FnMut(usize),
    ) -> Result<(ActivationSparsity, CalibrationReport), ModelError> {
        calibration.check(&self.config)?;
        let dtype = self.dtype_on(device);
        let (source, config) = (&*self.source, &self.config);
        let model =
            load_for_inference_from(source, config, device, dtype, self.weights, &mut |_| ())?;
        Ok(calibrate(model, config, ids, calibration, progress)?)
    }

    fn dtype_on(&self, device: &Device) -> DType {
        let of_device = device.settings().float_dtype.into();
        self.dtype.unwrap_or(of_device)
    }

    fn policy_of_model(&self) -> Result<Arc<dyn PagePolicy>, ModelError> {
        match &self.policy {
            Policy::Custom(policy) => Ok(policy.clone()),
            Policy::Of(policy) => {
                // StreamingLLM rotates keys as the model does.
                let rope = Some(self.config.rope.clone());
                let policy = policy.clone().with_rope(rope).init(self.page_size);
                Ok(policy.map_err(ModelError::Policy)?.into())
            }
        }
    }
}
