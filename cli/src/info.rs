//! `quest info`

use clap::Args;
use indicatif::{BinaryBytes, HumanCount};
use quest_burn_models::{
    config::{Architecture, ModelConfig},
    weights::KeptForm,
};
use serde::Serialize;

use crate::{
    device::value_name,
    failure::Failure,
    model::Plan,
    options::CommonOptions,
    output::{print_json, print_line},
};

#[derive(Args)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    common: CommonOptions,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Serialize)]
struct Info<'a> {
    architecture: Architecture,
    parameters: u64,
    checkpoint_dtype: Option<String>,
    vocab_size: usize,
    d_model: usize,
    d_ff: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    rope: &'a quest_burn::attention::RopeConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    sliding_window: Option<WindowInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    experts: Option<ExpertsInfo>,
    context: usize,
    device: String,
    dtype: String,
    weights: &'static str,
    weight_bytes: u64,
    kv_cache: KvCacheInfo,
    /// Where compiled kernels are kept, on GPUs.
    #[cfg(feature = "gpu")]
    kernel_cache: Option<crate::kernels::CacheInfo>,
}

/// Layers that see the newest tokens only.
#[derive(Serialize)]
struct WindowInfo {
    tokens: usize,
    layers: usize,
}

/// Layers with feed-forward blocks of which each token goes through some.
#[derive(Serialize)]
struct ExpertsInfo {
    count: usize,
    chosen: usize,
    d_ff: usize,
    layers: usize,
}

#[derive(Serialize)]
struct KvCacheInfo {
    tokens: usize,
    page_size: usize,
    digest: &'static str,
    digests: &'static str,
    /// Numbers of keys and values.
    storage: &'static str,
    key_value_bytes: u64,
    digest_bytes: u64,
    bytes: u64,
}

pub(crate) fn run(args: &InfoArgs) -> Result<(), Failure> {
    let plan = Plan::new(&args.common)?;
    let (device, dtype) = plan.model.device()?;
    let config = plan.model.config();
    let tokens = args.common.context.unwrap_or(config.max_positions);
    let selection = &args.common.policy.selection;
    let page_size = selection.page_size();
    let weights = args.common.model.weights;
    let kept = plan.model.model.kept_weights(&device.device);
    let kept = kept.map_err(anyhow::Error::new)?;
    let weight_bytes = config.weight_bytes(dtype, weights);
    let weight_bytes = weight_bytes.map_err(anyhow::Error::new)?;
    let cache = config.cache(page_size, 1, tokens);
    let cache = selection.with_digests(cache);
    let info = Info {
        architecture: config.architecture,
        parameters: config.n_parameters(),
        checkpoint_dtype: config.dtype.map(|dtype| dtype.name().to_owned()),
        vocab_size: config.vocab_size,
        d_model: config.d_model,
        d_ff: config.d_ff,
        layers: config.n_layers,
        heads: config.n_heads,
        kv_heads: config.n_kv_heads,
        head_dim: config.head_dim,
        rope: &config.rope,
        sliding_window: windows(config),
        experts: experts(config),
        context: config.max_positions,
        device: value_name(device.name),
        weights: match kept.map(|kept| kept.form) {
            Some(form) if form != KeptForm::Half(dtype) => form.name(),
            _ => config.weights_name(weights),
        },
        weight_bytes: kept.map_or(weight_bytes, |kept| kept.weight_bytes(weight_bytes, dtype)),
        dtype: dtype.name().to_owned(),
        kv_cache: KvCacheInfo {
            tokens,
            page_size,
            digest: selection.digest().name(),
            digests: selection.digest_storage.name(),
            storage: selection.kv_cache.name(),
            key_value_bytes: cache.key_value_bytes(dtype),
            digest_bytes: cache.digest_bytes(dtype),
            bytes: cache.bytes(dtype),
        },
        #[cfg(feature = "gpu")]
        kernel_cache: (!device.name.is_cpu()).then(crate::kernels::info),
    };
    if args.json {
        print_json(&info)
    } else {
        print_table(&info, config)
    }
}

fn windows(config: &ModelConfig) -> Option<WindowInfo> {
    let windows = config.blocks.windows.as_ref()?;
    Some(WindowInfo {
        tokens: windows.tokens,
        layers: windows.layers.iter().filter(|has| **has).count(),
    })
}

fn experts(config: &ModelConfig) -> Option<ExpertsInfo> {
    let experts = config.blocks.experts.as_ref()?;
    Some(ExpertsInfo {
        count: experts.count,
        chosen: experts.chosen,
        d_ff: experts.d_ff,
        layers: (0..config.n_layers)
            .filter(|layer| experts.has(*layer))
            .count(),
    })
}

fn print_table(info: &Info, config: &ModelConfig) -> Result<(), Failure> {
    let checkpoint_dtype = info.checkpoint_dtype.as_deref().unwrap_or("not given");
    let cache = &info.kv_cache;
    let windows = info.sliding_window.as_ref().map(|windows| {
        let value = format!("{} tokens, in {} layers", windows.tokens, windows.layers);
        ("sliding window", value)
    });
    let experts = info.experts.as_ref().map(|experts| {
        let ExpertsInfo {
            count,
            chosen,
            d_ff,
            layers,
        } = experts;
        let value = format!("{chosen} of {count}, d_ff {d_ff}, in {layers} layers");
        ("experts", value)
    });
    let lines = [
        ("architecture", format!("{:?}", info.architecture)),
        (
            "parameters",
            format!(
                "{} ({} in {}, projections in {})",
                HumanCount(info.parameters),
                BinaryBytes(info.weight_bytes),
                info.dtype,
                match info.weights {
                    "full" => &info.dtype,
                    format => format,
                }
            ),
        ),
        ("checkpoint dtype", checkpoint_dtype.to_owned()),
        ("vocabulary", info.vocab_size.to_string()),
        ("d_model", info.d_model.to_string()),
        ("d_ff", info.d_ff.to_string()),
        ("layers", info.layers.to_string()),
        ("heads", info.heads.to_string()),
        ("KV heads", info.kv_heads.to_string()),
        ("head dim", info.head_dim.to_string()),
        (
            "RoPE",
            format!(
                "theta {}, scaling {:?}",
                config.rope.theta, config.rope.scaling
            ),
        ),
        ("context", info.context.to_string()),
        (
            "KV cache",
            format!(
                "{} for {} tokens in {}: keys and values ({}) {}, digests ({}) {}",
                BinaryBytes(cache.bytes),
                cache.tokens,
                info.dtype,
                cache.storage,
                BinaryBytes(cache.key_value_bytes),
                cache.digest,
                BinaryBytes(cache.digest_bytes)
            ),
        ),
    ];
    for (name, value) in lines.into_iter().chain(windows).chain(experts) {
        print_line(&format!("{name:<17} {value}"))?;
    }
    #[cfg(feature = "gpu")]
    if let Some(cache) = &info.kernel_cache {
        print_line(&format!("{:<17} {cache}", "kernel cache"))?;
    }
    Ok(())
}
