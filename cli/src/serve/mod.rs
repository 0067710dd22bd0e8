//! `quest serve`

mod engine;
mod grammars;
mod options;
mod signals;
mod text;

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, bail};
use clap::Args;
use quest_burn::policy::{PolicyConfig, PolicyKind};
use quest_burn_engine::{Engine, EngineConfig, Policy};
use quest_burn_models::tokenizer::Tokenizer;
use quest_burn_serve::{ModelInfo, Server, ServerConfig};
use tokio::net::TcpListener;

use self::{
    engine::EngineBackend,
    grammars::Grammars,
    options::{AddressOptions, EngineOptions, LimitOptions},
    signals::{Ending, end_with_stdin},
    text::ModelText,
};
use crate::{
    chat::prompt::{Prompter, TemplateOptions},
    failure::Failure,
    memory::Work,
    model::{LoadedModel, Plan},
    options::{CommonOptions, SamplingOptions},
    output::print_line,
};

/// Conversations as long as the context that the KV cache has room for where nothing is said.
const CONTEXTS: usize = 4;
/// A cache that is made smaller, as memory is short, is not made smaller than this.
const LEAST_TOKENS: usize = 4096;

#[derive(Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    common: CommonOptions,
    #[command(flatten)]
    address: AddressOptions,
    #[command(flatten)]
    engine: EngineOptions,
    #[command(flatten)]
    limits: LimitOptions,
    #[command(flatten)]
    template: TemplateOptions,
    #[command(flatten)]
    sampling: SamplingOptions,
}

impl ServeArgs {
    /// What answers attend to where a request says nothing.
    pub(crate) fn policy(&self) -> PolicyConfig {
        self.common.policy.config()
    }
}

pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    if args.address.until_stdin_closes {
        end_with_stdin().map_err(Failure::internal)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(Failure::internal)?;
    let ending = Ending::new(&runtime).map_err(Failure::internal)?;
    args.common.model.prefill.require_dense("serve")?;
    let mut plan = Plan::new(&args.common)?;
    let policy = policy(args)?;
    let config = args.limits.config(args.address.api_keys()?);
    let context = plan.max_context()?;
    args.engine.check()?;
    check_context(args)?;
    let Some(tokenizer) = plan.model.model.tokenizer().cloned() else {
        return Err(anyhow::anyhow!(
            "{}: expected a tokenizer ({}), as requests are text, found none",
            plan.model.model.path().display(),
            Tokenizer::FILE
        )
        .into());
    };
    let prompter = Prompter::find(&plan.model, &args.template)?;
    if prompter.is_none() {
        args.template.refuse("--chat-template")?;
    }
    let chat_stop_ids = prompter
        .as_ref()
        .map(|prompter| prompter.stop_ids().to_vec());
    let sampling = args.sampling.config(plan.model.sampling()?)?;
    sampling.validate().map_err(anyhow::Error::new)?;

    // A port that is taken is refused before the weights are read.
    let listener = runtime.block_on(listen(SocketAddr::new(
        args.address.host,
        args.address.port,
    )))?;

    plan.model.model = plan.model.model.context(context);
    let (loaded, config_of_engine) = load(&plan, args, context)?;
    let pool_tokens = config_of_engine.pool_tokens;
    loaded.report(pool_tokens);
    warn_of_context(args, context, pool_tokens);
    let quest = args.policy().quest;
    let engine = Engine::start(loaded.model, config_of_engine).map_err(anyhow::Error::new)?;
    let stop_ids = engine.model().stop_ids().to_vec();
    let names = [plan.model.folder.name().to_owned()].into_iter();
    let model = ModelInfo {
        names: names.chain(args.address.aliases.iter().cloned()).collect(),
        max_context: context.min(engine.capacity()),
        vocab_size: plan.model.config().vocab_size,
        chat_stop_ids: chat_stop_ids.unwrap_or_else(|| stop_ids.clone()),
        stop_ids,
        page_size: engine.model().page_size(),
        n_layers: plan.model.config().n_layers,
    };
    let grammars = Grammars::new(
        &tokenizer,
        &model,
        prompter.as_ref().and_then(Prompter::call_form),
    );
    let text = ModelText::new(tokenizer, prompter).map_err(anyhow::Error::new)?;
    let backend = EngineBackend {
        engine: engine.clone(),
        sampling,
        policy,
        quest,
        grammars,
    };
    warn(&config, args.address.host);
    let server = Server::new(config, model, Arc::new(text), Arc::new(backend));
    let served = runtime.block_on(serve(server, listener, ending));
    // Answers whose clients are gone are dropped with the runtime.
    drop(runtime);
    engine.shutdown();
    served
}

/// What the engine has for decoded tokens, out of all policies.
fn policy(args: &ServeArgs) -> anyhow::Result<Policy> {
    let config = args.policy();
    match config.kind {
        PolicyKind::QUEST => Ok(Policy::Quest(config.quest)),
        kind if kind.name() == "dense" => Ok(Policy::Dense),
        kind => bail!("--policy: expected dense or quest, found {kind}"),
    }
}

/// Refuses a context that the cache which was asked for has no room for.
fn check_context(args: &ServeArgs) -> anyhow::Result<()> {
    match (args.common.context, args.engine.cache_tokens) {
        (Some(context), Some(tokens)) if context > tokens => {
            bail!("--cache-tokens: expected at least {context}, as --context says, found {tokens}")
        }
        _ => Ok(()),
    }
}

/// Says on stderr that the cache has no room for the whole context.
fn warn_of_context(args: &ServeArgs, context: usize, pool_tokens: usize) {
    if pool_tokens < context {
        let why = match args.engine.cache_tokens {
            Some(_) => "as --cache-tokens says",
            None => "as memory is short",
        };
        eprintln!("warning: the context is {pool_tokens} tokens instead of {context}, {why}");
    }
}

/// Loads the weights for a cache as large as was asked for, or as there is memory for. Decode steps are recorded where
/// there is memory for recordings as well.
fn load(
    plan: &Plan<'_>,
    args: &ServeArgs,
    context: usize,
) -> Result<(LoadedModel, EngineConfig), Failure> {
    let engine = args.engine.config(context);
    let (device, dtype) = plan.model.device()?;
    let config = plan.model.config();
    let is_capturable = config.blocks.is_capturable(config.n_layers);
    let may_record = engine.recording && !device.name.is_cpu() && is_capturable;
    let work = |recordings| Work {
        tokens: engine.step_tokens,
        logits: engine.max_sequences,
        recordings,
    };
    let most = match may_record {
        true => EngineConfig::MAX_RECORDINGS,
        false => 0,
    };
    let fits = |tokens, recordings| {
        plan.model
            .check_memory(&device, dtype, tokens, work(recordings))
            .is_ok()
    };
    let room = |recordings| {
        let mut tokens = context.saturating_mul(CONTEXTS);
        // A context that was asked for is not made smaller.
        let least = args.common.context.unwrap_or(LEAST_TOKENS);
        while tokens > least && !fits(tokens, recordings) {
            tokens = (tokens / 2).max(least);
        }
        tokens
    };
    let asked = args.engine.cache_tokens;
    let with_recordings = asked.unwrap_or_else(|| room(most));
    let is_short = may_record && !fits(with_recordings, most);
    // What recordings would have taken is the cache's then.
    let (tokens, recordings) = match is_short {
        true => (asked.unwrap_or_else(|| room(0)), 0),
        false => (with_recordings, most),
    };
    let loaded = (plan.model).load_on(device, dtype, tokens, work(recordings))?;
    if is_short {
        eprintln!(
            "warning: decode steps are launched kernel by kernel, as there is no memory for recordings beside a \
             KV cache of {tokens} tokens; a smaller one (--cache-tokens) leaves some"
        );
    }
    let engine = args.engine.config(tokens);
    let is_recording = engine.recording && !is_short;
    Ok((loaded, engine.with_recording(is_recording)))
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| {
        format!("--host, --port: expected an address that is free, found {address}")
    })
}

/// Says on stderr what is open to whom.
fn warn(config: &ServerConfig, host: std::net::IpAddr) {
    if config.api_keys.is_empty() && !host.is_loopback() {
        eprintln!("warning: everybody who reaches {host} may ask; --api-key lets in who has a key");
    }
}

/// Serves until a signal comes, then until running answers have ended. The address is on stdout.
async fn serve(server: Server, listener: TcpListener, ending: Ending) -> Result<(), Failure> {
    let address = listener.local_addr().map_err(Failure::internal)?;
    print_line(&format!("http://{address}"))?;
    eprintln!("serving; Ctrl-C or SIGTERM ends it once running answers are done");
    server
        .serve(listener, ending.of_serving())
        .await
        .map_err(Failure::internal)
}
