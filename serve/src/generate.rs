//! One request's way through the engine: prompts in, text out, whole or as a stream.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    answer::{Choice, ChoiceOptions, Delta},
    backend::{Answers, Event, Generate, SubmitError},
    body,
    error::ApiError,
    form::Form,
    grammar::CompiledGrammar,
    request::Generation,
    response::Usage,
    state::State,
};

/// Between two signs of life of a stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A request that is understood.
pub(crate) struct Job {
    pub form: Form,
    pub generation: Generation,
    pub prompts: Vec<Vec<u32>>,
    /// The parameter that prompts came by.
    pub prompt_param: &'static str,
    pub logprobs: Option<usize>,
    /// What answers have to be.
    pub grammar: Option<CompiledGrammar>,
    pub options: ChoiceOptions,
    /// Tokens of an answer where the request does not say.
    pub default_tokens: usize,
    pub arrived: Instant,
}

/// A request that the engine works on.
struct Running {
    job: Job,
    state: Arc<State>,
    answers: Answers,
    deadline: Option<Instant>,
    /// Given back at the end.
    _permit: OwnedSemaphorePermit,
}

/// A permit for a request that is about to be worked on.
pub(crate) fn admit(state: &State) -> Result<OwnedSemaphorePermit, ApiError> {
    if state.is_ending() {
        return Err(ApiError::shutting_down());
    }
    state.requests.clone().try_acquire_owned().map_err(|_| {
        let most = state.config.limits.requests;
        ApiError::busy(
            format!("requests: expected at most {most} at once, found more"),
            1,
        )
    })
}

/// Answers a request.
pub(crate) async fn answer(
    job: Job,
    state: Arc<State>,
    permit: OwnedSemaphorePermit,
) -> Result<Response, ApiError> {
    let answers = submit(&job, &state)?;
    let time = state.config.limits.time;
    let running = Running {
        deadline: time.map(|time| job.arrived + time),
        answers,
        job,
        state,
        _permit: permit,
    };
    match running.job.generation.stream {
        true => Ok(stream(running)),
        false => whole(running).await,
    }
}

/// Hands all prompts to the engine, `n` times each. Nothing runs where one is refused.
fn submit(job: &Job, state: &State) -> Result<Answers, ApiError> {
    let mut answers = Vec::new();
    for prompt in &job.prompts {
        let max_new_tokens = answer_tokens(job, state, prompt.len())?;
        for i in 0..job.generation.n {
            let mut sampling = job.generation.sampling.clone();
            sampling.seed = sampling.seed.wrapping_add(i as u64);
            let request = Generate {
                ids: prompt.clone(),
                max_new_tokens,
                stop_ids: job.options.stop_ids.clone(),
                sampling,
                logprobs: job.logprobs,
                policy: job.generation.policy,
                grammar: job.grammar.clone(),
                watch: job.generation.watch,
            };
            let answer = state.backend.submit(request);
            answers.push(answer.map_err(|error| refused(error, job))?);
        }
    }
    Ok(Answers::new(answers))
}

/// New tokens of an answer at most.
fn answer_tokens(job: &Job, state: &State, prompt: usize) -> Result<usize, ApiError> {
    let limits = &state.config.limits;
    let context = state.model.max_context;
    if prompt == 0 {
        return Err(ApiError::param(
            job.prompt_param,
            "expected a token, found none",
        ));
    }
    let longest = limits.prompt_tokens.min(context.saturating_sub(1));
    if prompt > longest {
        let problem = format!("expected at most {longest} tokens, found {prompt}");
        let error = ApiError::param(job.prompt_param, problem);
        return Err(error.with_code("context_length_exceeded"));
    }
    let room = (context - prompt).min(limits.answer_tokens);
    match job.generation.max_tokens {
        Some(asked) if asked > room => {
            let name = job.generation.max_tokens_param;
            let why = match room < limits.answer_tokens {
                true => format!(" beside a prompt of {prompt} in a context of {context}"),
                false => String::new(),
            };
            let problem = format!("expected at most {room}{why}, found {asked}");
            Err(ApiError::param(name, problem).with_code("context_length_exceeded"))
        }
        Some(asked) => Ok(asked),
        None => Ok(room.min(job.default_tokens)),
    }
}

fn refused(error: SubmitError, job: &Job) -> ApiError {
    match error {
        SubmitError::Invalid { param, message } => {
            ApiError::param(param.unwrap_or(job.prompt_param), message)
        }
        SubmitError::QueueFull(message) => ApiError::busy(message, 2),
        SubmitError::ShuttingDown => ApiError::shutting_down(),
        SubmitError::Failed(message) => ApiError::internal(message),
    }
}

fn choices<'a>(job: &'a Job, state: &'a State) -> Result<Vec<Choice<'a>>, ApiError> {
    let prompts = job.prompts.iter();
    let prompts = prompts.flat_map(|prompt| std::iter::repeat_n(prompt, job.generation.n));
    let choices = prompts.map(|prompt| Choice::new(&*state.text, prompt, &job.options));
    let choices = choices.collect::<Result<Vec<_>, _>>();
    choices.map_err(|error| ApiError::internal(error.to_string()))
}

/// What comes next, within the time that there is.
async fn next(
    answers: &mut Answers,
    deadline: Option<Instant>,
) -> Result<Option<(usize, Option<Event>)>, ApiError> {
    match deadline {
        None => Ok(answers.next().await),
        Some(deadline) => timeout_at(deadline, answers.next()).await.map_err(|_| {
            let message = "the answer took longer than this server allows";
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).with_code("timeout")
        }),
    }
}

/// When tokens came, for the metrics.
struct Clock<'a> {
    state: &'a State,
    arrived: Instant,
    last: Vec<Option<Instant>>,
}

impl<'a> Clock<'a> {
    fn new(job: &Job, state: &'a State) -> Self {
        Self {
            state,
            arrived: job.arrived,
            last: vec![None; job.prompts.len() * job.generation.n],
        }
    }

    fn event(&mut self, index: usize, event: Option<&Event>) {
        if !matches!(event, Some(Event::Token(_))) {
            return;
        }
        let now = Instant::now();
        match self.last[index].replace(now) {
            None => self.state.metrics.first_token(now - self.arrived),
            Some(last) => self.state.metrics.between_tokens(now - last),
        }
    }
}

async fn whole(running: Running) -> Result<Response, ApiError> {
    let Running {
        job,
        state,
        mut answers,
        deadline,
        _permit,
    } = running;
    let mut clock = Clock::new(&job, &state);
    let mut choices = choices(&job, &state)?;
    let mut deltas = vec![Delta::default(); choices.len()];
    let mut usage = Usage::default();
    while let Some((index, event)) = next(&mut answers, deadline).await? {
        clock.event(index, event.as_ref());
        let delta = choices[index].event(event)?;
        let all = &mut deltas[index];
        all.text += &delta.text;
        all.logprobs.extend(delta.logprobs);
        all.calls.extend(delta.calls);
        if let Some(end) = delta.end {
            all.end = Some(end);
            usage.add(end.usage, index % job.generation.n == 0);
            answers.cancel(index);
        }
    }
    Ok(job.form.whole(deltas, job.logprobs.is_some(), usage))
}

fn stream(running: Running) -> Response {
    let (sender, body) = body::channel();
    tokio::spawn(async move {
        if let Err(error) = send(running, &sender).await {
            let error = error.body();
            let text = serde_json::to_string(&error).expect("errors have string keys only");
            // Where nobody reads, nobody is told.
            let _ = sender.send(data(&text)).await;
        }
    });
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Proxies such as nginx would hold the stream back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Sends the parts of a stream. Where nobody reads any more, it ends, and the answers with it.
async fn send(running: Running, sender: &mpsc::Sender<Bytes>) -> Result<(), ApiError> {
    let Running {
        job,
        state,
        mut answers,
        deadline,
        _permit,
    } = running;
    let mut clock = Clock::new(&job, &state);
    let mut choices = choices(&job, &state)?;
    let model = &state.model;
    let with_usage = job.generation.include_usage;
    let mut form = job
        .form
        .stream(job.logprobs.is_some(), with_usage, job.generation.watch);
    let mut usage = Usage::default();

    let pages = match job.generation.watch {
        true => Some(pages(&state, &job.prompts[0]).await?),
        false => None,
    };
    for index in 0..choices.len() {
        if let Some(first) = form.first(index, model, job.prompts[0].len(), pages.as_deref())
            && sender.send(data(&first)).await.is_err()
        {
            return Ok(());
        }
    }
    loop {
        let event = tokio::select! {
            () = sender.closed() => return Ok(()),
            event = timeout(KEEP_ALIVE, next(&mut answers, deadline)) => event,
        };
        let Ok(event) = event else {
            let comment = Bytes::from_static(b": still at it\n\n");
            if sender.send(comment).await.is_err() {
                return Ok(());
            }
            continue;
        };
        let Some((index, event)) = event? else {
            break;
        };
        clock.event(index, event.as_ref());
        let delta = choices[index].event(event)?;
        if let Some(end) = delta.end {
            usage.add(end.usage, index % job.generation.n == 0);
            answers.cancel(index);
        }
        for chunk in form.chunks(index, delta) {
            if sender.send(data(&chunk)).await.is_err() {
                return Ok(());
            }
        }
    }
    for last in form.last(usage).into_iter().chain(["[DONE]".to_owned()]) {
        if sender.send(data(&last)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// An event of a stream.
fn data(text: &str) -> Bytes {
    Bytes::from(format!("data: {text}\n\n"))
}

/// The text of each page of a prompt.
async fn pages(state: &State, prompt: &[u32]) -> Result<Vec<String>, ApiError> {
    let (prompt, size) = (prompt.to_vec(), state.model.page_size);
    let pages = state.with_text(move |text| {
        let mut decoder = text.decoder(&[])?;
        let pages = prompt.chunks(size).map(|ids| {
            let texts = ids.iter().map(|id| decoder.push(*id));
            texts.collect::<Result<String, _>>()
        });
        pages.collect::<Result<Vec<_>, _>>()
    });
    let pages = pages.await?;
    pages.map_err(|error| ApiError::internal(error.to_string()))
}
