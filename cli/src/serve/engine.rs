//! The engine, as the server asks for it.

use std::task::{Context, Poll};

use quest_burn::QuestConfig;
use quest_burn_engine::{self as engine, Adjustments, Engine, FinishReason, Request};
use quest_burn_models::sampling::SamplingConfig;
use quest_burn_serve::{
    Answer, Backend, CompiledGrammar, Event, Generate, Grammar, LayerRead, Policy, Sampling, Stats,
    SubmitError, Token, Usage,
};
use tokio::sync::mpsc::UnboundedReceiver;

use super::grammars::{Grammars, mask};

/// An engine with what requests do not have to say.
pub(super) struct EngineBackend {
    pub engine: Engine,
    pub sampling: SamplingConfig,
    pub policy: engine::Policy,
    /// Quest as the options have it, for requests that ask for it.
    pub quest: QuestConfig,
    pub grammars: Grammars,
}

impl EngineBackend {
    fn policy(&self, policy: Policy) -> engine::Policy {
        match policy {
            Policy::Default => self.policy.clone(),
            Policy::Dense => engine::Policy::Dense,
            Policy::Quest { token_budget } => {
                let budget = token_budget.unwrap_or(self.quest.token_budget);
                engine::Policy::Quest(self.quest.clone().with_token_budget(budget))
            }
        }
    }

    fn sampling(&self, asked: &Sampling) -> SamplingConfig {
        let base = match asked.temperature {
            // Nothing is drawn, so there is nothing to filter.
            Some(0.0) => {
                SamplingConfig::new().with_repetition_penalty(self.sampling.repetition_penalty)
            }
            _ => self.sampling.clone(),
        };
        SamplingConfig {
            temperature: asked.temperature.unwrap_or(base.temperature),
            top_k: match asked.top_k {
                None => base.top_k,
                Some(k) => Some(k).filter(|k| *k > 0),
            },
            top_p: asked.top_p.unwrap_or(base.top_p),
            min_p: asked.min_p.unwrap_or(base.min_p),
            repetition_penalty: asked.repetition_penalty.unwrap_or(base.repetition_penalty),
            seed: asked.seed,
        }
    }
}

impl Backend for EngineBackend {
    fn submit(&self, request: Generate) -> Result<Box<dyn Answer>, SubmitError> {
        let sampling = self.sampling(&request.sampling);
        let bias = request.sampling.bias.iter();
        let adjustments = Adjustments {
            presence_penalty: request.sampling.presence_penalty as f32,
            frequency_penalty: request.sampling.frequency_penalty as f32,
            bias: bias.map(|&(id, bias)| (id, bias as f32)).collect(),
        };
        let request = Request::new(request.ids, request.max_new_tokens)
            .with_stop_ids(request.stop_ids)
            .with_sampling(sampling)
            .with_adjustments(adjustments)
            .with_logprobs(request.logprobs)
            .with_policy(self.policy(request.policy))
            .with_mask(request.grammar.as_ref().and_then(mask))
            .with_watch(request.watch);
        let answer = self.engine.submit(request).map_err(refused)?;
        Ok(Box::new(EngineAnswer(answer.into_receiver())))
    }

    fn compile(&self, grammar: &Grammar) -> Result<CompiledGrammar, String> {
        self.grammars.compile(grammar)
    }

    fn stats(&self) -> Stats {
        let stats = self.engine.stats();
        Stats {
            running: stats.running,
            waiting: stats.waiting,
            pages: stats.pages,
            used_pages: stats.used_pages(),
            cached_pages: stats.cached_pages,
            steps: stats.steps,
            recorded_steps: stats.recorded_steps,
            plain_steps: stats.plain_steps,
            prompt_tokens: stats.prompt_tokens,
            cached_tokens: stats.cached_tokens,
            new_tokens: stats.new_tokens,
            finished: stats.finished,
            cancelled: stats.cancelled,
            failed: stats.failed,
            preemptions: stats.preemptions,
        }
    }

    fn is_running(&self) -> bool {
        self.engine.is_running()
    }
}

fn refused(error: engine::SubmitError) -> SubmitError {
    use engine::SubmitError as E;

    let message = error.to_string();
    let invalid = |param| SubmitError::Invalid {
        param,
        message: message.clone(),
    };
    match error {
        E::Request(_) | E::NotFinite { .. } => invalid(None),
        E::Policy(_) => invalid(Some("quest.token_budget")),
        E::Capacity { .. } => invalid(Some("max_tokens")),
        E::QueueFull { .. } => SubmitError::QueueFull(message),
        E::ShuttingDown => SubmitError::ShuttingDown,
        _ => SubmitError::Failed(message),
    }
}

struct EngineAnswer(UnboundedReceiver<engine::Event>);

impl Answer for EngineAnswer {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll_recv(context).map(|event| event.map(translated))
    }
}

fn translated(event: engine::Event) -> Event {
    match event {
        engine::Event::Token(token) => Event::Token(Token {
            id: token.id,
            logprob: token.logprob,
            top: token.top,
            reads: {
                let reads = token.reads.into_iter();
                let reads = reads.map(|read| LayerRead {
                    layer: read.layer,
                    pages: read.pages,
                });
                reads.collect()
            },
        }),
        engine::Event::Finished { reason, usage } => Event::Finished {
            is_stop: reason == FinishReason::Stop,
            usage: Usage {
                prompt_tokens: usage.prompt_tokens,
                cached_tokens: usage.cached_tokens,
                new_tokens: usage.new_tokens,
            },
        },
        engine::Event::Failed { error } => match error.strip_prefix("grammar: ") {
            Some(problem) => Event::GrammarFailed(problem.to_owned()),
            None => Event::Failed(error),
        },
    }
}
