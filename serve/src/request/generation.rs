use std::collections::HashMap;

use serde_json::{Value, json};

use super::params::{Params, expected, shown};
use crate::{
    backend::{Policy, Sampling},
    config::{Limits, ModelInfo},
    error::ApiError,
};

/// Stop texts of a request, and characters of one, at most.
const STOPS: usize = 16;
const STOP_CHARS: usize = 1000;
/// Tokens that a request may bias.
const BIASES: usize = 1024;

/// What conversations and completions have in common.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Generation {
    pub max_tokens: Option<usize>,
    /// The parameter that it was given by.
    pub max_tokens_param: &'static str,
    pub stop: Vec<String>,
    pub n: usize,
    pub stream: bool,
    pub include_usage: bool,
    pub sampling: Sampling,
    pub policy: Policy,
    pub watch: bool,
    pub ignore_eos: bool,
}

impl Generation {
    /// Takes the parameters that are this. `names` are those that tokens are limited by.
    pub(crate) fn take(
        params: &mut Params,
        names: &[&'static str],
        model: &ModelInfo,
        limits: &Limits,
    ) -> Result<Self, ApiError> {
        check_model(params, model)?;
        let (max_tokens, max_tokens_param) = max_tokens(params, names)?;
        let seed = params.integer("seed", i64::MIN..=i64::MAX)?;
        let stream = params.boolean("stream")?.unwrap_or(false);
        let (policy, watch) = quest(params)?;
        let most = i64::try_from(limits.answers).unwrap_or(i64::MAX);
        let generation = Self {
            max_tokens,
            max_tokens_param,
            stop: stop(params)?,
            n: params.integer("n", 1..=most)?.unwrap_or(1) as usize,
            stream,
            include_usage: stream_options(params, stream)?,
            sampling: sampling(params, model, seed)?,
            policy,
            watch,
            ignore_eos: params.boolean("ignore_eos")?.unwrap_or(false),
        };
        if watch && !stream {
            let problem = "expected `stream` too, as pages come with their tokens";
            return Err(ApiError::param("quest.watch", problem));
        }
        refuse_others(params)?;
        Ok(generation)
    }
}

/// Refuses a model that is not here.
pub(crate) fn check_model(params: &mut Params, model: &ModelInfo) -> Result<(), ApiError> {
    match params.text("model")? {
        Some(name) if !model.names.contains(&name) => Err(unknown_model(&name, model)),
        _ => Ok(()),
    }
}

/// The error of a model that is not here.
pub(crate) fn unknown_model(name: &str, model: &ModelInfo) -> ApiError {
    let found = shown(&json!(name));
    let names = model.names.join(", ");
    ApiError {
        status: axum::http::StatusCode::NOT_FOUND,
        code: Some("model_not_found"),
        ..ApiError::param("model", format!("expected {names}, found {found}"))
    }
}

fn max_tokens(
    params: &mut Params,
    names: &[&'static str],
) -> Result<(Option<usize>, &'static str), ApiError> {
    let mut found: (Option<usize>, &'static str) = (None, names[0]);
    for name in names {
        let Some(tokens) = params.count(name, 1)? else {
            continue;
        };
        if let (Some(other), other_name) = found
            && other != tokens
        {
            let problem = format!("expected {other} as `{other_name}` says, found {tokens}");
            return Err(ApiError::param(*name, problem));
        }
        found = (Some(tokens), name);
    }
    Ok(found)
}

fn stop(params: &mut Params) -> Result<Vec<String>, ApiError> {
    let values = match params.value("stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(values)) => values,
        Some(value @ Value::String(_)) => vec![value],
        Some(other) => return Err(expected("stop", "a string or an array of strings", &other)),
    };
    if values.len() > STOPS {
        let problem = format!("expected at most {STOPS} strings, found {}", values.len());
        return Err(ApiError::param("stop", problem));
    }
    let texts = values
        .into_iter()
        .enumerate()
        .map(|(i, value)| match value {
            Value::String(text) if text.is_empty() => Err(ApiError::param(
                "stop",
                format!("expected text, found none in string {i}"),
            )),
            Value::String(text) if text.chars().count() > STOP_CHARS => Err(ApiError::param(
                "stop",
                format!("expected at most {STOP_CHARS} characters, found more in string {i}"),
            )),
            Value::String(text) => Ok(text),
            other => Err(expected(&format!("stop[{i}]"), "a string", &other)),
        });
    texts.collect()
}

fn stream_options(params: &mut Params, stream: bool) -> Result<bool, ApiError> {
    let Some(mut options) = params.object("stream_options")? else {
        return Ok(false);
    };
    if !stream {
        let problem = "expected `stream` to be true too";
        return Err(ApiError::param("stream_options", problem));
    }
    let include_usage = options.boolean("include_usage")?.unwrap_or(false);
    options.only("include_obfuscation", &[json!(false)])?;
    options.finish()?;
    Ok(include_usage)
}

fn sampling(
    params: &mut Params,
    model: &ModelInfo,
    seed: Option<i64>,
) -> Result<Sampling, ApiError> {
    let top_k = params.integer("top_k", -1..=i64::from(i32::MAX))?;
    Ok(Sampling {
        temperature: params.number("temperature", 0.0..=2.0)?,
        // Clients write "all" as 0 or -1.
        top_k: top_k.map(|k| usize::try_from(k).unwrap_or(0)),
        top_p: params.positive("top_p", 1.0)?,
        min_p: params.number("min_p", 0.0..=1.0)?,
        repetition_penalty: params.positive("repetition_penalty", 100.0)?,
        presence_penalty: params
            .number("presence_penalty", -2.0..=2.0)?
            .unwrap_or(0.0),
        frequency_penalty: params
            .number("frequency_penalty", -2.0..=2.0)?
            .unwrap_or(0.0),
        bias: bias(params, model)?,
        seed: seed.map_or_else(random, |seed| seed as u64),
    })
}

fn bias(params: &mut Params, model: &ModelInfo) -> Result<Vec<(u32, f64)>, ApiError> {
    let fields = match params.value("logit_bias") {
        None => return Ok(Vec::new()),
        Some(Value::Object(fields)) => fields,
        Some(other) => return Err(expected("logit_bias", "an object", &other)),
    };
    if fields.len() > BIASES {
        let problem = format!("expected at most {BIASES} tokens, found {}", fields.len());
        return Err(ApiError::param("logit_bias", problem));
    }
    let mut biases = HashMap::new();
    for (token, value) in fields {
        let id = token.parse::<u32>().ok();
        let Some(id) = id.filter(|id| (*id as usize) < model.vocab_size) else {
            let what = format!("ids of tokens below {}", model.vocab_size);
            return Err(expected("logit_bias", &what, &json!(token)));
        };
        let bias = value.as_f64().filter(|bias| bias.abs() <= 100.0);
        let Some(bias) = bias else {
            let path = format!("logit_bias.{id}");
            return Err(expected(&path, "a number from -100 to 100", &value));
        };
        biases.insert(id, bias);
    }
    let mut biases = biases.into_iter().collect::<Vec<_>>();
    biases.sort_unstable_by_key(|(id, _)| *id);
    Ok(biases)
}

/// What this server adds to OpenAI's interface.
fn quest(params: &mut Params) -> Result<(Policy, bool), ApiError> {
    let Some(mut quest) = params.object("quest")? else {
        return Ok((Policy::Default, false));
    };
    let token_budget = quest.count("token_budget", 1)?;
    let policy = match quest.text("policy")?.as_deref() {
        None if token_budget.is_some() => Policy::Quest { token_budget },
        None => Policy::Default,
        Some("quest") => Policy::Quest { token_budget },
        Some("dense") if token_budget.is_some() => {
            let problem = "expected none with the policy `dense`, which reads everything";
            return Err(ApiError::param("quest.token_budget", problem));
        }
        Some("dense") => Policy::Dense,
        Some(other) => {
            return Err(expected(
                "quest.policy",
                "`dense` or `quest`",
                &json!(other),
            ));
        }
    };
    let watch = quest.boolean("watch")?.unwrap_or(false);
    quest.finish()?;
    Ok((policy, watch))
}

/// Parameters of OpenAI and of other servers that are taken with their default only.
fn refuse_others(params: &mut Params) -> Result<(), ApiError> {
    // Who asks is of no use here; the name is checked, as every parameter is.
    params.text("user")?;
    params.only("best_of", &[json!(1)])?;
    params.only("store", &[json!(false)])?;
    params.only("metadata", &[json!({})])?;
    params.only("service_tier", &[json!("auto"), json!("default")])?;
    params.only("use_beam_search", &[json!(false)])?;
    params.only("length_penalty", &[json!(1.0), json!(1)])?;
    params.only("min_tokens", &[json!(0)])?;
    params.only("stop_token_ids", &[json!([])])?;
    for name in [
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
    ] {
        params.only(name, &[])?;
    }
    Ok(())
}

/// A seed that nobody knows.
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
