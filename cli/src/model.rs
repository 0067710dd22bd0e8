//! From the common options to a model that is loaded, and a session with it.

use anyhow::bail;
use burn::tensor::DType;
use indicatif::BinaryBytes;
use quest_burn::PageSharing;
use quest_burn_models::{
    config::ModelConfig,
    generation::GenerateError,
    local::{LocalModel, LocalModelBuilder},
    sampling::SamplingDefaults,
    session::Session,
    weights::KeptWeights,
};

use crate::{
    device::{self, SelectedDevice, value_name},
    failure::Failure,
    folder::ModelFolder,
    memory::{self, Demand, Form, Work},
    options::{ChannelOptions, CommonOptions, ModelOptions, SelectionOptions},
    output::{Progress, Unit},
};

/// A model, before anything heavy happens.
pub(crate) struct ModelPlan<'a> {
    pub folder: ModelFolder,
    pub model: LocalModelBuilder,
    pub options: &'a ModelOptions,
    selection: &'a SelectionOptions,
}

/// A model that can run, and where.
pub(crate) struct LoadedModel {
    pub model: LocalModel,
    pub device: SelectedDevice,
    /// Whether pages become free as an answer goes on.
    frees_pages: bool,
}

impl<'a> ModelPlan<'a> {
    /// Reads everything but the weights. A cache that cannot be made is refused now rather
    /// than once the weights are there.
    pub(crate) fn new(
        options: &'a ModelOptions,
        selection: &'a SelectionOptions,
    ) -> anyhow::Result<Self> {
        if options.prefill_chunk == Some(0) {
            bail!(GenerateError::Chunk);
        }
        let folder = ModelFolder::open(options.folder.as_deref())?;
        let model = (folder.model()?)
            .page_size(selection.page_size())
            .digest(selection.digest())
            .digest_storage(selection.digest_storage)
            .kv_storage(selection.kv_cache)
            .weights(options.weights)
            .prefill(options.prefill.config()?);
        model.check()?;
        Ok(Self {
            folder,
            model,
            options,
            selection,
        })
    }

    /// The model's configuration.
    pub(crate) fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    /// How the checkpoint recommends to choose tokens.
    pub(crate) fn sampling(&self) -> anyhow::Result<SamplingDefaults> {
        Ok(self.model.source().generation()?.sampling)
    }

    /// The device, and the element type to compute in.
    pub(crate) fn device(&self) -> anyhow::Result<(SelectedDevice, DType)> {
        let device = device::select(self.options.device)?;
        let asked = self.options.dtype.map(|name| name.dtype());
        let dtype = device.dtype(asked, self.config().dtype)?;
        Ok((device, dtype))
    }

    /// Loads the weights, once it is known that the device has memory for them, for a cache of
    /// `tokens` tokens and for the work on them.
    pub(crate) fn load(&self, tokens: usize, work: Work) -> Result<LoadedModel, Failure> {
        let (device, dtype) = self.device()?;
        self.load_on(device, dtype, tokens, work)
    }

    /// The same on a device that was chosen already.
    pub(crate) fn load_on(
        &self,
        device: SelectedDevice,
        dtype: DType,
        tokens: usize,
        work: Work,
    ) -> Result<LoadedModel, Failure> {
        self.check_memory(&device, dtype, tokens, work)?;
        let mut progress = None;
        let model = self.model.clone().dtype(dtype);
        let model = model.load_with(&device.device, &mut |load| {
            progress
                .get_or_insert_with(|| Progress::new("loading", Unit::Bytes, load.total_bytes))
                .set(load.bytes);
        });
        drop(progress);
        Ok(LoadedModel {
            model: model.map_err(anyhow::Error::new)?,
            device,
            frees_pages: self.frees_pages()?,
        })
    }

    fn frees_pages(&self) -> anyhow::Result<bool> {
        Ok(self.model.frees_pages()?)
    }

    /// Refuses what the device has no memory for.
    pub(crate) fn check_memory(
        &self,
        device: &SelectedDevice,
        dtype: DType,
        tokens: usize,
        work: Work,
    ) -> anyhow::Result<()> {
        let demand = Demand {
            config: self.config(),
            form: Form {
                dtype,
                weights: self.model.loaded_weights(),
            },
            kept: KeptWeights::of(self.model.source(), self.config(), &device.device)?,
            page_size: self.selection.page_size(),
            digest: self.selection.digest(),
            digest_storage: self.selection.digest_storage,
            kv_storage: self.selection.kv_cache,
            is_lazy: self.options.prefill.is_lazy(),
            frees_pages: self.frees_pages()?,
            tokens,
            work,
        };
        memory::check(&demand, device)
    }
}

impl LoadedModel {
    /// Says on stderr what the model and a cache for `tokens` tokens take.
    pub(crate) fn report(&self, tokens: usize) {
        self.report_held(tokens, tokens);
    }

    /// The same of a cache that holds no more than `held` tokens at once.
    fn report_held(&self, tokens: usize, held: usize) {
        let model = &self.model;
        let bytes = model.cache(1, held).bytes(model.dtype());
        let skipped = model.activation_sparsity().map(|sparsity| {
            let percent = 100.0 * sparsity.sparsity();
            format!(", {percent:.0} % of their channels skipped")
        });
        eprintln!(
            "model: {} parameters in {}{}{} on {}; KV cache: {}{} for {tokens} tokens",
            model.config().n_parameters(),
            model.dtype().name(),
            match model.weights_name() {
                "full" => String::new(),
                format => format!(", projections in {format},"),
            },
            skipped.unwrap_or_default(),
            value_name(self.device.name),
            match model.prefill().lazy().is_some() || self.frees_pages {
                true => "at most ",
                false => "",
            },
            BinaryBytes(bytes),
        );
    }
}

/// What is known before anything heavy happens.
pub(crate) struct Plan<'a> {
    pub options: &'a CommonOptions,
    pub model: ModelPlan<'a>,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(options: &'a CommonOptions) -> anyhow::Result<Self> {
        let mut model = ModelPlan::new(&options.model, &options.policy.selection)?;
        model.model = model.model.policy(options.policy.config());
        // Refused now rather than once the weights are there.
        model.model.check()?;
        Ok(Self { options, model })
    }

    /// The plan for a model that skips channels, if that is asked for.
    pub(crate) fn with_channels(mut self, channels: &ChannelOptions) -> anyhow::Result<Self> {
        let folder = &self.model.folder;
        let checkpoint = folder.is_on_disk().then(|| self.model.model.path());
        if let Some(sparsity) = channels.read(checkpoint)? {
            let (device, _) = self.model.device()?;
            let weights = self.options.model.weights;
            sparsity.check(self.model.config(), weights, &device.device)?;
            self.model.model = self.model.model.activation_sparsity(sparsity);
        }
        Ok(self)
    }

    /// The longest context that is allowed: the one asked for, or the checkpoint's.
    pub(crate) fn max_context(&self) -> anyhow::Result<usize> {
        let max = self.model.config().max_positions;
        match self.options.context {
            Some(asked) if asked > max => {
                bail!("--context: the checkpoint is made for at most {max} tokens, found {asked}")
            }
            Some(asked) => Ok(asked),
            None => Ok(max),
        }
    }

    /// Loads the weights and makes a session: for the context asked for, or for a prompt and an answer. It takes
    /// the cache at once, unless the policy frees pages: what is kept shows as the answer goes on then.
    pub(crate) fn load(
        &self,
        prompt: usize,
        new_tokens: usize,
        work: Work,
    ) -> Result<(Session, SelectedDevice), Failure> {
        let tokens = self.options.context.unwrap_or(prompt + new_tokens);
        let held = self.tokens_held(prompt, tokens)?;
        let loaded = self.model.load(held, work)?;
        loaded.report_held(tokens, held);
        let session = match loaded.frees_pages {
            true => loaded.model.with_context(tokens).session()?,
            false => loaded.model.session_for(tokens)?,
        };
        Ok((session, loaded.device))
    }

    /// Tokens of `tokens` that the cache has room for at once: all of them, unless the policy frees pages. Of such
    /// a policy, the prompt and a budget for every list of every layer, and half as much again, as caches grow by
    /// half.
    fn tokens_held(&self, prompt: usize, tokens: usize) -> anyhow::Result<usize> {
        if !self.model.frees_pages()? {
            return Ok(tokens);
        }
        let (policy, config) = (self.options.policy.config(), self.model.config());
        let page_size = self.options.policy.selection.page_size();
        let lists = match policy.quest.sharing {
            PageSharing::QueryHead => config.n_heads,
            PageSharing::KvHead => config.n_kv_heads,
        };
        // Beside the budget, the page of the newest token.
        let pages = policy.quest.budget_pages(page_size).saturating_add(1);
        let kept = [config.n_layers, lists, page_size]
            .into_iter()
            .fold(pages, usize::saturating_mul)
            .saturating_add(prompt);
        Ok(kept.saturating_add(kept / 2).min(tokens))
    }
}
